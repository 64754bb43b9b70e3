from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from pipeline.audio import mono_16k
from pipeline.stage import UserError
from pipeline.tables import packed


def test_a_packed_folder_loads_with_datasets_shard_by_shard(packed_folder: Path) -> None:
    splits = datasets.load_from_disk(packed_folder)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 12, "dev": 4, "test": 8}
    assert len(list((packed_folder / "train").glob("*.arrow"))) == 3
    assert splits["train"][11]["id"] == "corpus/train-11"


def test_a_row_brings_its_clip_and_its_token_ids(packed_folder: Path) -> None:
    row = packed.load(packed_folder, "train")[2]
    assert len(mono_16k.decode(row["audio"]["bytes"])) == row["num_samples"] == 10_000
    assert row["response_ids"] == [42, 41, 0]
    assert packed.load_shell(packed_folder).after == [7]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
    for name in ("a", "b"):
        with packed.Writer(tmp_path / name, shell, 10) as writer:
            writer.write("train", [dict.fromkeys(packed.SCHEMA.names)])
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_a_failure_leaves_the_folder_of_before_untouched(tmp_path: Path) -> None:
    shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
    with packed.Writer(tmp_path / "a", shell, 10) as writer:
        writer.write("train", [dict.fromkeys(packed.SCHEMA.names)])

    def broken() -> Iterator[dict[str, None]]:
        yield dict.fromkeys(packed.SCHEMA.names)
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
