"""Pack the clips and token ids that training and evaluation read.

The train split contains the rows whose continuation the filter kept. The dev and test splits contain every row of the
manifest, so that emotion recognition is always tested on the same clips, whatever the filter drops. In dev and test, a
row without a usable continuation has an empty one. The KL divergence is computed only for rows with a continuation.

All tables are in the order of their ids, and are read in step. Threads read the clips a little ahead.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import typer
from pydantic import Field

from pipeline import params
from pipeline.audio import recordings
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.corpora.params import read_roots
from pipeline.params import Alignment, ParamsFile, Section
from pipeline.progress import track
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import continuations, manifest, packed, parquet
from pipeline.weights.source import Weights, fetch

Row = Mapping[str, Any]
T = TypeVar("T")
R = TypeVar("R")

_CLIPS_AHEAD = 16  # for each thread
_DROPPED_SCHEMA = pa.schema([continuations.SCHEMA.field(name) for name in ("id", "key", "text_ids")])


class PackParams(Section):
    """The section `pack`."""

    shard_mb: Annotated[int, Field(ge=1)]
    """Size of a shard, which is one file."""


def choose_rows(utterances: Iterable[Row], kept: Iterator[Row], dropped: Iterator[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield each row of the manifest that is packed, with its kept or dropped continuation.

    Raises UserError if an utterance has neither.
    """
    for row, (usable, unusable) in parquet.joined(utterances, kept, dropped):
        answer = usable or unusable
        if answer is None:
            raise UserError(f"{row['id']}: found no continuation, kept or dropped; run filter on this manifest")
        if row["split"] in (manifest.SPLITS if usable else manifest.SPLITS[1:]):
            yield row, answer


def pack_row(row: Row, answer: Row, audio: tuple[bytes, int], end_id: int) -> dict[str, Any]:
    """Return the packed row of an utterance; `end_id` ends an answer whose end token is not known."""
    flac_bytes, num_samples = audio
    response_ids = continuations.response_ids(answer, end_id) if "token_ids" in answer else []
    votes = row["emotion_votes"]
    return {
        **{name: row[name] for name in ("id", "corpus", "speaker", "language", "licence", "emotion")},
        "emotion_votes": None if votes is None else [{"emotion": name, "share": share} for name, share in votes],
        "text": row["text"] or "",
        "audio": {"bytes": flac_bytes, "path": None},
        "num_samples": num_samples,
        "num_speech_tokens": num_speech_tokens(num_mel_frames(num_samples)),
        "num_text_tokens": len(answer["text_ids"]),
        "num_response_tokens": len(response_ids),
        "text_ids": answer["text_ids"],
        "response_ids": response_ids,
        "continuation_key": answer["key"],
        "row_hash": hash_row(row),
        **{name: answer[name] for name in continuations.SIGNALS_SCHEMA.names if name in answer},
    }


def hash_row(row: Row) -> str:
    """Return the MD5 of a manifest row."""
    return hashlib.md5(json.dumps(row, sort_keys=True).encode()).hexdigest()


def in_threads(items: Iterable[T], function: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """Yield the items in order, each with the result of `function`; threads compute a little ahead."""
    num_threads = len(os.sched_getaffinity(0))
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > num_threads * _CLIPS_AHEAD:
                    item, result = waiting.popleft()
                    yield item, result.result()
            for item, result in waiting:
                yield item, result.result()
        finally:
            pool.shutdown(cancel_futures=True)


def read_clip(row: Row, corpora: Mapping[str, Path]) -> tuple[bytes, int]:
    """Read the clip of a manifest row as FLAC, and its number of samples; raises UserError if that fails."""
    path = corpora[row["corpus"]] / row["audio"]
    try:
        return recordings.read_flac(path, row["start_s"], row["duration_s"])
    except recordings.UnreadableAudio as error:
        raise UserError(f"{path}: {error}; ingest {row['corpus']} again, with --check samples") from None


def prompt_shell(prompt: Prompt, prompter: Prompter, kind: str) -> packed.PromptShell:
    """Return the prompt ids that all rows of a kind share."""
    speech = prompter.speech(prompt)
    text = prompter.text(prompt, "") if kind == "semantic" else None
    return packed.PromptShell(
        before_speech=list(speech.before),
        before_text=None if text is None else list(text.before),
        after=list(speech.after),
    )


def main(
    kind: Annotated[Alignment, typer.Option(help="Which alignment the rows are for: semantic or emotion.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="The manifest of this alignment.")],
    kept_file: Annotated[Path, typer.Option("--kept", help="The kept continuations.")],
    dropped_file: Annotated[Path, typer.Option("--dropped", help="The dropped continuations.")],
    output: Annotated[Path, typer.Option(help="The packed folder to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Pack the clips and token ids that training and evaluation read."""
    settings = params.load(params_file, "pack", PackParams)
    corpora = read_roots(params_file)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    llm = params.load(params_file, "models.llm", Weights)
    found = parquet.read_columns(manifest_file, ["corpus"])["corpus"].unique().to_pylist()
    if missing := set(found) - set(corpora):
        raise UserError(f"{manifest_file}: corpus {min(missing)} is not listed under ingest in {params_file}")
    prompter = Prompter.load(fetch(llm))
    signals = continuations.SIGNALS_SCHEMA if kind == "semantic" else pa.schema([])
    has_signals = set(signals.names) <= set(parquet.columns(kept_file)) and len(signals) > 0
    rows = choose_rows(
        track(parquet.rows_by_id(manifest_file, manifest.SCHEMA), f"pack {kind}", parquet.num_rows(manifest_file)),
        parquet.rows_by_id(kept_file, continuations.SCHEMA, optional=signals),
        parquet.rows_by_id(dropped_file, _DROPPED_SCHEMA, allow_empty=True),
    )
    schema = packed.SCHEMA_WITH_SIGNALS if has_signals else packed.SCHEMA
    shell = prompt_shell(prompt, prompter, kind)
    with packed.Writer(output, shell, settings.shard_mb * 1_000_000, schema) as writer:
        for split in manifest.SPLITS:
            writer.open(split)
        for (row, answer), audio in in_threads(rows, lambda pair: read_clip(pair[0], corpora)):
            writer.add(row["split"], pack_row(row, answer, audio, prompter.end_id))
        if writer.counts["train"] == 0:
            raise UserError(f"{kept_file}: no continuation of a train row of {manifest_file} was kept")
    say(f"pack: {kind}: " + ", ".join(f"{count:,} {split}" for split, count in writer.counts.items()) + " rows")


if __name__ == "__main__":
    run_stage(main)
