import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.corpora.files import audio_files, find
from pipeline.stage import UserError


def plant(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, pattern: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find(root, pattern)]


def test_a_pattern_finds_folders_and_files_in_order(tmp_path: Path) -> None:
    plant(tmp_path, "b/Actor_2/x.wav", "a/Actor_1/y.wav", "a/Actor_1.zip", "a/notes/z.wav")
    assert found(tmp_path, "*/Actor_*/") == ["a/Actor_1", "b/Actor_2"]
    assert found(tmp_path, "*/Actor_*") == ["a/Actor_1", "a/Actor_1.zip", "b/Actor_2"]
    assert found(tmp_path, "*/*/*.wav") == ["a/Actor_1/y.wav", "a/notes/z.wav", "b/Actor_2/x.wav"]
    assert found(tmp_path / "nowhere", "*") == []


def test_names_are_alike_without_case_and_in_any_form_of_their_accents(tmp_path: Path) -> None:
    composed, decomposed = "Colère", unicodedata.normalize("NFD", "Colère")
    assert composed != decomposed
    plant(tmp_path, f"{decomposed}/a.wav", "actor_3/b.wav", "AUDIOwav/c.WAV")
    assert found(tmp_path, f"{composed}/") == [decomposed]
    assert found(tmp_path, "Actor_*/") == ["actor_3"]
    assert found(tmp_path, "AudioWAV/*.wav") == ["AUDIOwav/c.WAV"]


def test_the_exact_name_comes_before_names_that_are_alike(tmp_path: Path) -> None:
    plant(tmp_path, "train.tsv", "Train.tsv")
    assert found(tmp_path, "train.tsv") == ["train.tsv", "Train.tsv"]


def test_names_that_begin_with_a_dot_are_left_out(tmp_path: Path) -> None:
    plant(tmp_path, "a/._x.wav", "a/x.wav", ".Trash/y.wav", "._a")
    assert found(tmp_path, "*/") == ["a"]
    assert found(tmp_path, "*") == ["a"]
    assert [path.name for path in audio_files(tmp_path / "a")] == ["x.wav"]


def test_of_two_files_with_one_name_the_lossless_one_comes_first(tmp_path: Path) -> None:
    plant(tmp_path, "b.mp3", "b.wav", "a.FLAC", "c.txt", "b-1.wav")
    assert [path.name for path in audio_files(tmp_path)] == ["a.FLAC", "b-1.wav", "b.wav", "b.mp3"]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, close: Callable[[str], None]) -> None:
    plant(tmp_path, "Actor_1/a.wav", "Actor_2/b.wav")
    close("Actor_2")
    with pytest.raises(UserError, match="Actor_2: permission denied; expected a folder that can be listed"):
        audio_files(*find(tmp_path, "Actor_*/"))


def test_a_link_to_a_folder_that_is_not_there_is_told_but_a_link_in_a_circle_is_none(tmp_path: Path) -> None:
    plant(tmp_path, "Actor_1/a.wav")
    (tmp_path / "Actor_2").symlink_to(tmp_path / "Actor_2")
    (tmp_path / "b.wav").symlink_to("/nowhere/b.wav")
    assert found(tmp_path, "*/") == ["Actor_1"]
    (tmp_path / "Actor_3").symlink_to("/unmounted/Actor_3")
    with pytest.raises(UserError, match="Actor_3: found a link to /unmounted/Actor_3, which does not exist"):
        find(tmp_path, "Actor_*/")
