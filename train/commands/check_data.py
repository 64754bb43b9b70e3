"""Walk packed data as training does, without training: what an epoch has, and what would stop or spoil it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow.compute as pc
import typer

from pipeline import params
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out
from pipeline.params import Alignment, ParamsFile
from pipeline.progress import track
from pipeline.stage import UserError
from pipeline.tables import manifest, packed
from pipeline.tables.emotions import read_classes
from pipeline.weights.source import ModelsParams, fetch
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams

if TYPE_CHECKING:
    from train.data.dataset import Collator, Examples
    from train.data.sampler import Sampler

_SHOWN = 10  # ids of a kind of fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The size of a split."""

    split: str
    rows: int
    without_continuation: int
    hours: float
    speech_tokens: int
    transcript_tokens: int
    response_tokens: int
    truncated: int
    """Rows whose continuation has no end token; the model learns no end from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The plan of the first epoch."""

    layout: str
    steps: int
    steps_of_training: int
    rows: int
    clips_per_step: float
    real_frames: float
    """Share of the computed encoder frames that belong to rows; the rest is padding, or waits for the largest batch."""
    real_frames_worst: float
    """The same in the worst 1 % of the steps."""
    real_positions: float
    """Share of the computed LLM positions that belong to rows."""
    real_positions_worst: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus in the train split, and in an epoch."""

    corpus: str
    rows: int
    rows_per_epoch: int
    share: float
    """Share of the rows of an epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The rows that were decoded and put into batches."""

    rows: int
    seconds: float
    rows_per_s: float
    """Of one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a packed folder holds, and its faults."""

    folder: str
    kind: Alignment
    splits: list[Split]
    corpora: list[Corpus]
    epoch: Epoch
    walk: Walk
    over_budget: list[str]
    """Ids of rows that are larger than a batch may be; training refuses them."""
    other_labels: dict[str, int]
    """Rows of train by an emotion that is none of the classes; the emotion head does not learn from them."""
    damaged: list[str]
    """What is wrong with rows that cannot be decoded: shard, id, found, expected."""

    @property
    def stops_training(self) -> bool:
        """Whether training would stop."""
        return bool(self.over_budget or self.damaged)


def check_data(folder: Path, settings: FitParams, params_file: Path, sample: int | None) -> Checked:
    """Check a packed folder; `sample` limits the rows that are decoded (None: all that training may read).

    The plan is that of an LLM which computes the start of the prompts once for a batch (`SpeechLLM.shares_start`). The
    LLM itself is not loaded.

    Raises UserError if no train row has a continuation that fits into a batch.
    """
    from pipeline.prompts import Prompter
    from train.data.dataset import Collator, Examples, row_costs
    from train.data.log_mel import LogMel
    from train.data.told_shell import named_of
    from train.fit.augmented_rows import make_budget
    from train.fit.planned_rows import plan_train_rows, with_response
    from train.fit.told_prompt import read_told_prompt, training_shell

    models = params.load(params_file, "models", ModelsParams)
    emotions = read_classes(params_file)
    pad_to_30s = params.load(params_file, "fit.semantic.pad_to_30s", bool)
    splits = {
        split: packed.load(folder, split, allow_empty=True) for split in manifest.SPLITS if (folder / split).is_dir()
    }
    train = with_response(packed.load(folder, "train"))
    kind: Alignment = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    given = [train, *(with_response(rows) for split, rows in splits.items() if split == "dev")]
    shell = training_shell(folder, given, read_told_prompt(params_file, kind, settings))
    costs = row_costs(train, shell, pad_to_30s, settings.runs_teacher, shares_start=True)
    over = make_budget(settings).too_large(costs)
    fits = np.setdiff1d(np.arange(len(train)), over)
    if len(fits) == 0:
        raise UserError(
            f"{folder}: found no train row with a continuation that fits into a batch, expected at least one"
        )
    fitting = train.select(fits)
    runs_teacher = settings.runs_teacher
    sampler, augmentation = plan_train_rows(fitting, shell, settings, pad_to_30s, runs_teacher, shares_start=True)
    epoch = describe_epoch(sampler, settings)
    log_mel = LogMel(fetch(models.encoder), pad_to_30s)
    others = [train.select(over), *(with_response(rows) for split, rows in splits.items() if split != "train")]
    damaged, walk = walk_rows(
        [
            Examples(fitting, log_mel, emotions, augmentation, named=named_of(shell)),
            *(Examples(rows, log_mel, emotions) for rows in others),
        ],
        Collator(shell, with_teacher=shell.before_text is not None),
        max(1, round(epoch.clips_per_step / settings.batches.per_step)),
        sample,
    )
    end_ids = Prompter.load(fetch(models.llm)).end_ids
    return Checked(
        folder=str(folder),
        kind=kind,
        splits=[describe_split(split, rows, end_ids) for split, rows in splits.items()],
        corpora=describe_corpora(fitting, sampler),
        epoch=epoch,
        walk=walk,
        over_budget=[train[row]["id"] for row in over.tolist()],
        other_labels=other_labels(train, emotions),
        damaged=damaged,
    )


def describe_split(split: str, rows: packed.Rows, end_ids: Sequence[int]) -> Split:
    """Return the size of a split; `end_ids` are the tokens that end an answer."""

    def total(name: str) -> int:
        return pc.sum(rows.column(name)).as_py() or 0

    answers = rows.column("response_ids")
    given = answers.filter(pc.greater(rows.column("num_response_tokens"), 0))
    last = (chunk.values.take(pc.subtract(chunk.offsets[1:], 1)) for chunk in given.chunks)  # filtered, so not empty
    ended = sum(int(np.isin(ids.to_numpy(zero_copy_only=False), list(end_ids)).sum()) for ids in last)
    return Split(
        split=split,
        rows=len(rows),
        without_continuation=len(rows) - len(given),
        hours=total("num_samples") / SAMPLE_RATE_HZ / 3600,
        speech_tokens=total("num_speech_tokens"),
        transcript_tokens=total("num_text_tokens"),
        response_tokens=total("num_response_tokens"),
        truncated=len(given) - ended,
    )


def describe_epoch(sampler: "Sampler", settings: FitParams) -> Epoch:
    """Describe the plan of the first epoch."""
    from train.data.sampler import real_share

    plan = sampler.plan(epoch=0)
    costs = sampler.costs if sampler.costs_in is None else sampler.costs_in(0)
    shares = np.array([real_share(costs, step, len(step), sampler.budget) for step in plan])
    worst = np.sort(shares, axis=0)[: max(1, len(plan) // 100)].mean(0)
    rows = sum(len(batch) for step in plan for batch in step)
    return Epoch(
        layout=settings.batches.layout,
        steps=len(plan),
        steps_of_training=len(sampler.num_batches(settings.epochs, settings.max_steps)),
        rows=rows,
        clips_per_step=rows / len(plan),
        real_frames=float(shares[:, 0].mean()),
        real_frames_worst=float(worst[0]),
        real_positions=float(shares[:, 1].mean()),
        real_positions_worst=float(worst[1]),
    )


def describe_corpora(train: packed.Rows, sampler: "Sampler") -> list[Corpus]:
    """Return the corpora of the train rows, and how often an epoch reads them."""
    counts = {each["values"]: each["counts"] for each in pc.value_counts(train.column("corpus")).to_pylist()}
    visits = counts if sampler.mixture is None else sampler.mixture.visits
    return [
        Corpus(corpus=name, rows=count, rows_per_epoch=visits[name], share=visits[name] / sum(visits.values()))
        for name, count in sorted(counts.items())
    ]


def other_labels(train: packed.Rows, emotions: Sequence[str]) -> dict[str, int]:
    """Count the rows by an emotion that is none of the classes; rows without an emotion do not count."""
    counts = {each["values"]: each["counts"] for each in pc.value_counts(train.column("emotion")).to_pylist()}
    return {name: count for name, count in sorted(counts.items(), key=str) if name not in (None, *emotions)}


def walk_rows(
    splits: "Sequence[Examples]", collate: "Collator", size: int, sample: int | None
) -> tuple[list[str], Walk]:
    """Read rows as in the first epoch, in batches of `size`; return what is wrong with rows, and the speed.

    torch has one thread, as in a worker of the loader.
    """
    import torch

    from train.data.dataset import Visit

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    starts = np.cumsum([0, *(len(split) for split in splits)])
    places = np.arange(starts[-1])
    if sample is not None and sample < len(places):
        places = np.sort(np.random.default_rng(0).choice(places, sample, replace=False))
    damaged: list[str] = []
    batch = []
    started = time.monotonic()
    for place in track(places, "check-data", len(places)):
        split = int(np.searchsorted(starts, place, side="right")) - 1
        try:
            batch.append(splits[split][Visit(int(place - starts[split]), epoch=0)])
        except UserError as error:
            damaged.append(str(error))
        if len(batch) == size:
            collate(batch)
            batch = []
    if batch:
        collate(batch)
    seconds = time.monotonic() - started
    torch.set_num_threads(num_threads)
    return damaged, Walk(rows=len(places), seconds=seconds, rows_per_s=len(places) / max(seconds, 1e-9))


def describe(checked: Checked) -> str:
    """Lay out what was found, on one screen."""
    head = ["split", "rows", "hours", "speech tokens", "transcript tokens", "response tokens", "no response", "no end"]
    splits = [
        [
            each.split,
            f"{each.rows:,}",
            f"{each.hours:,.1f}",
            *(f"{count:,}" for count in (each.speech_tokens, each.transcript_tokens, each.response_tokens)),
            f"{each.without_continuation:,}",
            f"{each.truncated:,}",
        ]
        for each in checked.splits
    ]
    corpora = [
        [each.corpus, f"{each.rows:,}", f"{each.rows_per_epoch:,}", f"{each.share:.1%}"] for each in checked.corpora
    ]
    epoch, walk = checked.epoch, checked.walk
    lines = [
        lay_out([head, *splits]),
        "",
        lay_out([["corpus", "train rows", "rows in an epoch", "share"], *corpora]),
        "",
        f"epoch: {epoch.steps:,} steps of {epoch.clips_per_step:.1f} clips, {epoch.layout}; training: "
        f"{epoch.steps_of_training:,} steps",
        f"real: {epoch.real_frames:.1%} of the encoder frames, {epoch.real_positions:.1%} of the LLM positions; worst "
        f"1 % of the steps: {epoch.real_frames_worst:.1%}, {epoch.real_positions_worst:.1%}",
        f"speed: {walk.rows_per_s:,.0f} clips/s in one process, which needs {epoch.rows / walk.rows_per_s / 60:,.1f} "
        f"minutes for an epoch ({walk.rows:,} rows read)",
    ]
    if checked.other_labels:
        found = ", ".join(f"{name} {count:,}" for name, count in checked.other_labels.items())
        lines.append(f"labels: the emotion head learns nothing from rows labelled {found}; they are no class")
    lines += _faults("over the budget of a batch (fit.*.batches)", checked.over_budget)
    lines += _faults("damaged", checked.damaged)
    lines.append("check-data: training would stop" if checked.stops_training else "check-data: nothing stops training")
    return "\n".join(lines)


def _faults(kind: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    shown = [f"  {each}" for each in found[:_SHOWN]]
    more = [f"  and {len(found) - _SHOWN:,} more (--json lists all)"] if len(found) > _SHOWN else []
    return [f"{kind}: {len(found):,} rows", *shown, *more]


def main(
    folder: Annotated[Path, typer.Argument(help="A packed folder, such as data/packed/emotion.", show_default=False)],
    sample: Annotated[int | None, typer.Option(min=1, help="Decode only so many rows, drawn at random.")] = None,
    as_json: Json = False,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Walk packed data as training does, without training.

    Prints the rows, hours and tokens of each split; the share of each corpus in
    an epoch; the steps; how much of the computed frames and positions is real;
    and the speed of the loader. Names the rows that are over the budget of a
    batch, and those that cannot be decoded; the status is 1 if there are any.

    \b
    JSON: folder; kind; splits; corpora; epoch; walk; over_budget: ids;
    other_labels: rows by label; damaged: messages.
    """
    kind: Alignment = "semantic" if packed.load_shell(folder).before_text is not None else "emotion"
    settings = params.load(params_file, f"fit.{kind}", SemanticFitParams if kind == "semantic" else EmotionFitParams)
    checked = check_data(folder, settings, params_file, sample)
    print_found(checked, describe(checked), as_json)
    if checked.stops_training:
        raise typer.Exit(1)
