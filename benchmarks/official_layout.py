"""Compare a training step with one in the layout of the official code: python -m benchmarks.official_layout DIR

DIR has EmoBox's lists (DIR/EmoBox/CORPUS/CORPUS.jsonl.gz), from which the lengths of IEMOCAP and CREMA-D come. Models
have the demo's shapes (whisper-tiny, SmolLM2-135M) with random weights; the LLM is bfloat16 as in training. An
optimizer step has 16 random clips. The official layout has batches as published for a GPU: 8 clips in stage 1, 4 in
stage 2. It pads clips to 30 s and segments apart, and computes logits at all positions (benchmarks/gpu/official.py).
We pack all clips into one batch, which holds fewer seconds of audio than one batch there.

Both ways take optimizer steps on the same clips in turn; times are medians of five. If each floating-point operation
took the same time, a step would be faster by the FLOPs executed there / FLOPs executed here. The result is the share of
this quotient that is reached. CPU times are those of the process, which other work on the machine changes less.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.batches import seconds_of
from benchmarks.gpu.flops import counting_flops
from benchmarks.gpu.sizes import Sizes, Stage, clips_of
from benchmarks.gpu.steps import Steps
from benchmarks.plan import SMALL, TINY_WHISPER
from benchmarks.results_file import median_and_runs, recorded
from pipeline.audio.speech_tokens import MAX_DURATION_S
from pipeline.stage import UserError, run_stage, say
from train.data.dataset import Example
from train.fit.trainer import Trainer
from train.model import Batch

ROUNDS = 5
CLIPS = 16  # of an optimizer step
CORPORA = ("iemocap", "cremad")
STAGES: tuple[Stage, ...] = ("semantic", "emotion")
LEAST_SHARE = 0.9  # the target
DEMO = Sizes(
    encoder=TINY_WHISPER, llm=SMALL, clips={"semantic": 8, "emotion": 4}, batches=1, warm_up=0, positions=0, seconds=1.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A trainer with the batches of a step in its layout."""

    trainer: Trainer
    batches: list[Batch]


def ways_of(steps: Steps, clips: Sequence[Example]) -> dict[str, Way]:
    """Return both ways to take a step on these clips."""
    size = steps.sizes.clips[steps.stage]
    parts = [clips[first : first + size] for first in range(0, len(clips), size)]
    return {
        "ours": Way(trainer=steps.ours, batches=[steps.packed_on(clips)]),
        "official": Way(trainer=steps.official, batches=[steps.official_on(part) for part in parts]),
    }


def compare(steps: Steps, clips: Sequence[Example]) -> dict[str, Any]:
    """Return times and executed FLOPs of both ways, and the share of the quotient of FLOPs that is reached."""
    ways = ways_of(steps, clips)
    flops: dict[str, int] = {}
    for name, way in ways.items():  # this is also the warm-up
        with counting_flops() as counter:
            steps.step(way.trainer, *way.batches)
        flops[name] = counter.get_total_flops()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            steps.step(way.trainer, *way.batches)
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - started_cpu)
    figures: dict[str, Any] = {"clips": len(clips), "mean_s": np.mean([clip.num_frames for clip in clips]).item() / 100}
    for name in ways:
        figures |= {f"{name}_gflop": flops[name] / 1e9}
        figures |= median_and_runs(f"{name}_s", wall[name]) | median_and_runs(f"{name}_cpu_s", cpu[name])
    quotient = flops["official"] / flops["ours"]
    faster, faster_cpu = (figures[f"official_{clock}"] / figures[f"ours_{clock}"] for clock in ("s", "cpu_s"))
    return figures | {
        "flops_official_over_ours": quotient,
        "time_official_over_ours": faster,
        "cpu_time_official_over_ours": faster_cpu,
        "share_of_quotient": faster / quotient,
        "share_of_quotient_cpu": faster_cpu / quotient,
    }


def measure(sizes: Sizes, lists: Path, corpora: Sequence[str] = CORPORA, num_clips: int = CLIPS) -> dict[str, Any]:
    """Compare both stages on clips with the lengths of each corpus."""
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    for stage in STAGES:
        steps = Steps(sizes, stage)
        for corpus in corpora:
            generator = np.random.default_rng(1)
            drawn = generator.choice(lengths_s(corpus, lists), num_clips, replace=False)
            found = compare(steps, clips_of(sizes, drawn.clip(0.1, MAX_DURATION_S) * sizes.seconds, generator))
            figures[f"{stage} {corpus}"] = found
            say(
                f"{stage:<8} {corpus:<8} {found['time_official_over_ours']:.2f} times as fast as the official layout "
                f"(CPU time {found['cpu_time_official_over_ours']:.2f}), FLOPs there / here "
                f"{found['flops_official_over_ours']:.2f}: {found['share_of_quotient']:.2f} of it (CPU time "
                f"{found['share_of_quotient_cpu']:.2f}), expected at least {LEAST_SHARE}"
            )
    return figures


def lengths_s(corpus: str, lists: Path) -> np.ndarray:
    """Return the lengths of a corpus' clips in seconds; raises UserError if its list is missing."""
    try:
        return seconds_of(corpus, lists)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no list there, expected EmoBox's list of {corpus}") from None


def main(
    lists: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with EmoBox's lists, as in DIR/EmoBox.")],
) -> None:
    """Compare a training step with one in the layout of the official code."""
    lengths_s(CORPORA[-1], lists)  # a missing list is told at once
    with recorded("official_layout") as figures:
        figures |= measure(DEMO, lists)


if __name__ == "__main__":
    run_stage(main)
