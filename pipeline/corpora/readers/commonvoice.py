"""Common Voice: sentences read by volunteers, `en/clips/common_voice_en_1.mp3` and train.tsv, dev.tsv, test.tsv.

Only the official splits are read. validated.tsv also contains further recordings of the same sentences. The recordings
of other.tsv and invalidated.tsv are not validated. The root is the folder of a language, or up to two folders above it.
There are no counts, because releases and languages differ in size. A volunteer's account (client_id) is the speaker.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import find, lines
from pipeline.corpora.genders import gender_at
from pipeline.stage import UserError
from pipeline.tables import languages

SPLITS = ("train", "dev", "test")
ATTRIBUTES = ("age", "accent", "accents", "up_votes", "down_votes")

_COLUMNS = ("client_id", "path", "sentence")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of the official splits of all languages."""
    for folder in _languages(root):
        inner = folder.relative_to(root).as_posix()
        clips = "clips" if folder == root else f"{inner}/clips"
        for split in SPLITS:
            table = folder / f"{split}.tsv"
            for line, row in _rows(table):
                name = row["path"].removesuffix(".mp3")
                locale = row.get("locale") or folder.resolve().name
                if not (language := languages.canonical(locale)):
                    raise UserError(f"{table}: line {line}: expected a language code as locale, found {locale}")
                yield Clip(
                    utterance=name,
                    audio=f"{clips}/{name}.mp3",
                    text=row["sentence"],
                    speaker=row["client_id"],
                    language=language,
                    gender=gender_at(f"{table}: line {line}", row.get("gender", "")),
                    split=split,
                    attributes={column: row[column] for column in ATTRIBUTES if row.get(column)} or None,
                )


def _languages(root: Path) -> list[Path]:
    for depth in ("", "*/", "*/*/"):
        folders = {path.parent for split in SPLITS for path in find(root, f"{depth}{split}.tsv")}
        if folders:  # a deeper search would list the millions of files in clips/
            return sorted(folders)
    return []


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield lines of cells between tabs; quotation marks belong to the sentence, even unpaired ones."""
    if not path.is_file():
        return
    table = lines(path)
    columns = next(table, "").rstrip("\r\n").split("\t")
    for column in _COLUMNS:
        if column not in columns:
            raise UserError(f"{path}: line 1: lacks the column {column}; found {', '.join(columns)}")
    for number, line in enumerate(table, start=2):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(columns):
            found = f"{len(cells)}, of which the first are {', '.join(cells[:2])}"
            raise UserError(f"{path}: line {number}: expected {len(columns)} cells, found {found}")
        yield number, dict(zip(columns, cells, strict=True))


CORPUS = Corpus(
    title="Common Voice",
    layout="cv-corpus-13.0-2023-03-09/en/train.tsv, dev.tsv, test.tsv and en/clips/common_voice_en_1.mp3",
    licence="CC0-1.0",
    source="https://commonvoice.mozilla.org/datasets",
    language="en",
    read=read,
)
