"""Part 4: compare the losses of a GPU in bfloat16 with those of a CPU in float32, over 50 steps of each stage.

`python -m train.fit` trains small random models on real rows. The four runs are parallel. Stage 2 starts from an
untrained stage-1 model.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from benchmarks.gpu import card
from benchmarks.gpu.card import Figures, Out, Tiny
from pipeline.stage import UserError, run_stage
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from train import saved_model
from train.model_config import ModelConfig

STEPS = 50
KINDS = ("semantic", "emotion")
FIRST_WITHIN, MEAN_WITHIN = 0.005, 0.02  # shares of the CPU's loss
EMOTIONS = ["neutral", "sad", "angry", "happy", "surprise"]
FIT: dict[str, Any] = {
    "max_steps": STEPS, "warmup_steps": 10, "learning_rate": 2e-5, "workers": 0, "augment": "none", "mixture": None,
    "batches": {"layout": "padded", "max_frames": 1500, "max_positions": 1300, "per_step": 1, "round_up": False},
    "epochs": 1000.0, "log_every": 1, "evaluate_every": 10_000, "save_every": 10_000, "answers": 0,
}  # fmt: skip
"""What differs from params.yaml, in both stages."""
SEMANTIC: dict[str, Any] = {"learning_rate": 2e-4, "warm_start": None}
PLORA = {"rank": 8, "alpha": 8, "dropout": 0.0, "targets": "all-linear", "positions": "speech"}
EMOTION: dict[str, Any] = {"plora": PLORA}


def write_models(folder: Path, vocab_size: int) -> dict[str, Any]:
    """Write a small random encoder and LLM; return the section `models` that names them."""
    torch.manual_seed(0)
    llm = LlamaConfig(
        vocab_size=vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.05,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(llm).save_pretrained(folder / "llm")
    whisper = WhisperConfig(
        d_model=96, encoder_layers=3, encoder_attention_heads=3, encoder_ffn_dim=192, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=24, vocab_size=16, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    WhisperModel(whisper).save_pretrained(folder / "encoder")
    WhisperFeatureExtractor().save_pretrained(folder / "encoder")
    return {name: {"source": str(folder / name), "revision": None, "sha256": None} for name in ("encoder", "llm")}


def largest_id(rows: Path) -> int:
    """Return the largest token id in the rows of both stages."""
    ids = set()
    for kind in KINDS:
        frame, part = packed.load_shell(rows / kind), packed.load(rows / kind, "train")
        ids |= {*frame.before_speech, *(frame.before_text or []), *frame.after}
        ids |= {
            token
            for name in ("text_ids", "response_ids")
            for token in part.column(name).combine_chunks().flatten().to_pylist()
        }
    return max(ids)


def save_untrained(work: Path, models: dict[str, Any]) -> Path:
    """Save an untrained stage-1 model."""
    config = ModelConfig(
        models=ModelsParams.model_validate(models), emotions=EMOTIONS, pad_to_30s=False, seed=1,
        encoder_trained=False, plora=False,
    )  # fmt: skip
    saved_model.save(saved_model.build(config, torch.float32), config, work / "init")
    return work / "init"


def start(work: Path, rows: Path, kind: str, where: str, init: Path) -> "subprocess.Popen[bytes]":
    """Start the training of a stage on the CPU or on the GPU."""
    folder = work / where
    command = [sys.executable, "-m", "train.fit", "--kind", kind, "--data", str(rows / kind)]
    command += ["--output", str(folder / kind), "--params", str(work / f"{where}.yaml")]
    command += ["--checkpoints", str(folder / "checkpoints"), "--logs", str(folder / "logs")]
    command += ["--init", str(init)] if kind == "emotion" else []
    threads = max(1, len(os.sched_getaffinity(0)) // 4)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), **({"ACCELERATE_USE_CPU": "1"} if where == "cpu" else {})}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)


def losses(folder: Path) -> list[float]:
    """Return the loss of each step."""
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def compare(cpu: Sequence[float], gpu: Sequence[float]) -> dict[str, float]:
    """Return first, mean and last loss of both, and the relative differences of the first and mean losses."""
    first, mean = (abs(g / c - 1) for g, c in ((gpu[0], cpu[0]), (sum(gpu), sum(cpu))))
    return {
        "steps": len(cpu), "cpu_first": cpu[0], "gpu_first": gpu[0], "first_off": first,
        "cpu_mean": sum(cpu) / len(cpu), "gpu_mean": sum(gpu) / len(gpu), "mean_off": mean,
        "cpu_last": cpu[-1], "gpu_last": gpu[-1],
    }  # fmt: skip


def main(
    out: Out,
    rows: Annotated[Path, typer.Option(help="Folder of rows, written by benchmarks.gpu.rows.")],
    work: Annotated[Path, typer.Option(help="Folder of models and runs.")],
    tiny: Tiny = False,
) -> None:
    """Train both stages on the CPU and on the GPU, and compare their losses."""
    figures = Figures(out, "learning")
    work.mkdir(parents=True, exist_ok=True)
    models = write_models(work / "models", largest_id(rows) + 1)
    usual = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())["fit"]
    for where, precision in (("cpu", "float32"), ("gpu", "bfloat16")):
        fit = {**FIT, "precision": precision, **({"max_steps": 5} if tiny else {})}
        params = {"models": models, "emotions": EMOTIONS}
        own = {"semantic": SEMANTIC, "emotion": EMOTION}
        params["fit"] = {kind: {**usual[kind], **fit, **own[kind]} for kind in KINDS}
        (work / f"{where}.yaml").write_text(yaml.safe_dump(params))
    init = save_untrained(work, models)
    running = [start(work, rows, kind, where, init) for kind in KINDS for where in ("cpu", "gpu")]
    if any([process.wait() for process in running]):  # noqa: C419 - waits for every process
        raise UserError("learning: a training failed; its error message is above")
    failed = []
    for kind in KINDS:
        found = compare(*(losses(work / where / kind) for where in ("cpu", "gpu")))
        figures.add(**{kind: found})
        for what, within in (("first", FIRST_WITHIN), ("mean", MEAN_WITHIN)):
            if (off := found[f"{what}_off"]) > within:
                failed.append(f"{kind}: {what} loss: found {off:.2%} off the CPU's, expected at most {within:.1%}")
    figures.add(within=not failed, device_of_gpu=card.DEVICE.type)
    if failed:
        raise UserError(f"learning: {'; '.join(failed)}")


if __name__ == "__main__":
    run_stage(main)
