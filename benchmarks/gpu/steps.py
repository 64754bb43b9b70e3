"""Part 3: time full-size training steps of a stage, in our two layouts and in the official layout in turn.

The padded and the official layout run on the same batches. The packed layout has its own batches, planned from the same
clips with the same budget, so compare their useful FLOP/s. It runs as it is and with sizes that are rounded up
("rounded"). Batches come in random order, as in training, after a warm-up on other batches. Each batch runs once when
its lengths are new. Half of the batches run again when their lengths are known. At last, the layers are compiled, and
the rounded batches run again ("compiled"): compare with "rounded_seen".
"""

import math
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from torch import nn

from benchmarks.gpu import card
from benchmarks.gpu.card import Figures, Out, Tiny
from benchmarks.gpu.flops import counting_flops
from benchmarks.gpu.official import OfficialLayout, OfficialObjective, collate
from benchmarks.gpu.sections import Sections
from benchmarks.gpu.sizes import Sizes, Stage, build_model, draw_clips, frame, full
from benchmarks.gpu.sizes import tiny as tiny_sizes
from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.stage import run_stage
from train.data.dataset import Collator, Example
from train.data.sampler import Budget, Layout, Sampler
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.fit.schedule import Schedule
from train.fit.trainer import Trainer
from train.model import Batch, SpeechLLM
from train.model.inputs import packed_sequences
from train.model.plora import lora_config
from train.precision import avoid_shape_plans
from train.useful_flops import UsefulFlops, product_flops

RANK = 16
TEMPERATURE = 2.0
COUNTED = 2  # batches of the warm-up whose FLOPs are counted
RATE = 1e-6  # random weights have nothing to learn


class Steps:
    """A model with two trainers: one for our layouts and one for the official layout."""

    def __init__(self, sizes: Sizes, stage: Stage) -> None:
        self.sizes, self.stage = sizes, stage
        self.model = build_model(sizes)
        if stage == "emotion":
            self.model.add_plora(lora_config(RANK, RANK, 0.0, "all-linear"))
            self.model.encoder.train_weights()
        else:
            self.model.head.requires_grad_(False)
        objective = _objective(self.model, stage)
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=RATE)
        self.accelerator = Accelerator(mixed_precision="bf16")
        self.ours = self._trainer(self.model, objective, optimizer)
        official = OfficialObjective(objective.weights, TEMPERATURE)
        self.official = self._trainer(OfficialLayout(self.model), official, self.ours.optimizer)
        with_teacher = stage == "semantic"
        self.collate = Collator(frame(), with_teacher)
        packing = partial(packed_sequences, shares_start=self.model.shares_start)
        self.collate_packed = Collator(frame(), with_teacher, lay_out=packing)
        self.collate_rounded = Collator(frame(), with_teacher, lay_out=packing, round_up=True)
        self.flops = UsefulFlops(self.model)
        self.taken = 0

    def padded_on(self, clips: Sequence[Example]) -> Batch:
        """Make a batch of clips in our padded layout."""
        return self.collate(clips)

    def packed_on(self, clips: Sequence[Example]) -> Batch:
        """Make a batch of clips in our packed layout."""
        return self.collate_packed(clips)

    def rounded_on(self, clips: Sequence[Example]) -> Batch:
        """Make a batch of clips in our packed layout, with sizes that are rounded up."""
        return self.collate_rounded(clips)

    def official_on(self, clips: Sequence[Example]) -> Batch:
        """Make a batch of clips in the official layout."""
        return collate(clips, frame(), with_teacher=self.stage == "semantic")

    def step(self, trainer: Trainer, *batches: Batch) -> None:
        """Run an optimizer step."""
        self.taken += 1
        trainer.step(self.taken, batches).read()

    def useful(self, clips: Sequence[Example]) -> float:
        """Return the useful FLOPs of a step on these clips."""
        return self.flops.step([self.packed_on(clips)])

    def _trainer(self, model: nn.Module, objective: Any, optimizer: torch.optim.Optimizer) -> Trainer:
        schedule = Schedule(
            shape="as-published",
            seed=1,
            num_steps=10_000,
            warmup_steps=0,
            max_grad_norm=1.0,
        )
        return Trainer(model, objective, optimizer, schedule, self.accelerator)


def _objective(model: SpeechLLM, stage: Stage) -> Objective:
    if stage == "semantic":
        return SemanticAlignment(model.output_head, TEMPERATURE)
    return EmotionAlignment(model.output_head, 1.0, model.head.classify.out_features)


def draw_batches(sizes: Sizes, stage: Stage, count: int, layout: Layout) -> list[list[Example]]:
    """Draw clips and put them into batches as training does, with a budget for about `sizes.clips` clips.

    The clips are the same for both layouts.
    """
    size = sizes.clips[stage]
    drawn = draw_clips(sizes, stage, (count + 1) * size, seed=1)
    costs = np.array(
        [
            (clip.num_frames // 2, num_speech_tokens(clip.num_frames) + answer, len(clip.text_ids) + answer)
            for clip in drawn
            for answer in [len(clip.response_ids)]
        ]
    )
    frames, *positions = (size * costs.mean(0)).tolist()
    budget = Budget(max_frames=math.ceil(frames), max_positions=math.ceil(sum(positions)), layout=layout)
    plan = Sampler(costs=costs, budget=budget, batches_per_step=1, seed=1).plan(epoch=0)
    return [[drawn[row] for row in rows] for (rows,) in plan[:count]]


def measure_flops(steps: Steps, batches: list[list[Example]]) -> dict[str, float]:
    """Run a step of each layout on each batch; return the ratio of executed to useful FLOPs."""
    useful = sum(steps.useful(clips) for clips in batches)
    executed = {}
    for name, trainer, layout in (
        ("padded", steps.ours, steps.padded_on),
        ("packed", steps.ours, steps.packed_on),
        ("official", steps.official, steps.official_on),
    ):
        with counting_flops() as counter:
            for clips in batches:
                steps.step(trainer, layout(clips))
        executed[f"{name}_over_useful"] = counter.get_total_flops() / useful
    return executed


class Timed:
    """Times the steps of one layout on some batches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.sections: list[dict[str, dict[str, float]]] = []
        self.allocations: list[int] = []
        self.peaks_gib: list[float] = []

    def take(self, sections: Sections, steps: Steps, trainer: Trainer, batch: Batch) -> None:
        """Run and time a step."""
        before = card.allocations()
        card.reset_peak()
        seconds, parts = sections.step(lambda: steps.step(trainer, batch))
        self.peaks_gib.append(card.peak_gib())
        self.allocations.append(card.allocations() - before)
        self.seconds.append(seconds)
        self.sections.append(parts)

    def summary(self, batches: list[list[Example]], steps: Steps, ceiling: float) -> dict[str, Any]:
        """Return times and speeds."""
        total, useful = sum(self.seconds), sum(steps.useful(clips) for clips in batches)
        positions = sum(steps.padded_on(clips).num_positions for clips in batches)
        return {
            "steps": len(self.seconds),
            "mean_s": total / len(self.seconds),
            "median_s": statistics.median(self.seconds),
            "worst_s": max(self.seconds),
            "clips_per_s": sum(len(clips) for clips in batches) / total,
            "positions_per_s": positions / total,
            "useful_tflop_a_step": useful / len(self.seconds) / 1e12,
            "useful_share": useful / total / ceiling,
            "driver_allocations": card.on_card(lambda: sum(self.allocations)),
            "peak_gib": card.on_card(lambda: max(self.peaks_gib)),
        }

    def section_medians(self) -> dict[str, dict[str, float]]:
        """Return each section's median seconds."""
        names = self.sections[0]
        return {
            name: {clock: statistics.median(step[name][clock] for step in self.sections) for clock in ("host", "card")}
            for name in names
        }


def main(
    out: Out,
    stage: Annotated[Stage, typer.Option(help="Stage of the steps.")],
    tiny: Tiny = False,
) -> None:
    """Time steps of all layouts, and the sections of our steps."""
    sizes = tiny_sizes() if tiny else full()
    figures = Figures(out, f"steps-{stage}")
    ceiling = product_flops(256 if tiny else 8192, card.DEVICE)
    avoid_shape_plans()
    steps, sections = Steps(sizes, stage), Sections()
    numbers = sizes.warm_up, sizes.batches, 1
    warm_up, timed, profiled = _cut(draw_batches(sizes, stage, sum(numbers), "padded"), *numbers)
    warm_up_packed, timed_packed, profiled_packed = _cut(draw_batches(sizes, stage, sum(numbers), "packed"), *numbers)
    figures.add(clips=sizes.clips[stage], seconds_a_clip=_mean_seconds(timed), ceiling_tflops=ceiling / 1e12)
    for clips, packed in zip(warm_up[COUNTED:], warm_up_packed[COUNTED:], strict=True):
        steps.step(steps.ours, steps.padded_on(clips))
        steps.step(steps.ours, steps.packed_on(packed))
        steps.step(steps.ours, steps.rounded_on(packed))
        steps.step(steps.official, steps.official_on(clips))
    figures.add(flops_executed=measure_flops(steps, warm_up[:COUNTED]))
    sections.watch(steps.model)
    _in_turn(figures, steps, sections, list(zip(timed, timed_packed, strict=True)), ceiling)
    for name, new, seen, layout in (
        ("padded", profiled, timed, steps.padded_on),
        ("packed", profiled_packed, timed_packed, steps.packed_on),
    ):
        _profile(figures, steps, name, layout(new[0]), layout(seen[0]))
    _compiled(figures, steps, warm_up_packed, timed_packed, ceiling, "eager" if tiny else "inductor")


def _in_turn(
    figures: Figures,
    steps: Steps,
    sections: Sections,
    batches: list[tuple[list[Example], list[Example]]],
    ceiling: float,
) -> None:
    """Time all layouts on new lengths, then on half of them again; `batches` are pairs of a padded and a packed one."""
    medians: dict[str, dict[str, float]] = {"padded": {}, "packed": {}, "rounded": {}, "official": {}}
    for lengths, taken in (("new", batches), ("seen", batches[: -(-len(batches) // 2)])):
        timed = {layout: Timed() for layout in medians}
        for padded, packed in taken:
            timed["padded"].take(sections, steps, steps.ours, steps.padded_on(padded))
            timed["packed"].take(Sections(), steps, steps.ours, steps.packed_on(packed))
            timed["rounded"].take(Sections(), steps, steps.ours, steps.rounded_on(packed))
            timed["official"].take(Sections(), steps, steps.official, steps.official_on(padded))
        for layout, way in timed.items():
            ran = [pair[1] if layout in ("packed", "rounded") else pair[0] for pair in taken]
            figures.add(**{f"{layout}_{lengths}": way.summary(ran, steps, ceiling)})
            medians[layout][lengths] = statistics.median(way.seconds)
        figures.add(**{f"sections_padded_{lengths}": timed["padded"].section_medians()})
    figures.add(
        official_over_padded={
            lengths: official / medians["padded"][lengths] for lengths, official in medians["official"].items()
        }
    )


def _compiled(
    figures: Figures,
    steps: Steps,
    warm_up: list[list[Example]],
    batches: list[list[Example]],
    ceiling: float,
    backend: str,
) -> None:
    """Compile the layers, then time steps on rounded batches."""
    steps.model.compile_layers(backend)
    started = time.perf_counter()
    for clips in warm_up:
        steps.step(steps.ours, steps.rounded_on(clips))
    figures.add(compile_s=time.perf_counter() - started)
    timed = Timed()
    for clips in batches:
        timed.take(Sections(), steps, steps.ours, steps.rounded_on(clips))
    figures.add(compiled=timed.summary(batches, steps, ceiling))


def _profile(figures: Figures, steps: Steps, layout: str, new: Batch, seen: Batch) -> None:
    """Find where the host waits for the GPU, and the time of each kernel in a step on known lengths."""
    waits = card.synchronisations(lambda: steps.step(steps.ours, new))
    found: Any = waits and {"count": sum(waits.values()), "places": waits}
    figures.add(**{f"synchronisations_{layout}": found})
    figures.add(**{f"kernels_seen_{layout}": card.kernels(lambda: steps.step(steps.ours, seen))})


def _cut(batches: list[list[Example]], *sizes: int) -> list[list[list[Example]]]:
    parts = []
    for size in sizes:
        parts.append(batches[:size])
        batches = batches[size:]
    return parts


def _mean_seconds(batches: list[list[Example]]) -> float:
    frames = [clip.num_frames for clips in batches for clip in clips]
    return sum(frames) / len(frames) / 100


if __name__ == "__main__":
    run_stage(main)
