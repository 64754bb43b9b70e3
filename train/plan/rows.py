"""The rows of a training, or as many as a plan needs: from packed data, else a manifest, else published sizes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from pipeline import params
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.audio.speech_tokens import MAX_DURATION_S
from pipeline.corpora.params import CorpusParams
from pipeline.params import Alignment, Section
from pipeline.stage import UserError
from pipeline.tables import manifest, packed
from pipeline.tables.packed import PromptShell
from train.data.dataset import row_costs
from train.fit.planned_rows import with_response

FACTS = Path(__file__).parents[2] / "recipes" / "facts" / "corpora.yaml"
MOST_ROWS = 20_000
"""Rows of a plan; the rest of a larger corpus counts as these."""
SPREAD = 0.65  # deviation of the logarithm of clip lengths: IEMOCAP 0.63, MELD 0.77 (EmoBox's lists)
TEXT_TOKENS_PER_S = 3.3  # benchmarks/batches.py
TOKENS_PER_WORD = 1.3
RESPONSE_SHARE = 0.75  # of generate.max_new_tokens: as in benchmarks/gpu/sizes.py, where answers have 24 to 48 tokens
START_TOKENS, AFTER_TOKENS = 33, 5  # the prompt before and after the content, in Qwen2.5's chat template
NAMED_TOKENS = 10  # of the published text prompt of stage 2, from the emotion to the transcript
SYNTHETIC_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """Some rows of a training, and how many rows they stand for."""

    num_rows: int
    hours: float
    seconds: NDArray[np.float64]
    """Length of the clips."""
    text: NDArray[np.int64]
    """Tokens of the transcripts."""
    response: NDArray[np.int64]
    """Tokens of the continuations."""
    shell: PromptShell
    source: str
    """Where the rows come from, and what of them was assumed."""

    def costs(self, pad_to_30s: bool, with_teacher: bool, shares_start: bool) -> NDArray[np.int64]:
        """Return encoder frames, student positions and teacher positions of each row, as training counts them."""
        samples = np.round(self.seconds * SAMPLE_RATE_HZ).astype(np.int64)
        rows = _Lengths(samples=samples, text=self.text, response=self.response)
        return row_costs(rows, self.shell, pad_to_30s, with_teacher, shares_start)  # type: ignore[arg-type]


def with_told_teacher(rows: RowFacts) -> RowFacts:
    """Return the rows of stage 2 for a teacher that is told the emotion.

    Its prompt counts as long as the one for speech, which it nearly is. The last tokens of its start name the emotion,
    so each row has its own.
    """
    shell = replace(rows.shell, before_text=rows.shell.before_speech[:-NAMED_TOKENS])
    return replace(rows, text=rows.text + NAMED_TOKENS, shell=shell)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """The columns of packed rows that `row_costs` reads."""

    samples: NDArray[np.int64]
    text: NDArray[np.int64]
    response: NDArray[np.int64]

    def column(self, name: str) -> pa.Array:
        """Return a column by its name in packed data."""
        columns = {"num_samples": self.samples, "num_text_tokens": self.text, "num_response_tokens": self.response}
        return pa.array(columns[name])


class Size(Section):
    """The size of a corpus in recipes/facts/corpora.yaml."""

    rows: int
    hours: float
    speakers: int | None = None
    """Number of speakers, for a corpus whose test speakers a recipe names."""
    source: str


def read_rows(kind: Alignment, params_file: Path, folder: Path) -> RowFacts:
    """Return the train rows of a stage, from `folder`/data/packed, `folder`/manifests or published sizes.

    Raises UserError if a corpus has no published size, or if a table is damaged.
    """
    if (folder / "data" / "packed" / kind / packed.SHELL_FILE).is_file():
        return _from_packed(folder / "data" / "packed" / kind)
    max_new_tokens = params.load(params_file, "generate.max_new_tokens", int)
    if (folder / "manifests" / f"{kind}.parquet").is_file():
        return _from_manifest(folder / "manifests" / f"{kind}.parquet", kind, params_file, max_new_tokens)
    return _from_sizes(kind, params_file, max_new_tokens)


def _from_packed(folder: Path) -> RowFacts:
    rows = with_response(packed.load(folder, "train"))
    if len(rows) == 0:
        raise UserError(f"{folder}: no train row has a continuation; expected at least one")
    chosen = _draw(len(rows))
    samples, text, response = (
        rows.column(name).to_numpy() for name in ("num_samples", "num_text_tokens", "num_response_tokens")
    )
    return RowFacts(
        num_rows=len(rows),
        hours=float(samples.sum(dtype=np.int64)) / SAMPLE_RATE_HZ / 3600,
        seconds=samples[chosen] / SAMPLE_RATE_HZ,
        text=text[chosen].astype(np.int64),
        response=response[chosen].astype(np.int64),
        shell=packed.load_shell(folder),
        source=f"{folder}: lengths and tokens of packed rows",
    )


def _from_manifest(path: Path, kind: Alignment, params_file: Path, max_new_tokens: int) -> RowFacts:
    table = manifest.read(path).select(["split", "duration_s", "text"])
    limits = params.load(params_file, f"filter.{kind}", dict[str, Any])
    lengths = table["duration_s"]
    fits = pc.and_(
        pc.greater_equal(lengths, limits["min_duration_s"]), pc.less_equal(lengths, limits["max_duration_s"])
    )
    train = table.filter(pc.and_(fits, pc.equal(table["split"], "train")))
    if len(train) == 0:
        raise UserError(f"{path}: found no train row of a usable length, expected at least one")
    chosen = train.take(pa.array(_draw(len(train))))
    words = pc.fill_null(pc.count_substring(chosen["text"], " "), 0).to_numpy() + 1
    return RowFacts(
        num_rows=len(train),
        hours=pc.sum(train["duration_s"]).as_py() / 3600,
        seconds=chosen["duration_s"].to_numpy(),
        text=np.ceil(TOKENS_PER_WORD * words).astype(np.int64),
        response=_responses(len(chosen), max_new_tokens),
        shell=_shell(kind),
        source=f"{path}: lengths of clips; {TOKENS_PER_WORD} tokens a word; {_assumed(max_new_tokens)}",
    )


def _from_sizes(kind: Alignment, params_file: Path, max_new_tokens: int) -> RowFacts:
    corpora = {name: _size(name, params_file) for name in params.load(params_file, f"split.{kind}", list[str])}
    sizes = {name: size for name, size in corpora.items() if size.rows}
    if not sizes:
        raise UserError(f"{params_file}: split.{kind}: found no corpus with speakers in train, expected at least one")
    num_rows = sum(size.rows for size in sizes.values())
    limits = params.load(params_file, f"filter.{kind}", dict[str, Any])
    generator = np.random.default_rng(0)
    drawn = []
    for size in sizes.values():
        mean = 3600 * size.hours / size.rows
        count = max(1, round(min(1.0, MOST_ROWS / num_rows) * size.rows))
        lengths = generator.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, count)
        drawn.append(np.clip(lengths, limits["min_duration_s"], min(limits["max_duration_s"], MAX_DURATION_S)))
    seconds = np.concatenate(drawn)
    sources = "; ".join(
        f"{name} {size.rows:,} rows, {size.hours:,.1f} h ({size.source})" for name, size in sizes.items()
    )
    return RowFacts(
        num_rows=num_rows,
        hours=sum(size.hours for size in sizes.values()),
        seconds=seconds,
        text=1 + generator.poisson(TEXT_TOKENS_PER_S * seconds),
        response=_responses(len(seconds), max_new_tokens),
        shell=_shell(kind),
        source=f"published sizes: {sources}; lengths spread as those of IEMOCAP; {TEXT_TOKENS_PER_S} tokens of "
        f"transcript a second; {_assumed(max_new_tokens)}",
    )  # fmt: skip


def _size(name: str, params_file: Path) -> Size:
    """Return the size of the train split of a corpus of a recipe; no rows if all its speakers are in test."""
    made = params.find(params_file, f"synthesise.{name}", dict[str, Any])
    if made is not None:
        rows = made["speakers"] * made["utterances_per_speaker"]
        return Size(rows=rows, hours=rows * SYNTHETIC_S / 3600, source="section synthesise")
    corpus = params.load(params_file, f"ingest.{name}", CorpusParams)
    known = yaml.safe_load(FACTS.read_text())
    key = name if corpus.reader in ("table", "hub") else corpus.reader
    key = f"{key}:{corpus.subset}" if corpus.subset else key
    if key not in known:
        raise UserError(
            f"{FACTS.name}: found no size of {key}, expected one of {', '.join(known)}; run ingest and split first, "
            "and the plan reads the manifest"
        )
    size = params.check(str(FACTS), key, known[key], Size)
    named = params.find(params_file, f"split.test_speakers.{name}", list[str])
    if named is None or size.speakers is None:
        return size
    share = max(0.0, 1 - len(named) / size.speakers)
    return size.model_copy(update={"rows": round(share * size.rows), "hours": share * size.hours})


def _draw(count: int) -> NDArray[np.int64]:
    if count <= MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_ROWS, replace=False))


def _responses(count: int, max_new_tokens: int) -> NDArray[np.int64]:
    """Draw lengths of continuations between half of the limit and the limit."""
    least = max(1, round((2 * RESPONSE_SHARE - 1) * max_new_tokens))
    return np.random.default_rng(1).integers(least, max_new_tokens + 1, count)


def _assumed(max_new_tokens: int) -> str:
    return (
        f"continuations of {RESPONSE_SHARE * max_new_tokens:.0f} tokens on average, "
        f"{RESPONSE_SHARE:.0%} of generate.max_new_tokens (benchmarks/gpu/sizes.py)"
    )


def _shell(kind: Alignment) -> PromptShell:
    before, after = [0] * START_TOKENS, [0] * AFTER_TOKENS
    return PromptShell(before_speech=before, before_text=before if kind == "semantic" else None, after=after)
