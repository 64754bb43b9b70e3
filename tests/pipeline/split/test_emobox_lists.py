import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.corpora import registry
from pipeline.split import emobox_lists
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from tests.builders import utterance


def entries(*paths: str) -> str:
    return "".join(json.dumps({"key": "k", "wav": path, "emo": "sad"}) + "\n" for path in paths)


def corpus(*audio: str, ids: tuple[str, ...] = ()) -> pa.Table:
    keys = ids or tuple(Path(path).stem for path in audio)
    rows = [utterance(f"c/{key}", audio=path) for key, path in zip(keys, audio, strict=True)]
    return parquet.from_rows(rows, manifest.SCHEMA)


def test_the_file_name_is_enough_where_it_is_unique_and_valid_is_dev(tmp_path: Path) -> None:
    (tmp_path / "c_train_fold_1.jsonl").write_text(entries("downloads/c/x/a.wav", "downloads/c/y/b.wav") + "\r\n")
    (tmp_path / "c_valid_fold_1.jsonl").write_text(entries("downloads/c/x/c.wav"))
    (tmp_path / "c_test_fold_1.jsonl.gz").write_bytes(gzip.compress(entries("downloads/c/x/d.wav").encode()))
    table = corpus("elsewhere/a.flac", "b.wav", "c.wav", "d.wav", "e.wav")
    assert emobox_lists.match(table, "c", tmp_path).to_pylist() == ["train", "train", "dev", "test", None]


def test_folders_tell_equal_names_apart(tmp_path: Path) -> None:
    (tmp_path / "c_train_fold_1.jsonl").write_text(entries("downloads/m/train/train_splits/dia0_utt0.mp4"))
    (tmp_path / "c_test_fold_1.jsonl").write_text(entries("downloads/m/test_splits/dia0_utt0.mp4"))
    table = corpus("test/test_splits/dia0_utt0.mp4", "train_splits/dia0_utt0.wav", "dev_splits/dia0_utt0.mp4")
    assert emobox_lists.match(table, "c", tmp_path).to_pylist() == ["test", "train", None]


def test_the_published_id_counts_where_the_file_name_is_misspelt(tmp_path: Path) -> None:
    (tmp_path / "c_train_fold_1.jsonl").write_text(entries("downloads/c/1040_ITH_SAD_XX.wav"))
    table = corpus("AudioWAV/1040_ITH_SAD_X.wav", ids=("1040_ITH_SAD_XX",))
    assert emobox_lists.match(table, "c", tmp_path).to_pylist() == ["train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected one list \*_train_\*\.jsonl or \.jsonl\.gz, found none"),
        (
            {"c_train_fold_1.jsonl": b"", "c_train_fold_2.jsonl": b""},
            "expected one list .* found c_train_fold_1.jsonl, c_train_fold_2.jsonl",
        ),
        ({"c_train_1.jsonl": entries("a.wav").encode() + b'{"wav": "b'}, "c_train_1.jsonl: line 2: not valid JSON"),
        ({"c_train_1.jsonl": b'{"key": "a"}'}, "line 1: expected an object with the audio's path as wav, found .*key"),
        ({"c_train_1.jsonl": b'{"wav": "\xe9.wav"}'}, "c_train_1.jsonl: expected UTF-8 text, found byte 0xe9"),
        ({"c_train_1.jsonl.gz": b"no gzip"}, r"c_train_1.jsonl.gz: not a gzip file, or one cut short"),
        ({"c_train_1.jsonl.gz": gzip.compress(entries("a").encode())[:-9]}, "not a gzip file, or one cut short"),
        (
            {"c_train_1.jsonl": entries("x/a.wav").encode(), "c_test_1.jsonl": entries("x/a.wav").encode()},
            "expected each clip in one split, found x/a in two",
        ),
        ({"c_train_1.jsonl": entries("x/z.wav").encode()}, "no clip of c in the lists; expected clips such as x/a.wav"),
        ({"c_train_1.jsonl": b""}, "no clip of c in the lists"),
    ],
)
def test_broken_lists_are_told(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        emobox_lists.match(corpus("x/a.wav"), "c", tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("fold", range(1, 7))
def test_the_folds_of_ravdess_are_those_of_the_published_lists(shared: Path, fold: int) -> None:
    lists = emobox_lists.read(shared / f"data/EmoBox/ravdess/fold_{fold}")
    actors = {
        name: {tail[-1][-2:] for tail, split in lists.splits.items() if split == name} for name in ("train", "test")
    }
    assert actors["test"] == set(registry.load("ravdess").folds[f"emobox-{fold}"])
    assert len(actors["train"]) == 20
    assert not actors["train"] & actors["test"]


@pytest.mark.shared
def test_published_lists_name_the_clips_of_the_published_layouts(shared: Path) -> None:
    lists = emobox_lists.read(shared / "data/EmoBox/meld/fold_1")
    assert Counter(lists.splits.values()) == {"train": 9_988, "dev": 1_108, "test": 2_610}
    assert lists.splits["output_repeated_splits_test", "dia0_utt0"] == "test"
    assert Counter(emobox_lists.read(shared / "data/EmoBox/cremad/fold_1").splits.values()) == {
        "train": 5_586,
        "test": 1_856,
    }
    sizes = [Counter(emobox_lists.read(shared / f"data/EmoBox/iemocap/fold_{i}").splits.values()) for i in range(1, 6)]
    assert [size["test"] for size in sizes] == [1_085, 1_023, 1_151, 1_031, 1_241]
