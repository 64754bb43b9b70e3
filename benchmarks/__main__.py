"""Measure the time that the trainer saves: python -m benchmarks

Our code and the plain code run in turn on random weights; the results are medians of five. The sizes are those of the
demo (whisper-tiny, SmolLM2-135M); a batch has 16 clips of 3 s. Absolute times depend on the machine and its load. The
ratios are the result.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.results_file import median_and_runs, recorded
from train.losses import response_kl
from train.model import SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.inputs import sequences

ROUNDS = 5
BATCH, FRAMES, RESPONSE = 16, 300, 24
WHISPER_TINY = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
SMOLLM2_135M = LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
)


def ratio(name: str, ours: Callable[[], object], plain: Callable[[], object]) -> dict[str, Any]:
    """Time both in turn; print and return their seconds and the ratio of plain to ours."""
    ours(), plain()  # the first run of each also allocates memory and compiles kernels
    times = [(_timed(ours), _timed(plain)) for _ in range(ROUNDS)]
    mine, other = zip(*times, strict=True)
    figures = median_and_runs("ours_s", mine) | median_and_runs("plain_s", other)
    ours_s, plain_s = figures["ours_s"], figures["plain_s"]
    print(f"{name:<58} {ours_s * 1000:7.0f} ms {plain_s * 1000:7.0f} ms   x{plain_s / ours_s:.2f}", flush=True)
    return figures | {"plain_over_ours": plain_s / ours_s}


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def plain_kl(student: Tensor, teacher: Tensor, matrix: Tensor, temperature: float) -> Tensor:
    """Return the KL from the logits of all rows, with autograd."""
    p = functional.log_softmax(teacher @ matrix.T / temperature, dim=-1)
    q = functional.log_softmax(student @ matrix.T / temperature, dim=-1)
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)


def measure(figures: dict[str, Any]) -> None:
    """Measure all ratios and put them into `figures`."""
    torch.manual_seed(0)
    whisper = WhisperEncoder(WHISPER_TINY).eval()
    model = SpeechLLM(SpeechEncoder(whisper, pad_to_30s=False), LlamaForCausalLM(SMOLLM2_135M).eval(), 5)
    features, num_frames = torch.randn(BATCH, 80, FRAMES), torch.full((BATCH,), FRAMES)
    padded = functional.pad(features, (0, 3000 - FRAMES))
    published = SpeechEncoder(whisper, pad_to_30s=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ours, plain, plain / ours")
    figures["threads"] = torch.get_num_threads()
    with torch.no_grad():
        figures["encode"] = ratio(
            "encode clips at their true length / padded to 30 s",
            lambda: model.encoder(features, num_frames),
            lambda: published(padded, num_frames),
        )

    rows, matrix = BATCH * RESPONSE, model.output_embeddings
    teacher = torch.randn(rows, 576)

    def loss(way: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
        way(torch.randn(rows, 576, requires_grad=True), teacher, matrix, 2.0).mean().backward()

    figures["kl"] = ratio(
        "KL with its gradient in closed form / by autograd", lambda: loss(response_kl), lambda: loss(plain_kl)
    )

    speech = model.encode_speech(features, num_frames)
    places: list[list[int | None]] = [[None] * int(n) for n in speech.valid.sum(1)]
    asked = sequences(range(30), places, range(6), [range(RESPONSE)] * BATCH)

    def student(num_shared: int) -> None:
        heard = model.encode_speech(features, num_frames)
        model.response_states(replace(asked, num_shared=num_shared), heard).sum().backward()

    figures["student_step"] = ratio(
        "student step, shared start computed once / for each row",
        lambda: student(asked.num_shared),
        lambda: student(0),
    )


def main() -> None:
    """Run all benchmarks."""
    with recorded("training") as figures:
        measure(figures)


if __name__ == "__main__":
    main()
