"""Measure how much of what training computes is real: python -m benchmarks.batches DIR

DIR contains EmoBox's lists of clips (DIR/EmoBox/CORPUS/CORPUS.jsonl.gz). The lengths of IEMOCAP, MELD, CREMA-D and
RAVDESS are read from them. LibriSpeech and GigaSpeech have made-up lengths with the published mean. Answers have
the lengths of the continuations in the store. Transcripts have 3.3 tokens per second.

The real share of a step is what its rows cost, divided by the number of its batches times the cost of its largest one.
Compared are our packed layout, our padded layout, lhotse's DynamicBucketingSampler (if lhotse is installed), and the
layout of the paper's official code: batches of random rows, clips padded to 30 s.
"""

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.results_file import recorded
from pipeline.audio.speech_tokens import MAX_DURATION_S, halved, num_speech_tokens
from pipeline.generate.store import store_folder
from pipeline.stage import UserError
from train.data.sampler import Batch, Budget, Layout, Sampler, real_share

EMOBOX = ("iemocap", "meld", "cremad", "ravdess")
MADE_UP = 100_000  # rows of LibriSpeech and of GigaSpeech
AFTER = 5  # tokens of the prompt after speech or transcript
TEXT_TOKENS_PER_S = 3.3
BATCHES = {1: 1, 8: 8}  # batches of a step, by number of devices
BUDGET = {"max_frames": 8_000, "max_positions": 4_000}  # 160 s of speech
OFFICIAL_BATCH = 8

Costs = NDArray[np.int64]


def seconds_of(corpus: str, folder: Path) -> NDArray[np.float64]:
    """Return the lengths of a corpus' clips in seconds."""
    generator = np.random.default_rng(1)
    if corpus == "librispeech":  # 281,241 utterances, 961 h: 12.3 s on average, most between 12 and 16 s
        is_long = generator.random(MADE_UP) < 0.7
        return np.where(is_long, generator.normal(14.3, 1.3, MADE_UP), generator.uniform(1.5, 14, MADE_UP))
    if corpus == "gigaspeech":  # 8.3 million segments, 10,000 h: 4.35 s on average, at most 20 s
        return np.clip(generator.lognormal(1.25, 0.66, MADE_UP), 0.5, 20)
    with gzip.open(folder / "EmoBox" / corpus / f"{corpus}.jsonl.gz", "rt") as lines:
        return np.array([json.loads(line)["length"] for line in lines])


def stored_lengths() -> NDArray[np.int64]:
    """Return the number of tokens of each stored continuation; raises UserError if there is none."""
    lengths = [
        len(ids)
        for shard in store_folder().glob("continuations/*/parts/*.parquet")
        for ids in pq.read_table(shard, columns=["token_ids"])["token_ids"].to_pylist()
    ]
    if not lengths:
        raise UserError(f"{store_folder()}: found no continuation, expected some; run the stage generate first")
    return np.array(lengths)


def costs_of(seconds: NDArray[np.float64], answers: NDArray[np.int64], with_teacher: bool) -> Costs:
    """Return the costs of clips, each with the length of a random stored answer."""
    generator = np.random.default_rng(2)
    mel_frames = np.minimum(100 * seconds, 100 * MAX_DURATION_S).astype(int).clip(1).tolist()
    response = AFTER + 1 + generator.choice(answers, len(seconds))
    frames = halved(np.array(mel_frames))
    student = np.array([num_speech_tokens(count) for count in mel_frames]) + response
    text = generator.poisson(TEXT_TOKENS_PER_S * seconds) + response
    return np.stack([frames, student, text if with_teacher else 0 * text], axis=1)


def our_steps(costs: Costs, layout: Layout, num_devices: int) -> tuple[Budget, list[list[Batch]]]:
    """Return our steps of an epoch; a corpus with long clips (MELD has some of minutes) loses none of them."""
    budget = Budget(layout=layout, **BUDGET)
    return budget, Sampler(costs=costs, budget=budget, batches_per_step=BATCHES[num_devices], seed=1).plan(epoch=0)


def lhotse_steps(costs: Costs, num_devices: int) -> list[list[Batch]]:
    """Return the steps of lhotse's bucketing sampler, whose batches have the budget of our frames."""
    from lhotse import CutSet, MonoCut  # type: ignore[import-not-found]
    from lhotse.dataset import DynamicBucketingSampler  # type: ignore[import-not-found]

    cuts = CutSet.from_cuts(
        MonoCut(id=str(row), start=0, duration=frames / 50, channel=0)
        for row, frames in enumerate(costs[:, 0].tolist())
    )
    per_rank = [
        [
            [int(cut.id) for cut in batch]
            for batch in DynamicBucketingSampler(
                cuts, max_duration=BUDGET["max_frames"] / 50, num_buckets=30, shuffle=True, drop_last=False, seed=1,
                world_size=num_devices, rank=rank,
            )
        ]
        for rank in range(num_devices)
    ]  # fmt: skip
    return [list(step) for step in zip(*per_rank, strict=False)]


def official_shares(costs: Costs, num_devices: int) -> Iterator[tuple[float, float]]:
    """Yield the real shares of steps of random batches, with clips of 30 s."""
    order = np.random.default_rng(3).permutation(len(costs))
    per_step = OFFICIAL_BATCH * num_devices
    for start in range(0, len(order) - per_step + 1, per_step):
        step = costs[order[start : start + per_step]]
        batches = step.reshape(num_devices, OFFICIAL_BATCH, 3)
        computed = per_step * batches.max(1)[:, 1:].sum(1).max()
        yield float(step[:, 0].sum() / (per_step * 50 * MAX_DURATION_S)), float(step[:, 1:].sum() / computed)


def summary(shares: Sequence[tuple[float, float]] | Sequence[list[float]]) -> dict[str, list[float]]:
    """Return the mean and the mean of the worst 1 % of steps, each for frames and positions."""
    found = np.sort(np.array(shares), axis=0)
    worst = found[: max(1, len(found) // 100)]
    return {"mean": found.mean(0).round(4).tolist(), "worst": worst.mean(0).round(4).tolist()}


def compare(name: str, costs: Costs) -> dict[str, Any]:
    """Return the shares of all ways, on one device and on eight; print them."""
    figures: dict[str, Any] = {"rows": len(costs)}
    for num_devices, num_batches in BATCHES.items():
        ways: dict[str, Sequence[Any]] = {}
        for layout in ("packed", "padded"):
            budget, steps = our_steps(costs, layout, num_devices)
            ways[layout] = [real_share(costs, step, num_batches, budget) for step in steps]
        if "lhotse" in sys.modules:
            padded = Budget(layout="padded", **BUDGET)
            ways["lhotse"] = [real_share(costs, s, num_devices, padded) for s in lhotse_steps(costs, num_devices)]
        ways["official"] = list(official_shares(costs, num_devices))
        for way, shares in ways.items():
            found = figures[f"{way} {num_devices}"] = summary(shares)
            (frames, positions), (worst_frames, worst_positions) = found["mean"], found["worst"]
            print(
                f"{name:<12} {len(costs):>7,} rows  {num_devices} devices  {way:<8} {len(shares):>6,} steps  "
                f"frames {frames:.3f} ({worst_frames:.3f})  positions {positions:.3f} ({worst_positions:.3f})",
                flush=True,
            )
    return figures


def main() -> None:
    """Run the benchmark."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.batches DIR")
    folder = Path(sys.argv[1])
    try:
        import lhotse  # noqa: F401
    except ImportError:
        print("lhotse is not installed: left out")
    answers = stored_lengths()
    with recorded("batches") as figures:
        seconds = {name: seconds_of(name, folder) for name in (*EMOBOX, "librispeech", "gigaspeech")}
        for name, lengths in seconds.items():
            figures[name] = compare(name, costs_of(lengths, answers, with_teacher=name not in EMOBOX))
        mixed = np.concatenate(list(seconds.values()))
        figures["all"] = compare("all", costs_of(mixed, answers, with_teacher=True))


if __name__ == "__main__":
    main()
