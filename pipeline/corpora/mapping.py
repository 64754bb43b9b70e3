"""The mapping of a table of clips: a few lines of YAML that name the column of each field.

    language: de
    licence: CC-BY-4.0
    columns: {audio: file, speaker: actor, emotion: label}
    labels: {Freude: happy, Wut: angry, unklar: }

`columns` names the column of each field. A column with the name of its field needs no line. An empty name leaves a
field out. The fields are id (by default the audio's path without suffix), audio (relative to the root), text, speaker,
start_s, duration_s, language, gender, session, dialogue, turn, emotion, intensity and split.
`labels` maps each published label to a unified emotion, or to nothing if it names no single emotion. A label with the
name of a unified emotion needs no line. The other keys are optional:

    constants: {gender: female}    values of fields without a column
    votes: {Wut: n_wut}            label: column with the number of votes; also votes_face and votes_both
    attributes: [age]              columns to keep as published
    table: clips.csv               the table below the root, if --table is not given
    dataset: ID                    the Hugging Face data set, if --dataset is not given
    encoding: cp1252               encoding of text that is not UTF-8: latin-1 or cp1252
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.table_rows import Record
from pipeline.params import Section
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS
from pipeline.tables.manifest import UNKNOWN_SPEAKER
from pipeline.tables.quarantine import Fault

Constant = Literal["speaker", "gender", "session", "dialogue", "emotion", "intensity", "split"]
Name = Literal["id", "audio", "text", "start_s", "duration_s", "language", "turn", Constant]

SPLITS = {"train": "train", "dev": "dev", "test": "test", "validation": "dev", "valid": "dev", "val": "dev"}
LANGUAGE = "[a-z]{2,3}"

_GENDERS = {"f": "female", "female": "female", "m": "male", "male": "male"}
_SECONDS = ("start_s", "duration_s")


def _check_emotion(name: str) -> str:
    if name and name not in EMOTIONS:
        raise ValueError(f"{', '.join(EMOTIONS)} or nothing")
    return name


class TableMapping(Section):
    """The content of the YAML file; the module's docstring explains the keys."""

    language: Annotated[str, Field(pattern=f"^{LANGUAGE}$")]
    """ISO 639-1 code for rows without their own."""
    licence: Annotated[str, Field(min_length=1)]
    columns: dict[Name, str] = Field(default_factory=dict)
    constants: dict[Constant, str] = Field(default_factory=dict)
    labels: dict[str, Annotated[str, AfterValidator(_check_emotion)]] = Field(default_factory=dict)
    votes: dict[str, str] = Field(default_factory=dict)
    votes_face: dict[str, str] = Field(default_factory=dict)
    votes_both: dict[str, str] = Field(default_factory=dict)
    attributes: list[str] = Field(default_factory=list)
    table: str | None = None
    dataset: str | None = None
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"

    @model_validator(mode="after")
    def _check_votes(self) -> Self:
        unknown = [label for label in (*self.votes, *self.votes_face, *self.votes_both) if label not in self.emotions]
        if unknown:
            raise ValueError(f"a line under labels for each label under votes, found none for {unknown[0]}")
        return self

    @property
    def emotions(self) -> dict[str, str | None]:
        """Published label: unified emotion."""
        return {name: name for name in EMOTIONS} | {label: name or None for label, name in self.labels.items()}


@dataclass(frozen=True, slots=True)
class Fields:
    """The columns of a table that hold the fields of its clips."""

    mapping: TableMapping
    columns: Mapping[str, str]
    """Field: column."""

    def clip(self, record: Record) -> Clip:
        """Make a clip from a row; raises UserError if a cell does not fit its field."""
        cells: dict[str, str] = dict(self.mapping.constants.items())
        cells |= {name: cell for name, column in self.columns.items() if (cell := record.text(column))}
        seconds = {name: record.number(self.columns[name]) or 0.0 for name in _SECONDS if name in cells}
        audio = cells.get("audio", record.place.replace(" ", "-"))
        split = cells.get("split", "")
        if split and split not in SPLITS:
            raise record.mistake("split", f"one of {', '.join(SPLITS)}", split)
        language = cells.get("language")
        if language and not re.fullmatch(LANGUAGE, language):
            raise record.mistake("language", "an ISO 639 code such as en", language)
        attributes = {name: record.text(name) for name in self.mapping.attributes}
        return Clip(
            utterance=cells.get("id", splitext(audio)[0]),
            audio=audio,
            text=cells.get("text", "") if "text" in self.columns else None,
            speaker=cells.get("speaker", UNKNOWN_SPEAKER),
            start_s=seconds.get("start_s", 0.0),
            duration_s=seconds.get("duration_s"),
            language=language,
            gender=_GENDERS.get(cells.get("gender", "").lower()),
            session=cells.get("session"),
            dialogue=cells.get("dialogue"),
            turn=record.count(self.columns["turn"]) if "turn" in cells else None,
            emotion=cells.get("emotion"),
            votes=_votes(record, self.mapping.votes),
            votes_face=_votes(record, self.mapping.votes_face),
            votes_both=_votes(record, self.mapping.votes_both),
            intensity=cells.get("intensity"),
            split=SPLITS.get(split),
            attributes={name: value for name, value in attributes.items() if value} or None,
            fault=None if "audio" in cells else Fault("no-file", "the table names no file"),
        )


def describe(title: str, fields: Fields, source: str, read: Callable[[Path], Iterator[Clip]]) -> Corpus:
    """Describe a corpus by its mapping."""
    options = fields.mapping
    has_emotions = "emotion" in {*fields.columns, *options.constants}
    return Corpus(
        title=title,
        layout=f"the audio that {source} names",
        licence=options.licence,
        source=source,
        language=options.language,
        read=read,
        labels=options.emotions if has_emotions else {},
    )


def read_mapping(path: Path) -> TableMapping:
    """Read the YAML file; raises UserError with all mistakes in it."""
    try:
        # BaseLoader reads all values as text: no is the code of Norwegian, and a label may be 1
        content = yaml.load(path.read_bytes(), yaml.BaseLoader)
        return TableMapping.model_validate(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mapping; expected YAML that names the columns of the table") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_tell, error.errors()))}") from None


def find_fields(mapping: TableMapping, found: Sequence[str], table: str, path: Path) -> Fields:
    """Find the fields among the columns `found` in a table; raises UserError if a needed column is missing."""
    has = f"found the columns {', '.join(found) or 'none'}"
    columns = {name: name for name in get_args(Name) if name in found and name not in mapping.constants}
    columns = {name: column for name, column in (columns | mapping.columns).items() if column}
    votes = (*mapping.votes.values(), *mapping.votes_face.values(), *mapping.votes_both.values())
    for column in (*columns.values(), *votes, *mapping.attributes):
        if column not in found:
            raise UserError(f"{table}: lacks the column {column} that {path} names; {has}")
    needed = {"audio", "speaker"} | ({"id"} if "start_s" in columns else set()) | ({"emotion"} if votes else set())
    for name in sorted(needed - columns.keys() - mapping.constants.keys()):
        raise UserError(f"{table}: lacks the column {name}; {has}, expected its actual name under columns in {path}")
    return Fields(mapping, columns)


def _votes(record: Record, columns: Mapping[str, str]) -> dict[str, float] | None:
    counts = {label: record.number(column) for label, column in columns.items()}
    return {label: count for label, count in counts.items() if count is not None} or None


def _tell(mistake: Mapping[str, Any]) -> str:
    where = ".".join(str(key) for key in mistake["loc"] if key != "[key]")
    if mistake["type"] == "missing":
        return f"{where}: missing"
    if mistake["type"] == "extra_forbidden":
        return f"{where}: unknown key, expected one of {', '.join(TableMapping.model_fields)}"
    expected = mistake["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: expected {expected}, found {mistake['input']!r}" if where else f"expected {expected}"
