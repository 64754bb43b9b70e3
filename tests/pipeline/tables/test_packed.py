import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import xxhash

from pipeline.audio import mono_16k
from pipeline.stage import UserError
from pipeline.tables import packed
from tests.builders import write_packed

EMPTY: dict[str, Any] = {**dict.fromkeys(packed.SCHEMA.names), "audio": {"bytes": b"", "path": None}}


def test_a_packed_folder_loads_with_datasets_shard_by_shard(packed_folder: Path) -> None:
    splits = datasets.load_from_disk(packed_folder)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 12, "dev": 4, "test": 8}
    assert len(list((packed_folder / "train").glob("*.arrow"))) == 12
    assert splits["train"][11]["id"] == "corpus/train-11"


def test_a_row_brings_its_clip_and_its_token_ids(packed_folder: Path) -> None:
    row = packed.load(packed_folder, "train")[2]
    assert len(mono_16k.decode(row["audio"]["bytes"])) == row["num_samples"] == 10_000
    assert row["response_ids"] == [42, 41, 0]
    assert packed.load_shell(packed_folder).after == [7]


def test_every_value_is_the_one_that_datasets_reads(tmp_path: Path) -> None:
    votes = [{"emotion": "sad", "share": 0.25}, {"emotion": "happy", "share": 0.75}]
    some = EMPTY | {"id": "b", "emotion_votes": votes, "text_ids": [3, 4], "top_ids": [[1, 2], [3, 4]], "text": "é"}
    rows = [EMPTY, some, EMPTY | {"emotion_votes": [], "text_ids": [], "num_samples": 7}, some | {"text_ids": None}]
    for number, chosen in enumerate((rows, rows[:1], rows[1:2])):
        shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
        with packed.Writer(tmp_path / f"{number}", shell, 10**6, packed.SCHEMA_WITH_SIGNALS) as writer:
            writer.write("train", chosen)
        theirs = datasets.load_from_disk(str(tmp_path / f"{number}" / "train"))
        assert list(packed.load(tmp_path / f"{number}", "train")) == list(theirs)


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
    for name in ("a", "b"):
        with packed.Writer(tmp_path / name, shell, 10) as writer:
            writer.write("train", [EMPTY])
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_failure_leaves_the_folder_of_before_untouched(tmp_path: Path) -> None:
    shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
    with packed.Writer(tmp_path / "a", shell, 10) as writer:
        writer.write("train", [EMPTY])

    def broken() -> Iterator[dict[str, Any]]:
        yield EMPTY
        raise UserError("clip 2: unreadable")

    with pytest.raises(UserError, match="clip 2"), packed.Writer(tmp_path / "a", shell, 10) as writer:
        writer.write("train", broken())
    assert len(packed.load(tmp_path / "a", "train")) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_and_an_empty_split_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no packed split train; run python -m pipeline\.pack"):
        packed.load(tmp_path, "train")
    with pytest.raises(UserError, match=r"no frame\.json"):
        packed.load_shell(tmp_path)
    with packed.Writer(
        tmp_path / "a", packed.PromptShell(before_speech=[1], before_text=None, after=[2]), 10
    ) as writer:
        writer.write("dev", [])
    with pytest.raises(UserError, match="the split dev is empty"):
        packed.load(tmp_path / "a", "dev")
    assert len(packed.load(tmp_path / "a", "dev", allow_empty=True)) == 0


def test_a_folder_of_an_earlier_layout_is_packed_again(packed_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed_folder, tmp_path / "packed")
    shell = json.loads((folder / "frame.json").read_text())
    del shell["layout"]
    (folder / "frame.json").write_text(json.dumps(shell))
    with pytest.raises(UserError, match=r"found packed data of layout 1, expected layout 3; pack again"):
        packed.load(folder, "train")


def test_rows_are_those_of_datasets(packed_folder: Path) -> None:
    ours, theirs = packed.load(packed_folder, "train"), datasets.load_from_disk(packed_folder)["train"]
    assert list(ours) == list(theirs)
    assert ours.names == theirs.column_names


def test_some_rows_are_chosen_in_any_order(packed_folder: Path) -> None:
    rows = packed.load(packed_folder, "train").select([7, 2, 3]).select([2, 0])
    assert [row["id"] for row in rows] == rows.column("id").to_pylist() == ["corpus/train-3", "corpus/train-7"]
    assert rows.shard(1).name == "data-00007.arrow"
    again = pickle.loads(pickle.dumps(rows))
    assert list(again) == list(rows)


def test_a_damaged_shard_is_named(packed_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed_folder, tmp_path / "packed")
    shard = folder / "train" / "data-00003.arrow"
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(UserError, match=r"data-00003\.arrow: not readable, the file is damaged .+; pack again"):
        packed.load(folder, "train")


def test_the_stored_hash_and_size_of_a_shard_are_those_of_its_bytes(packed_folder: Path) -> None:
    stored = packed.hashes(packed_folder)
    assert len(stored) == 24
    assert {packed_folder / name for name in stored} == set(packed_folder.glob("*/*.arrow"))
    for name, digest in stored.items():
        assert digest == xxhash.xxh3_128_hexdigest((packed_folder / name).read_bytes())


def test_equal_rows_have_equal_hashes_and_others_have_others(packed_folder: Path, tmp_path: Path) -> None:
    again = write_packed(tmp_path / "again")
    assert packed.hashes(again) == packed.hashes(packed_folder)
    assert packed.fingerprint(again) == packed.fingerprint(packed_folder)
    shell = packed.load_shell(again)
    rows = list(packed.load(again, "train"))
    with packed.Writer(tmp_path / "changed", shell, shard_bytes=1) as writer:
        writer.write("train", [rows[0] | {"text": "other"}, rows[1]])
    changed = packed.hashes(tmp_path / "changed")
    differ = [name for name, digest in changed.items() if digest != packed.hashes(again)[name]]
    assert differ == ["train/data-00000.arrow"]
    assert packed.fingerprint(tmp_path / "changed") != packed.fingerprint(again)


def test_a_shard_that_is_missing_or_cut_is_named(packed_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed_folder, tmp_path / "packed")
    shard = folder / "train" / "data-00003.arrow"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:300])
    message = rf"data-00003\.arrow: found 300 bytes, expected {size:,}; the file is damaged, pack again"
    with pytest.raises(UserError, match=message):
        packed.hashes(folder)
    shard.unlink()
    with pytest.raises(UserError, match=message.replace("found 300", "found 0")):
        packed.hashes(folder)


def test_rows_are_those_of_the_listed_shards(packed_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed_folder, tmp_path / "packed")
    shutil.copy(folder / "train" / "data-00003.arrow", folder / "train" / "data-00012.arrow")
    assert len(packed.load(folder, "train")) == 12
    (folder / "train" / "data-00003.arrow").unlink()
    with pytest.raises(UserError, match=r"data-00003\.arrow: not readable, the file is damaged .+; pack again"):
        packed.load(folder, "train")
