"""Rebuild the packed folder from a published one, for who has the corpora that are withheld.

Clips, transcripts and labels come from the user's own manifest and corpora, and token ids from the tokenizer. The
hashes of a published row show that the rebuilt row is the packed one, bit for bit. A continuation that is withheld
altogether comes from a table of continuations, if the user has generated it again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import params
from pipeline.commands.publish import pointers, published
from pipeline.commands.publish.published import ADDED, SIGNALS, Facts, hashes
from pipeline.corpora.params import read_roots
from pipeline.pack.__main__ import hash_row, in_threads, pack_row, read_clip
from pipeline.params import ParamsFile
from pipeline.progress import track
from pipeline.prompts import Prompter
from pipeline.stage import UserError, say
from pipeline.tables import continuations, manifest, packed, parquet
from pipeline.weights.source import Weights, fetch

Row = Mapping[str, Any]
Pair = tuple[Row, Row | None]
"""A published row, and the manifest's row if something of it is withheld."""

RESTORED, REGENERATED, LEFT_OUT, EMPTY, NO_SIGNALS = range(5)


def find_utterances(rows: Iterable[Row], utterances: Iterator[Row]) -> Iterator[Pair]:
    """Yield each published row with its row of the manifest, found by its hash; both are in the order of their ids.

    Raises UserError if the manifest lacks the row, or has another one of this id.
    """
    for number, row in enumerate(rows):
        if not row["withheld"]:
            yield row, None
            continue
        for utterance in utterances:
            if hash_row(utterance) == row["row_hash"]:
                yield row, utterance
                break
            if utterance["id"] == row["id"]:
                raise UserError(
                    f"{row['id']}: its row of the manifest differs from the packed one; expected the same version of "
                    f"{row['corpus']}, split in the same way"
                )
        else:
            name = row["id"] or f"row {number} of {row['corpus']}"
            raise UserError(f"{name}: not in the manifest; expected all utterances of {row['corpus']}")


@dataclass(slots=True)
class Rebuilder:
    """Restores rows, and counts what it has restored or not."""

    prompter: Prompter
    corpora: Mapping[str, Path]
    """Name of a corpus: its folder."""
    params_file: Path
    counts: Counter[int] = field(default_factory=Counter)

    def clip(self, pair: Pair) -> tuple[bytes, int] | None:
        """Read the clip of a row that is published without it."""
        _, utterance = pair
        if utterance is None:
            return None
        if utterance["corpus"] not in self.corpora:
            raise UserError(f"corpus {utterance['corpus']} is not listed under ingest in {self.params_file}")
        return read_clip(utterance, self.corpora)

    def restore(self, pair: Pair, clip: tuple[bytes, int] | None, answer: Row | None) -> dict[str, Any]:
        """Return the packed row; its continuation is empty if it is withheld and `answer` is None.

        Raises UserError if the restored row is not the packed one.
        """
        row, utterance = pair
        if utterance is None or clip is None:
            return {name: value for name, value in row.items() if name not in ADDED.names}
        text = utterance["text"]
        text_ids = list(self.prompter.content_ids(text)) if text else []
        rebuilt = pack_row(utterance, {"key": row["continuation_key"], "text_ids": text_ids}, clip, 0)
        response_ids = self._response_ids(row, text_ids, answer)
        rebuilt |= {"response_ids": response_ids or [], "num_response_tokens": len(response_ids or [])}
        rebuilt |= {name: row[name] for name in SIGNALS if name in row}
        self.counts[NO_SIGNALS] += SIGNALS[0] in row["withheld"]
        found = hashes(rebuilt)
        if found["packed_hash"] != row["packed_hash"]:
            raise UserError(
                f"{utterance['id']}: found {rebuilt['num_samples']} samples and {len(text_ids)} tokens, which are not "
                f"the packed {row['num_samples']} and {row['num_text_tokens']}; expected the same audio files, models"
                ".llm and versions of soundfile and soxr"
            )
        if response_ids is not None and found["response_hash"] != row["response_hash"]:
            raise UserError(f"{utterance['id']}: found another continuation than the packed one")
        self.counts[RESTORED] += response_ids is not None
        return rebuilt

    def _response_ids(self, row: Row, text_ids: list[int], answer: Row | None) -> list[int] | None:
        """Return the continuation; None if it is withheld and not generated again."""
        if "response_ids" not in row["withheld"]:
            return list(row["response_ids"])
        if row["response_pointers"] is not None:
            try:
                return pointers.decode(row["response_pointers"], text_ids)
            except IndexError:
                return []  # another tokenizer, which the hash of the row shows
        if answer is None or answer["key"] != row["continuation_key"]:
            return None
        self.counts[REGENERATED] += 1
        return continuations.response_ids(answer, self.prompter.end_id)


def _with_answers(pairs: Iterable[Pair], answers: Iterator[Row]) -> Iterator[tuple[Pair, Row | None]]:
    """Yield the pairs, each with the user's own continuation if that of the row is withheld altogether."""
    head = next(answers, None)
    for pair in pairs:
        row, utterance = pair
        found = None
        if utterance is not None and "response_ids" in row["withheld"] and row["response_pointers"] is None:
            while head is not None and head["id"] < utterance["id"]:
                head = next(answers, None)
            found = head if head is not None and head["id"] == utterance["id"] else None
        yield pair, found


def rebuild(folder: Path, manifest_file: Path, kept_file: Path | None, output: Path, params_file: Path) -> None:
    """Write the packed folder; see `command`."""
    facts = published.read_facts(folder)
    shell = packed.load_shell(folder)
    prompter = Prompter.load(fetch(params.load(params_file, "models.llm", Weights)))
    rebuilder = Rebuilder(prompter, read_roots(params_file), params_file)
    schema = packed.SCHEMA_WITH_SIGNALS if facts.has_signals else packed.SCHEMA
    with packed.Writer(output, shell, facts.shard_mb * 1_000_000, schema) as writer:
        for split, count in facts.splits.items():
            writer.open(split)
            if not count:
                continue
            pairs = _pairs(folder, split, manifest_file, kept_file)
            for (pair, answer), clip in in_threads(pairs, lambda item: rebuilder.clip(item[0])):
                row = rebuilder.restore(pair, clip, answer)
                if row["num_response_tokens"] < pair[0]["num_response_tokens"]:
                    rebuilder.counts[LEFT_OUT if split == "train" else EMPTY] += 1
                    if split == "train":
                        continue  # a row without a target cannot be trained on
                writer.add(split, row)
    _report(facts, writer.counts, rebuilder.counts)


def _pairs(folder: Path, split: str, manifest_file: Path, kept_file: Path | None) -> Iterator[tuple[Pair, Row | None]]:
    rows = published.rows(folder, split)
    utterances = (row for row in parquet.rows_by_id(manifest_file, manifest.SCHEMA) if row["split"] == split)
    answers = iter(()) if kept_file is None else parquet.rows_by_id(kept_file, continuations.SCHEMA)
    return _with_answers(find_utterances(track(rows, f"rebuild {split}"), utterances), answers)


def _report(facts: Facts, rows: Mapping[str, int], counts: Counter[int]) -> None:
    """Print what was rebuilt."""
    say(f"rebuild: {facts.kind}: " + ", ".join(f"{count:,} {split}" for split, count in rows.items()) + " rows")
    say(
        f"  {counts[RESTORED]:,} withheld rows equal the packed rows, bit for bit; {counts[REGENERATED]:,} of their "
        "continuations were generated again"
    )
    if counts[LEFT_OUT] or counts[EMPTY]:
        say(
            f"  continuations withheld: {counts[LEFT_OUT]:,} train rows left out, {counts[EMPTY]:,} dev and test rows "
            "without one; run generate and filter, and rebuild with --kept"
        )
    if counts[NO_SIGNALS]:
        say(f"  teacher signals withheld: {counts[NO_SIGNALS]:,} rows; only generate can compute them again")


def command(folder: Path) -> Callable[..., None]:
    """Return the command that rebuilds a published folder."""

    def main(
        manifest_file: Annotated[Path, typer.Option("--manifest", help="Your manifest, as split has written it.")],
        output: Annotated[Path, typer.Option(help="The packed folder to write.")],
        kept_file: Annotated[
            Path | None, typer.Option("--kept", help="Your kept continuations, for those that are withheld.")
        ] = None,
        params_file: ParamsFile = Path("params.yaml"),
    ) -> None:
        """Rebuild the packed folder from this one, your manifest and your corpora.

        The parameters are those of the publisher (models.llm), with your own folders of the corpora under ingest.
        """
        rebuild(folder, manifest_file, kept_file, output, params_file)

    return main
