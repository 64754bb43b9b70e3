from pathlib import Path

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers import librispeech
from pipeline.corpora.readers.librispeech import CORPUS, read
from pipeline.stage import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    chapter.mkdir(parents=True)
    for turn in (0, 1):
        (chapter / f"84-121123-000{turn}.flac").touch()
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 IT'S LATE\n84-121123-0001 GO HOME")
    (tmp_path / "SPEAKERS.TXT").write_text(
        ";ID |SEX| SUBSET |MINUTES| NAME\n84   | F | dev-clean  |  8.02 | Ann | Lee\n"
    )
    return tmp_path


def test_a_clip_has_transcript_speaker_chapter_turn_and_official_split(root: Path) -> None:
    first, second = read(root)
    assert (first.turn, second.turn) == (0, 1)
    assert second == Clip(
        utterance="84-121123-0001",
        audio="dev-clean/84/121123/84-121123-0001.flac",
        text="GO HOME",
        speaker="84",
        gender="female",
        dialogue="84-121123",
        turn=1,
        split="dev",
    )


def test_the_folder_that_unpacking_makes_may_be_the_root_or_lie_in_it(root: Path) -> None:
    above = root / "above"
    (above / "LibriSpeech").mkdir(parents=True)
    for name in ("dev-clean", "SPEAKERS.TXT"):
        (root / name).rename(above / "LibriSpeech" / name)
    clips = list(read(above))
    assert clips[0].audio == "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac"
    assert clips[0].gender == "female"
    assert [clip.utterance for clip in clips] == [clip.utterance for clip in read(above / "LibriSpeech")]


def test_every_subset_is_read_or_one_alone(root: Path) -> None:
    for subset in ("train-other-500", "train-own", "notes", "train"):
        chapter = root / subset / "7" / "9"
        chapter.mkdir(parents=True)
        (chapter / "7-9.trans.txt").write_text("7-9-0000 YES\n")
    assert [clip.audio.partition("/")[0] for clip in read(root)] == [
        "dev-clean", "dev-clean", "train-other-500", "train-own",
    ]  # fmt: skip
    assert [clip.split for clip in read(root, subset="train-other-500")] == ["train"]


def test_files_and_lines_without_each_other_are_clips_and_foreign_names_are_faults(root: Path) -> None:
    chapter = root / "dev-clean" / "84" / "121123"
    for name in ("84-121123-0002.flac", "some notes.flac", "readme.md"):
        (chapter / name).touch()
    with (chapter / "84-121123.trans.txt").open("a") as file:
        file.write("\r\n84-121123-0003 NOT RECORDED\r\n84-121123-0004\r\n\r\n84-121123-0000 AGAIN\r\n")
    clips = list(read(root))
    assert [(clip.utterance, clip.text, clip.fault and clip.fault.reason) for clip in clips] == [
        ("84-121123-0000", "IT'S LATE", None),
        ("84-121123-0001", "GO HOME", None),
        ("84-121123-0003", "NOT RECORDED", None),
        ("84-121123-0004", "", None),
        ("84-121123-0000", "AGAIN", None),
        ("84-121123-0002", "", None),
        ("some notes", "", "bad-name"),
    ]
    assert clips[-1].audio == "dev-clean/84/121123/some notes.flac"


def test_a_transcript_that_is_not_utf_8_is_told_with_its_line(root: Path) -> None:
    path = root / "dev-clean/84/121123/84-121123.trans.txt"
    path.write_bytes(b"84-121123-0000 YES\n84-121123-0001 CAF\xc9\n")
    with pytest.raises(UserError, match=r"84-121123\.trans\.txt: line 2: expected UTF-8 text, found byte 0xc9"):
        list(read(root))


def test_a_link_in_a_loop_is_no_folder_and_a_link_upwards_is_not_followed_for_ever(root: Path) -> None:
    (root / "dev-clean" / "85").symlink_to("85")
    (root / "dev-clean" / "84" / "up").symlink_to(root)
    assert [clip.utterance for clip in read(root)] == ["84-121123-0000", "84-121123-0001"]


def test_other_folders_yield_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == list(read(tmp_path / "missing")) == []


def test_speakers_need_no_table(root: Path) -> None:
    (root / "SPEAKERS.TXT").unlink()
    assert {clip.gender for clip in read(root)} == {None}


def test_the_counts_of_the_subsets_add_up_to_all() -> None:
    assert sum(CORPUS.counts[name] for name in librispeech.SUBSETS) == CORPUS.counts["clips"]
    assert sum(CORPUS.counts[name] for name in librispeech.SUBSETS if name.startswith("train")) == 281_241
    assert set(CORPUS.archives) == set(CORPUS.subsets) == set(librispeech.SUBSETS)


@pytest.mark.shared
def test_real_recordings_are_read_with_speakers_of_both_genders(shared: Path) -> None:
    clips = list(read(shared / "data" / "LibriSpeech"))
    assert len(clips) == 84
    assert not [clip for clip in clips if clip.fault or not clip.text]
    assert {clip.gender for clip in clips} == {"female", "male"}
    assert len({clip.speaker for clip in clips}) == 9
    assert all((shared / "data" / "LibriSpeech" / clip.audio).is_file() for clip in clips)
    assert len(list(read(shared / "data" / "LibriSpeech", subset="test-clean"))) == 4


@pytest.mark.shared
def test_the_table_of_speakers_is_the_published_one(shared: Path) -> None:
    lines = (shared / "data" / "LibriSpeech" / "SPEAKERS.TXT").read_text().splitlines()
    assert sum(not line.startswith(";") for line in lines) == CORPUS.counts["speakers"]
