"""The mapping of a table of clips: a few lines of YAML that name the column of each field.

    language: de
    licence: CC-BY-4.0
    columns: {audio: file, speaker: actor, emotion: label}
    labels: {Freude: happy, Wut: angry, unklar: }

`columns` names the column of each field. A column with the name of its field needs no line. An empty name leaves a
field out. The fields are id (by default the audio's path without suffix), audio (relative to the root), text, speaker,
start_s, duration_s, language, gender, session, dialogue, turn, emotion, intensity and split.
`labels` maps each published label to a unified emotion, or to nothing if it names no single emotion. A label with the
name of a unified emotion needs no line. Column names may differ from the table's in case. The other keys are optional:

    constants: {gender: female}    values of fields without a column
    votes: {Wut: n_wut}            label: column with the number of votes; also votes_face and votes_both
    attributes: [age]              columns to keep as published
    splits: {evaluation: test}     published name of a split: train, dev, test, or nothing
    genders: {1: female, 9: }      published name of a gender: female, male, or nothing
    tags: [(risas), xxx]           what nobody speaks in the transcripts, beside [LAUGHTER] and the like
    table: clips.csv               the table below the root, if --table is not given
    dataset: ID                    the Hugging Face data set, if --dataset is not given
    encoding: cp1252               encoding of text that is not UTF-8: latin-1 or cp1252
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import splitext
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.corpora import splits
from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.genders import GENDERS
from pipeline.corpora.table_rows import Record, find_column
from pipeline.params import Section, load_yaml
from pipeline.stage import UserError
from pipeline.tables import languages
from pipeline.tables.emotions import EMOTIONS
from pipeline.tables.manifest import UNKNOWN_SPEAKER
from pipeline.tables.quarantine import Fault

Constant = Literal["speaker", "gender", "session", "dialogue", "emotion", "intensity", "split"]
Name = Literal["id", "audio", "text", "start_s", "duration_s", "language", "turn", Constant]

_SECONDS = ("start_s", "duration_s")


def _check_emotion(name: str) -> str:
    if name and name not in EMOTIONS:
        raise ValueError(f"{', '.join(EMOTIONS)} or nothing")
    return name


def _check_language(tag: str) -> str:
    if languages.canonical(tag) is None:
        raise ValueError("an ISO 639 code such as en")
    return tag


class TableMapping(Section):
    """The content of the YAML file; the module's docstring explains the keys."""

    language: Annotated[str, AfterValidator(_check_language)]
    """ISO 639 code for rows without their own."""
    licence: Annotated[str, Field(min_length=1)]
    columns: dict[Name, str] = Field(default_factory=dict)
    constants: dict[Constant, str] = Field(default_factory=dict)
    labels: dict[str, Annotated[str, AfterValidator(_check_emotion)]] = Field(default_factory=dict)
    votes: dict[str, str] = Field(default_factory=dict)
    votes_face: dict[str, str] = Field(default_factory=dict)
    votes_both: dict[str, str] = Field(default_factory=dict)
    attributes: list[str] = Field(default_factory=list)
    splits: dict[str, Literal["train", "dev", "test", ""]] = Field(default_factory=dict)
    genders: dict[str, Literal["female", "male", ""]] = Field(default_factory=dict)
    tags: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
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
    attributes: Mapping[str, str]
    """Attribute: column."""
    votes: tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]
    """Label: column with the number of its votes, of votes, votes_face and votes_both."""

    def clip(self, record: Record) -> Clip:
        """Make a clip from a row; raises UserError if a cell does not fit its field. The message names the row's id."""
        try:
            return self._clip(record)
        except UserError as error:
            raise self.named(record, error) from None

    def named(self, record: Record, error: UserError) -> UserError:
        """Return an error about a row together with the row's id, or else its audio."""
        cells = (record.cells.get(self.columns.get(field, "")) for field in ("id", "audio"))
        name = next((cell for cell in cells if isinstance(cell, str | int) and str(cell).strip()), None)
        return error if name is None else UserError(f"{error} (clip {name})")

    def _clip(self, record: Record) -> Clip:
        cells: dict[str, str] = dict(self.mapping.constants.items())
        cells |= {name: cell for name, column in self.columns.items() if (cell := record.text(column))}
        seconds = {name: record.number(self.columns[name]) or 0.0 for name in _SECONDS if name in cells}
        audio = cells.get("audio", record.place.replace(" ", "-"))
        language = cells.get("language")
        if language and languages.canonical(language) is None:
            raise record.mistake("language", "an ISO 639 code such as en", language)
        attributes = {name: record.text(column) for name, column in self.attributes.items()}
        return Clip(
            utterance=cells.get("id", splitext(audio)[0]),
            audio=audio,
            text=cells.get("text", "") if "text" in self.columns else None,
            speaker=cells.get("speaker", UNKNOWN_SPEAKER),
            start_s=seconds.get("start_s", 0.0),
            duration_s=seconds.get("duration_s"),
            language=language,
            gender=self._gender(record, cells.get("gender", "")),
            session=cells.get("session"),
            dialogue=cells.get("dialogue"),
            turn=record.count(self.columns["turn"]) if "turn" in cells else None,
            emotion=cells.get("emotion"),
            votes=_votes(record, self.votes[0]),
            votes_face=_votes(record, self.votes[1]),
            votes_both=_votes(record, self.votes[2]),
            intensity=cells.get("intensity"),
            split=self._split(record, cells.get("split", "")),
            attributes={name: value for name, value in attributes.items() if value} or None,
            fault=None if "audio" in cells else Fault("no-file", "the table names no file"),
        )

    def _gender(self, record: Record, name: str) -> str | None:
        if name in self.mapping.genders:
            return self.mapping.genders[name] or None
        if name.casefold() not in GENDERS:
            raise record.mistake("gender", "female, male, other, or a line under genders in the mapping", name)
        return GENDERS[name.casefold()]

    def _split(self, record: Record, name: str) -> str | None:
        if not name:
            return None
        split = self.mapping.splits.get(name, splits.official(name))
        if split is None:
            raise record.mistake("split", f"{splits.EXPECTED}, or a line under splits in the mapping", name)
        return split or None


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
        tags=options.tags,
    )


def read_mapping(path: Path) -> TableMapping:
    """Read the YAML file; raises UserError with all mistakes in it."""
    try:
        # BaseLoader reads all values as text: no is the code of Norwegian, and a label may be 1
        content = load_yaml(path, yaml.BaseLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mapping; expected YAML that names the columns of the table") from None
    if not isinstance(content, dict):
        found = "nothing" if not content else f"a {'list' if isinstance(content, list) else 'word'}"
        raise UserError(f"{path}: found {found}; expected the keys language and licence, and if need be columns")
    try:
        return TableMapping.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(map(_tell, error.errors()))}") from None


def find_fields(mapping: TableMapping, found: Sequence[str], table: str, path: Path) -> Fields:
    """Find the fields among the columns `found` in a table; raises UserError if a needed column is missing."""
    has = f"found the columns {', '.join(found) or 'none'}"

    def named(column: str) -> str:
        actual = find_column(column, found, table)
        if actual is None:
            raise UserError(f"{table}: lacks the column {column} that {path} names; {has}")
        return actual

    free = [name for name in get_args(Name) if name not in {*mapping.columns, *mapping.constants}]
    columns = {name: column for name in free if (column := find_column(name, found, table)) is not None}
    columns |= {name: named(column) for name, column in mapping.columns.items() if column}
    all_votes = (mapping.votes, mapping.votes_face, mapping.votes_both)
    first, second, third = ({label: named(column) for label, column in votes.items()} for votes in all_votes)
    needed = {"audio", "speaker"} | ({"id"} if "start_s" in columns else set())
    needed |= {"emotion"} if any(all_votes) else set()
    for name in sorted(needed - columns.keys() - mapping.constants.keys()):
        raise UserError(f"{table}: lacks the column {name}; {has}, expected its actual name under columns in {path}")
    return Fields(mapping, columns, {name: named(name) for name in mapping.attributes}, (first, second, third))


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
