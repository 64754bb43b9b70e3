"""Splits of Hugging Face data sets by their names, and rows of damaged ones."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpora import registry
from pipeline.corpora.readers import hub
from pipeline.ingest.__main__ import ingest
from pipeline.stage import UserError

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
MAPPING = "language: en\nlicence: CC0-1.0\n"


@pytest.fixture
def publish(tmp_path: Path, sound: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a data set with the splits as a folder of Parquet, and the mapping of a root beside it."""

    def run(*splits: str, mapping: str = "", rows: int = 1, **columns: list[Any]) -> Path:
        folder = tmp_path / "data"
        folder.mkdir()
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "mapping.yaml").write_text(MAPPING + mapping)
        for split in splits:
            cells = [{"bytes": sound(f"{split} {i}"), "path": "a.wav"} for i in range(rows)]
            table = {"audio": pa.array(cells, AUDIO), "speaker": [split] * rows, "text": ["hello there"] * rows}
            pq.write_table(pa.table(table | columns), folder / f"{split}-00000-of-00001.parquet", row_group_size=10)
        files = "".join(f"  - split: {split}\n    path: {split}-*\n" for split in splits)
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
        return folder

    return run


def splits_of(folder: Path) -> dict[str, str | None]:
    root = folder.parent / "root"
    corpus = registry.open_corpus("hub", root, dataset=str(folder))
    return {clip.speaker: clip.split for clip in corpus.read(root)}


def test_splits_of_other_names_keep_their_speakers_apart(publish: Callable[..., Path]) -> None:
    assert splits_of(publish("train.100", "train.360", "validation", "test", "other")) == {
        "train.100": "train", "train.360": "train", "validation": "dev", "test": "test", "other": None,
    }  # fmt: skip


def test_evaluation_is_the_test_split_where_none_is(publish: Callable[..., Path]) -> None:
    assert splits_of(publish("train", "evaluation")) == {"train": "train", "evaluation": "test"}


@pytest.mark.parametrize(("split", "expected"), [("train", None), ("test", "test"), ("validation", "dev")])
def test_a_lone_split_is_one_only_if_it_is_not_train(
    publish: Callable[..., Path], split: str, expected: str | None
) -> None:
    assert splits_of(publish(split)) == {split: expected}


def test_splits_without_an_official_one_are_named_in_the_mapping(publish: Callable[..., Path]) -> None:
    folder = publish("en", "de")
    with pytest.raises(UserError, match=r"found the splits en, de; expected one of train, .+ under splits for each"):
        splits_of(folder)
    (folder.parent / "root" / "mapping.yaml").write_text(MAPPING + "splits: {en: train, de: test}\n")
    assert splits_of(folder) == {"en": "train", "de": "test"}
    (folder.parent / "root" / "mapping.yaml").write_text(MAPPING + "splits: {en: , de: }\n")
    assert splits_of(folder) == {"en": None, "de": None}


def test_a_constant_split_has_precedence(publish: Callable[..., Path]) -> None:
    assert splits_of(publish("train", "test", mapping="constants: {split: test}\n")) == {
        "train": "test",
        "test": "test",
    }


def test_rows_are_kept_or_quarantined_or_the_set_stops_with_one_line(
    publish: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    folder = publish("train", "test", rows=25)
    taken = take_in("hub", folder.parent / "root", dataset=str(folder))
    count = sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))
    assert len(taken.kept) + len(taken.refused) == count == 50


def test_a_mistake_in_a_row_names_its_clip(publish: Callable[..., Path]) -> None:
    folder = publish("train", rows=2, turn=["0", "x"], id=["u0", "u1"])
    with pytest.raises(UserError, match=r"train row 1: turn: expected a number, found x \(clip u1\)"):
        splits_of(folder)


def test_a_damaged_page_stops_with_one_line(publish: Callable[..., Path]) -> None:
    folder = publish("train", rows=40)
    (file,) = folder.glob("*.parquet")
    content = bytearray(file.read_bytes())
    column = pq.ParquetFile(file).metadata.row_group(2).column(0)
    content[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"data: train row \d+: not readable \(.+\)"):
        splits_of(folder)


def test_a_data_set_without_rows_says_so(publish: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="data: found no rows; expected one for each clip"):
        splits_of(publish("train", rows=0))


@pytest.mark.parametrize("published", ["a.very long name indeed", "a.x/y", "a.wav\0", "", None, "a.b c"])
def test_a_published_name_never_decides_where_the_audio_is_written(
    publish: Callable[..., Path], published: str | None, tmp_path: Path, sound: Callable[..., bytes]
) -> None:
    cells = [{"bytes": sound("x"), "path": published}]
    folder = publish("train", audio=pa.array(cells, AUDIO))
    splits_of(folder)
    assert [path.name for path in (tmp_path / "root" / "audio").iterdir()] == ["train-0000000.wav"]


class Stream:
    """Rows of a data set that say whether their stream was closed."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.features = {"audio": None, "speaker": None, "turn": None}
        self.rows = rows
        self.closed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self.rows
        finally:
            self.closed = True


def test_a_stream_is_closed_after_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mapping.yaml").write_text(MAPPING)
    audio = {"bytes": b"RIFF", "path": None}
    stream = Stream([{"audio": audio, "speaker": "s", "turn": turn} for turn in ("x", "1")])
    monkeypatch.setattr(hub, "_load", lambda source: {"train": stream})
    corpus = registry.open_corpus("hub", tmp_path / "root", dataset="some/set")
    with pytest.raises(UserError, match="turn: expected a number") as raised:
        ingest(corpus, tmp_path / "root", "x", "samples", tmp_path / "x.parquet")
    assert stream.closed, "and not only when the error and its frames are gone"
    assert raised.value


def test_the_end_of_a_stream_waits_for_threads_that_still_hold_its_file(tmp_path: Path) -> None:
    held = []

    def rows() -> Iterator[int]:
        with (tmp_path / "data").open("wb") as file:
            held.append(file)
            yield from range(9)

    def let_go() -> None:
        time.sleep(0.3)
        held.clear()

    def leave() -> None:
        with hub._stream(rows(), hub._closed_files()) as stream:
            next(stream)
            thread.start()
            raise UserError("row 0")

    thread = threading.Thread(target=let_go)
    with pytest.raises(UserError, match="row 0"):
        leave()
    assert held == []
    thread.join()
