"""Draw random rows of a table, to print them or to write their clips for listening."""

import csv
import io
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow.dataset
import pyarrow.parquet as pq
import soundfile
import typer

from pipeline.audio import mono_16k, recordings
from pipeline.commands.options import Json, Table, Where, print_found
from pipeline.commands.text_tables import TIE, lay_out_record
from pipeline.corpora.params import read_roots
from pipeline.params import ParamsFile
from pipeline.stage import UserError, say
from pipeline.tables import manifest, parquet

INDEX_COLUMNS = ("file", "id", "corpus", "split", "speaker", "emotion", "duration_s", "text")

# Of the manifest's columns, only these are printed. Columns that no manifest has are all printed.
_TOLD = (
    "text", "emotion", "intensity", "emotion_votes", "speaker", "gender", "session", "dialogue", "turn", "split",
    "duration_s", "audio", "start_s",
)  # fmt: skip
# errors that pandas raises for a faulty expression
_MISTAKES = (
    ArithmeticError, AttributeError, IndexError, KeyError, NameError, NotImplementedError, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
_NAME_LENGTH = 60  # characters of up to 4 bytes; file systems allow names of 255 bytes

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows drawn at random; `fitting` is the number of rows that they were drawn from."""

    file: str
    fitting: int
    rows: list[Row]


def draw(path: Path, number: int, seed: int, where: str | None) -> Sample:
    """Draw rows for which a pandas expression is true, in the table's order; equal seeds draw equal rows.

    Raises UserError if the expression is faulty, or true for no row.
    """
    positions = fitting(path, where)
    chosen = sorted(random.Random(seed).sample(positions, min(number, len(positions))))
    with parquet.readable(path):
        rows = pyarrow.dataset.dataset(path, format="parquet").take(chosen).to_pylist(maps_as_pydicts="strict")
    return Sample(str(path), len(positions), rows)


def fitting(path: Path, where: str | None) -> Sequence[int]:
    """Return the positions of the rows for which a pandas expression is true; read only the columns that it names.

    Raises UserError if the expression is faulty, or true for no row.
    """
    import pandas as pd

    names = parquet.columns(path)
    if where is None:
        if not (number := pq.read_metadata(path).num_rows):
            raise UserError(f"{path}: no rows")
        return range(number)
    named = [name for name in names if name == names[0] or re.search(rf"\b{re.escape(name)}\b", where)]
    frame = parquet.read_columns(path, named).to_pandas(maps_as_pydicts="strict")
    try:
        holds = frame.eval(where, engine="python")
    except _MISTAKES as error:
        said = error.msg if isinstance(error, SyntaxError) else error
        known = f"; the columns are {', '.join(names)}" if isinstance(error, NameError) else ""
        raise UserError(f"--where {where}: {said}{known}") from None
    if not isinstance(holds, pd.Series) or not pd.api.types.is_bool_dtype(holds):
        raise UserError(f"--where {where}: expected true or false for each row, as in \"emotion == 'sad'\"")
    positions: list[int] = holds.to_numpy(dtype=bool, na_value=False).nonzero()[0].tolist()
    if not positions:
        raise UserError(f"{path}: --where {where}: true for no row")
    return positions


def describe(sample: Sample) -> str:
    """Lay out the rows under their ids, without null values."""
    records = [lay_out_record(str(row.get("id", "")), _facts(row)) for row in sample.rows]
    return "\n\n".join([*records, f"{len(sample.rows):,} of {sample.fitting:,} rows"])


def write_clips(sample: Sample, folder: Path, roots: Mapping[str, Path]) -> list[Row]:
    """Write each row's clip as a WAV file named by its id, then index.csv; return the rows, each with its `file`.

    Raises UserError if a row names no audio, its corpus has no root, or its clip cannot be read.
    """
    for row in sample.rows:
        missing = [name for name in ("id", "corpus", "audio") if name not in row]
        if missing:
            raise UserError(f"{sample.file}: lacks the column {missing[0]}, which is needed to find a clip")
        if row["corpus"] not in roots:
            known = ", ".join(roots) or "none"
            raise UserError(f"{sample.file}: found no root of {row['corpus']}; the section ingest lists {known}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row, name in zip(sample.rows, _file_names([row["id"] for row in sample.rows]), strict=True):
        place = roots[row["corpus"]] / row["audio"]
        try:
            samples = recordings.read(place, row.get("start_s") or 0.0, row.get("duration_s"))
        except recordings.UnreadableAudio as error:
            raise UserError(f"{place}: {error}") from None
        wav = io.BytesIO()  # if the disk is full, libsndfile names neither the reason nor the file
        soundfile.write(wav, samples, mono_16k.SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
        with parquet.whole(folder / name) as partial:
            partial.write_bytes(wav.getbuffer())
        written.append({"file": name, **row})
    with parquet.whole(folder / "index.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, INDEX_COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(written)
    return written


def _facts(row: Row) -> dict[str, str]:
    own = [name for name in row if name not in manifest.SCHEMA.names]
    told = [name for name in (*_TOLD, *own) if row.get(name) is not None and (name, row[name]) != ("start_s", 0)]
    return {name: _word(row[name]) for name in told}


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}{TIE}{_word(number)}" for key, number in value.items())
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _file_names(ids: Sequence[str]) -> list[str]:
    """Return a file name for each id; the names are unique and valid on every file system."""
    stems = [re.sub(r"[^\w.-]+", "_", key)[-_NAME_LENGTH:] for key in ids]
    seen = Counter[str]()
    names = []
    for stem in stems:
        seen[stem] += 1
        names.append(f"{stem}.wav" if seen[stem] == 1 else f"{stem}~{seen[stem]}.wav")
    return names


def main(
    file: Table,
    number: Annotated[int, typer.Option("-n", help="Number of rows.", min=1)] = 5,
    where: Where = None,
    seed: Annotated[int, typer.Option(help="Seed of the random draw.")] = 1,
    to: Annotated[Path | None, typer.Option(help="Write the clips and an index.csv to this folder.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Print rows drawn at random, or write clips to listen to.

    Clips become 16 kHz mono WAV files named by id. The section ingest of the parameter file names the folders of the
    corpora.

    \b
    python -m pipeline sample manifests/emotion.parquet --to listen \\
        --where "emotion == 'sad' and duration_s < 3"

    \b
    JSON: file; fitting (number of rows to draw from); rows: a list of objects
    with all columns; with --to they also have the key file, the name of the clip.
    """
    drawn = draw(file, number, seed, where)
    if to is not None:
        drawn = replace(drawn, rows=write_clips(drawn, to, read_roots(params_file)))
    print_found(drawn, describe(drawn), as_json)
    if to is not None and not as_json:
        say(f"sample: wrote {len(drawn.rows):,} clips and index.csv to {to}")
