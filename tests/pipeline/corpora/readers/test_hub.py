import io
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.corpora import registry
from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.hub import open_dataset
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

MAPPING = (
    "language: en\nlicence: CC-BY-4.0\ncolumns: {speaker: who, emotion: label}\nlabels: {anger: angry, joy: happy}\n"
)


def sound(seed: int, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).integers(-999, 999, 1600, dtype=np.int16)
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


def rows(*audio: object) -> datasets.Dataset:
    """Make a data set as the hub holds it; its audio is a structure first, for encoding one needs torchcodec."""
    count = len(audio)
    columns: dict[str, list[Any]] = {
        "audio": list(audio),
        "who": [f"speaker-{i}" for i in range(count)],
        "text": [f"Sentence {i}." for i in range(count)],
        "label": [(0, 1, -1)[i % 3] for i in range(count)],
    }
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    return made.cast_column("label", datasets.ClassLabel(names=["anger", "joy"]))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "mapping.yaml").write_text(MAPPING)
    return root


def read(source: Path, root: Path) -> list[Clip]:
    return list(open_dataset(str(source), root, root / "mapping.yaml").read(root))


def parquet(folder: Path, **splits: datasets.Dataset) -> Path:
    folder.mkdir()
    for name, made in splits.items():
        # to_parquet would look for the audio that a row only names
        pq.write_table(
            made.data.table.replace_schema_metadata(made.features.arrow_schema.metadata), folder / f"{name}.parquet"
        )
    return folder


def test_audio_is_written_out_as_it_is_and_rows_are_clips(tmp_path: Path, root: Path) -> None:
    published = [sound(0), sound(1, "FLAC"), sound(2)]
    cells = [{"bytes": data, "path": path} for data, path in zip(published, ("one.wav", None, None), strict=True)]
    clips = read(parquet(tmp_path / "set", train=rows(*cells)), root)
    assert clips[0] == Clip(
        utterance="audio/train-0000000",
        audio="audio/train-0000000.wav",
        text="Sentence 0.",
        speaker="speaker-0",
        emotion="anger",
    )
    assert [clip.audio.rpartition(".")[2] for clip in clips] == ["wav", "flac", "wav"]
    assert [clip.emotion for clip in clips] == ["anger", "joy", None]
    assert [(root / clip.audio).read_bytes() for clip in clips] == published
    assert sorted(path.name for path in root.iterdir()) == ["audio", "mapping.yaml"]


def test_a_saved_data_set_is_read_like_a_folder_of_parquet(tmp_path: Path, root: Path) -> None:
    made = rows({"bytes": sound(0), "path": "a.wav"}, {"bytes": sound(1), "path": "b.wav"})
    made.save_to_disk(tmp_path / "saved")
    from_parquet = read(parquet(tmp_path / "set", train=made), root)
    assert read(tmp_path / "saved", root) == from_parquet
    assert len(from_parquet) == 2


def test_splits_are_official_where_there_is_more_than_one(tmp_path: Path, root: Path) -> None:
    made = rows({"bytes": sound(0), "path": "a.wav"})
    folder = parquet(tmp_path / "set", train=made, validation=made, test=made)
    assert [(clip.split, clip.audio) for clip in read(folder, root)] == [
        ("train", "audio/train-0000000.wav"),
        ("dev", "audio/validation-0000000.wav"),
        ("test", "audio/test-0000000.wav"),
    ]
    assert [clip.split for clip in read(parquet(tmp_path / "one", train=made), root)] == [None]
    saved = datasets.DatasetDict({"train": made, "unchecked": made})
    saved.save_to_disk(tmp_path / "saved")
    assert [clip.split for clip in read(tmp_path / "saved", root)] == ["train", None]


def test_the_mapping_names_the_data_set_where_the_command_line_does_not(tmp_path: Path, root: Path) -> None:
    folder = parquet(tmp_path / "set", train=rows({"bytes": sound(0), "path": None}))
    with pytest.raises(UserError, match=r"mapping\.yaml: dataset: missing; expected the id of the data set here, or"):
        registry.open_corpus("hub", root)
    opened = [registry.open_corpus("hub", root, dataset=str(folder)), registry.open_corpus(f"hub:{folder}", root)]
    (root / "mapping.yaml").write_text(f"{MAPPING}dataset: {folder}\n")
    opened.append(registry.open_corpus("hub", root))
    clips = [list(corpus.read(root)) for corpus in opened]
    assert clips[0] == clips[1] == clips[2]
    assert len(clips[0]) == 1


def test_labels_are_those_of_the_mapping(tmp_path: Path, root: Path) -> None:
    corpus = open_dataset(
        str(parquet(tmp_path / "set", train=rows({"bytes": sound(0), "path": None}))), root, root / "mapping.yaml"
    )
    assert (corpus.labels["anger"], corpus.labels["joy"]) == ("angry", "happy")
    assert (corpus.licence, corpus.language) == ("CC-BY-4.0", "en")


def test_a_row_without_audio_is_a_fault_and_a_file_stays_where_it_is(tmp_path: Path, root: Path) -> None:
    folder = parquet(tmp_path / "set", train=rows({"bytes": None, "path": "/elsewhere/a b.wav"}, None))
    first, second = read(folder, root)
    assert (first.audio, first.fault) == ("/elsewhere/a b.wav", None)
    assert (second.utterance, second.fault) == ("train-row-1", Fault("no-file", "the table names no file"))
    assert not (root / "audio").exists()


def test_two_rows_with_one_id_have_files_of_their_own(tmp_path: Path, root: Path) -> None:
    (root / "mapping.yaml").write_text(MAPPING.replace("{speaker", "{id: text, speaker"))
    made = rows(*({"bytes": sound(i), "path": "same.wav"} for i in range(2)))
    made = made.remove_columns("text").add_column("text", ["one", "one"])
    first, second = read(parquet(tmp_path / "set", train=made), root)
    assert first.utterance == second.utterance == "one"
    assert (root / first.audio).read_bytes() != (root / second.audio).read_bytes()


def test_a_column_that_is_missing_is_told(tmp_path: Path, root: Path) -> None:
    folder = parquet(tmp_path / "set", train=rows(None).rename_column("who", "singer"))
    with pytest.raises(UserError, match=r"set: lacks the column who that .+; found the columns audio, singer, text"):
        read(folder, root)


def test_a_column_that_holds_no_audio_is_told(tmp_path: Path, root: Path) -> None:
    (root / "mapping.yaml").write_text(MAPPING.replace("{speaker", "{audio: text, text: , speaker"))
    with pytest.raises(UserError, match=r"set: train row 0: text: expected audio, found str"):
        read(parquet(tmp_path / "set", train=rows(None)), root)


def test_a_folder_of_audio_files_is_left_to_the_table_reader(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # with it, such folders can be read
    (root / "mapping.yaml").write_text(MAPPING.replace("speaker: who, ", "") + "constants: {speaker: one}\n")
    for emotion in ("anger", "joy"):
        (tmp_path / "set" / emotion).mkdir(parents=True)
        (tmp_path / "set" / emotion / "a.wav").write_bytes(sound(0))
    with pytest.raises(UserError, match=r"found audio files in place of rows .+ are read by --reader table"):
        read(tmp_path / "set", root)


def test_a_root_in_the_data_set_is_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(
        UserError, match=r"root: found inside the data set; expected another folder, where its audio can be written"
    ):
        read(tmp_path, root)


@pytest.mark.parametrize("source", ["someone/no-such-set", "someone/no-such-set:de", "./nothing"])
def test_a_data_set_that_cannot_be_had_is_told(root: Path, source: str) -> None:
    with pytest.raises(
        UserError, match=rf"{source}: found .+; expected a data set on the Hugging Face hub or a folder"
    ):
        open_dataset(source, root, root / "mapping.yaml")
