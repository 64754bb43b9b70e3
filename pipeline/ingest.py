"""Ingest: a corpus as it lies on disk becomes manifest rows, and unusable clips a quarantine table with reasons."""

import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer
import xxhash

from pipeline import audio, manifest, tables, taxonomy
from pipeline.corpora import READERS
from pipeline.corpora.clip import Clip
from pipeline.stage import UserError, run, say
from pipeline.transcript import normalise

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

Row = dict[str, Any]


def ingest(root: Path, reader: str, corpus: str) -> tuple[pa.Table, pa.Table]:
    """Read a corpus into its manifest and its quarantine; raises UserError on a wrong layout or a double id."""
    clips = list(READERS[reader](root))
    doubles = [utterance for utterance, count in Counter(clip.utterance for clip in clips).items() if count > 1]
    if doubles:
        paths = ", ".join(clip.audio for clip in clips if clip.utterance == doubles[0])
        raise UserError(f"{root}: expected one clip for each id, found {doubles[0]} as {paths}")
    sound = [clip for clip in clips if clip.fault is None]
    emotions = taxonomy.mapping(reader, (clip.emotion for clip in sound if clip.emotion is not None))

    def examine(clip: Clip) -> Row:
        return _examine(clip, root, corpus, emotions)

    # decoding leaves Python's lock, so threads use all cores; map keeps the order
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(examine, clips))
    usable = [row for row in rows if "reason" not in row]
    unusable = [row for row in rows if "reason" in row]
    return tables.from_rows(usable, manifest.SCHEMA), tables.from_rows(unusable, manifest.QUARANTINE_SCHEMA)


def _examine(clip: Clip, root: Path, corpus: str, emotions: dict[str, str]) -> Row:
    """Make a manifest row of a usable clip, a quarantine row of any other."""
    key = {"id": f"{corpus}/{clip.utterance}", "corpus": corpus, "audio": clip.audio}
    text = normalise(clip.text)
    fault = clip.fault or ("empty transcript" if not text else None)
    if fault is not None:
        return {**key, "reason": fault}
    try:
        probe = audio.probe(root / clip.audio, clip.start_s, clip.duration_s)
    except audio.UnreadableAudio as error:
        return {**key, "reason": str(error)}
    if probe.peak == 0:
        return {**key, "reason": "silent"}
    return {
        **key,
        "start_s": clip.start_s,
        "duration_s": probe.duration_s,
        "sample_rate_hz": probe.sample_rate_hz,
        "channels": probe.channels,
        "text": text,
        "text_published": clip.text,
        "language": clip.language,
        "speaker": f"{corpus}/{clip.speaker}",
        "gender": clip.gender,
        "session": clip.session,
        "turn": clip.turn,
        "emotion": None if clip.emotion is None else emotions[clip.emotion],
        "emotion_published": clip.emotion,
        "votes": None if clip.votes is None else list(clip.votes.items()),
        "intensity": clip.intensity,
        "split": clip.split,
        "licence": clip.licence,
        "content_hash": probe.content_hash,
    }


def summarise(corpus: str, usable: pa.Table, unusable: pa.Table) -> dict[str, Any]:
    """Count what came in and what was set aside."""
    return {
        "corpus": corpus,
        "rows": usable.num_rows,
        "hours": round(sum(usable["duration_s"].to_pylist()) / 3600, 4),
        "speakers": pc.count_distinct(usable["speaker"]).as_py(),
        "quarantined": dict(sorted(Counter(unusable["reason"].to_pylist()).items())),
    }


def main(
    corpus: Annotated[str, typer.Option(help=f"Reader of the corpus' layout: {', '.join(READERS)}.")],
    root: Annotated[Path, typer.Option(help="Folder in which the corpus lies.")],
    output: Annotated[Path, typer.Option(help="Manifest to write (.parquet); the quarantine goes beside it.")],
    name: Annotated[str | None, typer.Option(help="Name in the manifest, if other than the reader's.")] = None,
) -> None:
    """Turn a corpus on disk into manifest rows; unusable clips go to a quarantine table with a reason."""
    name = name or corpus
    if corpus not in READERS:
        raise typer.BadParameter(f"found {corpus}, expected one of {', '.join(READERS)}", param_hint="--corpus")
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"found {name!r}, expected letters, digits, - _ .", param_hint="--name")
    if output.suffix != ".parquet":
        raise typer.BadParameter(f"found {output}, expected a .parquet file", param_hint="--output")
    usable, unusable = ingest(root, corpus, name)
    quarantine = output.with_suffix(".quarantine.parquet")
    tables.write(unusable, quarantine)
    summary = summarise(name, usable, unusable)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["quarantined"].items())
    if usable.num_rows == 0:
        raise UserError(f"{root}: no usable clip; expected at least one, found {reasons} (see {quarantine})")
    tables.write(usable, output)
    summary["manifest_xxh3_128"] = xxhash.xxh3_128_hexdigest(output.read_bytes())
    # last, for it tells DVC that the corpus is in
    with tables.whole(output.parent / "ingested" / f"{output.stem}.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    say(
        f"ingest: {name}: {usable.num_rows:,} clips, {summary['hours']:.2f} h, {summary['speakers']} speakers; "
        f"{unusable.num_rows:,} quarantined" + (f" ({reasons})" if reasons else "")
    )


if __name__ == "__main__":
    run(main)
