"""Measure what a stored teacher loses and saves: python -m benchmarks.teacher_signals

The demo's LLM answers made-up sentences with the settings of params.yaml (vLLM), and returns its 20 likeliest tokens at
each position. The first k of them are the stored teacher. The exact teacher is the LLM, run on the sentence again. The
losses use no speech: the student is the same LLM on the sentence with a share of its tokens exchanged for tokens of
other sentences. This stands for speech of which the model did not hear that share. Another benchmark times an optimizer
step on 16 clips of 3 s with the exact and the stored teacher, in turn, with medians of five.
"""

import io
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.results_file import median_and_runs, recorded
from pipeline import params
from pipeline.generate import answers
from pipeline.generate.engines import choose, interface
from pipeline.generate.engines.interface import Answer, Request
from pipeline.generate.run import open_run
from pipeline.pack import __main__ as pack
from pipeline.prompts import Prompter
from pipeline.synthesise.sentences import sentences
from pipeline.tables import continuations
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from train.fit.params import SemanticFitParams

if TYPE_CHECKING:
    from torch import Tensor

    from train.data.dataset import Example
    from train.fit.trainer import Trainer
    from train.model import SpeechLLM

PARAMS = Path("params.yaml")
NUM_SENTENCES = 96
KEPT = (1, 5, 10, 20)
EXCHANGED = (0.1, 0.3, 1.0)  # shares of the sentence's tokens
BATCH, FRAMES = 16, 300
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A sentence with the LLM's answer."""

    text_ids: list[int]
    response_ids: list[int]
    top_ids: list[list[int]]
    top_logprobs: list[list[float]]


def generated() -> tuple[PromptShell, list[Row], str]:
    """Return the prompt without its content, the answers, and the engine's name; this runs in a separate process."""
    run = open_run("semantic", PARAMS)
    settings = run.settings.model_copy(update={"store_logprobs": max(KEPT)})
    choose.prepare(settings)
    prompter = Prompter.load(run.model)
    texts = [text for text, _ in zip(sentences(random.Random(1)), range(NUM_SENTENCES), strict=False)]
    llm = choose.start(settings, run.llm, run.model, prompter)
    answers = dict(llm.generate(Request(b"", text, None, prompter.text(run.prompt, text).ids, None) for text in texts))
    rows = [_row(text, answers[i], prompter, llm) for i, text in enumerate(texts)]
    return pack.prompt_shell(run.prompt, prompter, "semantic"), rows, llm.name


def _row(text: str, answer: Answer, prompter: Prompter, llm: interface.Engine) -> Row:
    top = answers.likeliest(answer, max(KEPT), llm.name)
    end = () if answer.end_id is None else (answer.end_id,)
    return Row(
        list(prompter.content_ids(text)),
        [*answer.token_ids, *end],
        [[token for token, _ in step] for step in top],
        [[logprob for _, logprob in step] for step in top],
    )


def exchanged(rows: Sequence[Row], share: float) -> list[list[int]]:
    """Return the sentences with a share of their tokens, at least one, exchanged for tokens of other sentences."""
    generator = random.Random(1)
    everything = [token for row in rows for token in row.text_ids]
    texts = []
    for row in rows:
        text = list(row.text_ids)
        for i in generator.sample(range(len(text)), max(1, round(share * len(text)))):
            text[i] = generator.choice(everything)
        texts.append(text)
    return texts


def states(model: "SpeechLLM", shell: PromptShell, texts: Sequence[Sequence[int]], rows: Sequence[Row]) -> "Tensor":
    """Return the LLM's final hidden states at the positions that predict the answers, given these sentences."""
    import torch

    from train.model.inputs import sequences

    assert shell.before_text is not None
    found = []
    with torch.no_grad():
        for first in range(0, len(rows), BATCH):
            some = slice(first, first + BATCH)
            made = sequences(shell.before_text, texts[some], shell.after, [row.response_ids for row in rows[some]])
            found.append(model.response_states(made, None))
    return torch.cat(found)


def bias(model: "SpeechLLM", shell: PromptShell, rows: Sequence[Row]) -> dict[str, list[dict[str, float]]]:
    """Print and return the teacher's mass that is kept, and compare the stored KL and its gradient with the exact ones.

    KL is in nats per token.
    """
    import torch

    from train.losses import response_kl, stored_kl

    head = model.output_head
    teacher = states(model, shell, [row.text_ids for row in rows], rows)
    ids = torch.tensor([step for row in rows for step in row.top_ids])
    logprobs = torch.tensor([step for row in rows for step in row.top_logprobs])
    figures: dict[str, list[dict[str, float]]] = {"kept": [], "exchanged": []}
    for k in KEPT:
        mass = logprobs[:, :k].exp().sum(-1).mean().item()
        none = stored_kl(teacher, ids[:, :k], logprobs[:, :k], head).abs().max().item()
        size = _bytes(rows, k) / len(ids)
        print(
            f"k {k:2}: mass kept {mass:.4f}, {size:.0f} bytes per token on disk, "
            f"stored KL of the LLM with itself: at most {none:.1e} nats"
        )
        figures["kept"].append({"k": k, "mass_share": mass, "bytes_per_token": size, "largest_self_kl_nats": none})
    for share in EXCHANGED:
        student = states(model, shell, exchanged(rows, share), rows).requires_grad_()
        exact = response_kl(student, teacher, head, 1.0)
        (slope,) = torch.autograd.grad(exact.sum(), student)
        for k in KEPT:
            stored = stored_kl(student, ids[:, :k], logprobs[:, :k], head)
            (ours,) = torch.autograd.grad(stored.sum(), student)
            found = {
                "exact_kl_nats": exact.mean().item(),
                "stored_kl_nats": stored.mean().item(),
                "stored_over_exact": (stored.sum() / exact.sum()).item(),
                "gradient_cosine": torch.nn.functional.cosine_similarity(ours.flatten(), slope.flatten(), dim=0).item(),
                "gradient_length_over_exact": (ours.norm() / slope.norm()).item(),
            }
            line = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            print(f"{share:4.0%} exchanged, k {k:2}: {line}", flush=True)
            figures["exchanged"].append({"exchanged_share": share, "k": k, **found})
    return figures


def _bytes(rows: Sequence[Row], k: int) -> int:
    """Return the bytes of the stored teacher in a table of continuations."""
    columns = [
        [[step[:k] for step in row.top_ids] for row in rows],
        [[step[:k] for step in row.top_logprobs] for row in rows],
    ]
    content = io.BytesIO()
    table = pa.table(columns, schema=continuations.SIGNALS_SCHEMA)
    pq.write_table(table, content, compression="zstd")
    return len(content.getvalue())


def steps(trainer: "Trainer", shell: PromptShell, rows: Sequence[Row]) -> dict[str, Any]:
    """Print and return the seconds of a step with the exact and with the stored teacher."""
    import torch

    from train.data.dataset import Collator, Example

    def example(row: Row) -> "Example":
        clip = torch.randn(80, FRAMES)
        return Example(clip, FRAMES, row.text_ids, row.response_ids, -1, row.top_ids, row.top_logprobs)

    examples = [example(row) for row in rows[:BATCH]]
    exact, stored = Collator(shell, True)(examples), Collator(shell, False, with_signals=True)(examples)
    trainer.step(0, [exact]), trainer.step(0, [stored])  # the first runs also allocate memory and compile kernels
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        trainer.step(0, [exact])
        half = time.perf_counter()
        trainer.step(0, [stored])
        times.append((half - started, time.perf_counter() - half))
    run, kept = zip(*times, strict=True)
    figures = median_and_runs("exact_s", run) | median_and_runs("stored_s", kept)
    exact_s, stored_s, num_tokens = figures["exact_s"], figures["stored_s"], len(exact.response_ids)
    print(
        f"a step of {BATCH} clips with {num_tokens} response tokens: exact teacher {exact_s:.2f} s, "
        f"stored teacher (k {max(KEPT)}) {stored_s:.2f} s, x{exact_s / stored_s:.2f}"
    )
    return {"num_clips": BATCH, "num_response_tokens": num_tokens, **figures, "exact_over_stored": exact_s / stored_s}


def measure(figures: dict[str, Any]) -> None:
    """Measure all figures and put them into `figures`."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:  # vLLM keeps memory and pins its threads
        shell, rows, name = apart.submit(generated).result()
    import torch
    from accelerate import Accelerator

    from train.fit import run as fitting
    from train.fit import stage_model
    from train.fit.trainer import Trainer

    os.environ["ACCELERATE_USE_CPU"] = "1"  # the figures describe a CPU
    models = params.load(PARAMS, "models", ModelsParams)
    settings = params.load(PARAMS, "fit.semantic", SemanticFitParams).model_copy(update={"temperature": 1.0})
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {len(rows)} answers")
    plain, _ = stage_model.build_model(settings.model_copy(update={"precision": "float32"}), models, ["none"], None)
    figures |= {"engine": name, "threads": torch.get_num_threads(), "num_answers": len(rows)}
    figures["bias"] = bias(plain.eval(), shell, rows)
    model, _ = stage_model.build_model(settings, models, ["none"], None)
    dtype = stage_model.llm_dtype(settings)
    accelerator = Accelerator(mixed_precision="bf16" if dtype == torch.bfloat16 else "no")
    schedule = fitting.make_schedule(settings, num_steps=1000)
    optimizer = fitting.make_optimizer(model, settings)
    print(f"{dtype}, ", end="")
    trainer = Trainer(model, fitting.make_objective(settings, model), optimizer, schedule, accelerator)
    figures["step"] = {"llm_dtype": str(dtype), **steps(trainer, shell, rows)}


def main() -> None:
    """Run the benchmark."""
    with recorded("teacher_signals") as figures:
        measure(figures)


if __name__ == "__main__":
    main()
