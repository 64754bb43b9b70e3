"""Sentences: choose the sentences from which emotion prompts are learnt, without speech (docs/emotion-prompt.md).

They are transcripts of training clips, or lines of a file. A hash of a sentence decides which ones are taken and which
ones are for dev. So a sentence that is added changes little else.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer
import xxhash
from pydantic import Field, PositiveInt

from pipeline import params
from pipeline.corpora.transcript import normalise
from pipeline.params import ParamsFile, Section
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import manifest, parquet
from pipeline.tables.sentences import DEV, SCHEMA, TRAIN

_READ = pa.schema([manifest.SCHEMA.field(name) for name in ("corpus", "text", "split")])
_TEXT = pa.schema([manifest.SCHEMA.field("text")])
_LEAST = 2  # one for train and one for dev


class SentencesParams(Section):
    """The section `sentences`, if it is not null."""

    seed: int
    """Another seed takes other sentences, and others for dev."""
    corpora: list[str]
    """Corpora of `split` whose training transcripts are taken."""
    file: str | None
    """A file with more sentences: plain text with one on each line, or Parquet with a column `text`."""
    most: PositiveInt | None
    """The largest number of sentences; null for all."""
    exclude: list[str]
    """Sentences that are left out, without regard to case and punctuation, such as those of a test corpus."""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the sentences on which a prompt is measured; it is not learnt from them."""


def read_transcripts(manifests: Sequence[Path], corpora: Sequence[str]) -> list[str]:
    """Return the transcripts of the train rows of corpora; raises UserError if a corpus has none."""
    rows = pa.concat_tables([parquet.read(path, _READ, allow_empty=True) for path in manifests])
    rows = rows.filter(pc.and_(pc.equal(rows["split"], "train"), pc.is_valid(rows["text"])))
    known = rows["corpus"].unique().to_pylist()
    for corpus in corpora:
        if corpus not in known:
            expected = ", ".join(sorted(known)) or "none, because no train row has a transcript"
            raise UserError(f"sentences.corpora: found {corpus}, expected some of {expected}")
    texts: list[str] = rows.filter(pc.is_in(rows["corpus"], pa.array(corpora, pa.string())))["text"].to_pylist()
    return texts


def read_file(path: Path) -> list[str]:
    """Return the sentences of a file of text or Parquet; raises UserError if it is missing or is neither."""
    if path.suffix == ".parquet":
        return [text for text in parquet.read(path, _TEXT)["text"].to_pylist() if text is not None]
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"sentences.file: {path}: no such file; expected a sentence on each line, or Parquet") from None
    except UnicodeDecodeError as error:
        raise UserError(f"sentences.file: {path}: found {error.reason}, expected text in UTF-8") from None


def choose(texts: Iterable[str], settings: SentencesParams) -> tuple[pa.Table, Counter[str]]:
    """Return the table of the chosen sentences, ordered by text, and how many are left out for each reason.

    Raises UserError if fewer than two are left.
    """
    distinct = {normalise(text) for text in texts} - {""}
    kept = distinct - {normalise(text) for text in settings.exclude}
    chosen = sorted(kept, key=lambda text: _draw("sentence", text, settings.seed))[: settings.most]
    if len(chosen) < _LEAST:
        raise UserError(f"sentences: found {len(chosen)} different sentences, expected at least {_LEAST}")
    num_dev = min(max(1, round(settings.dev_fraction * len(chosen))), len(chosen) - 1)
    dev = set(sorted(chosen, key=lambda text: _draw(DEV, text, settings.seed))[:num_dev])
    rows = [{"text": text, "split": DEV if text in dev else TRAIN} for text in sorted(chosen)]
    left_out = {"excluded": len(distinct) - len(kept), "above sentences.most": len(kept) - len(chosen)}
    return parquet.from_rows(rows, SCHEMA), Counter(left_out)


def _draw(purpose: str, text: str, seed: int) -> int:
    return int(xxhash.xxh3_64_intdigest(f"{purpose} {seed} {text}".encode()))


def main(
    semantic: Annotated[Path, typer.Option(help="The manifest of speech with transcripts.")],
    emotion: Annotated[Path, typer.Option(help="The manifest of emotional speech.")],
    output: Annotated[Path, typer.Option(help="The table of sentences to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Choose the sentences from which emotion prompts are learnt."""
    settings = params.load(params_file, "sentences", SentencesParams | None)  # type: ignore[arg-type]
    if settings is None:
        parquet.write(SCHEMA.empty_table(), output)
        say("sentences: sentences is null in the parameters, so the table is empty")
        return
    texts = read_transcripts([semantic, emotion], settings.corpora)
    if settings.file is not None:
        texts += read_file(Path(settings.file))
    table, left_out = choose(texts, settings)
    parquet.write(table, output)
    num_dev = pc.sum(pc.equal(table["split"], DEV)).as_py()
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    counts = f"{len(table) - num_dev:,} sentences for train and {num_dev:,} for dev"
    say(f"sentences: {counts}" + (f"; left out {reasons}" if reasons else ""))


if __name__ == "__main__":
    run_stage(main)
