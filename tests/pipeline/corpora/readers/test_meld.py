import gzip
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.meld import CORPUS, SPLITS
from pipeline.stage import UserError

HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
ROWS = (
    '1,"Oh my God, he\u2019s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"\n'
    '2,What?,The Interviewer,surprise,negative,0,1,4,7,"00:21:01,927","00:21:03,261"\n'
)


def write_split(root: Path, split: str, media: tuple[str, ...] = ()) -> Path:
    """Write a split's table, and empty media in its folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}_sent_emo.csv").write_text(HEADER + ROWS)
    (root / SPLITS[split]).mkdir()
    for name in media:
        (root / SPLITS[split] / name).touch()
    return root / f"{split}_sent_emo.csv"


def read(root: Path) -> dict[str, Clip]:
    clips = list(CORPUS.read(root))
    assert len({clip.utterance for clip in clips}) == len(clips)
    return {clip.utterance: clip for clip in clips}


def test_an_utterance_has_what_its_row_publishes(tmp_path: Path) -> None:
    write_split(tmp_path, "dev", ("dia0_utt0.mp4", "dia0_utt1.mp4"))
    clip = read(tmp_path)["dev/dia0_utt1"]
    assert clip.audio == "dev_splits_complete/dia0_utt1.mp4"
    assert (clip.text, clip.emotion, clip.split) == ("What?", "surprise", "dev")
    assert (clip.dialogue, clip.turn) == ("dev/dia0", 1)
    assert clip.attributes == {"Season": "4", "Episode": "7", "Sentiment": "negative"}
    assert (clip.fault, clip.votes, clip.session) == (None, None, None)


def test_only_the_main_characters_have_a_known_gender(tmp_path: Path) -> None:
    write_split(tmp_path, "dev")
    clips = read(tmp_path)
    assert (clips["dev/dia0_utt0"].speaker, clips["dev/dia0_utt0"].gender) == ("Phoebe", "female")
    assert (clips["dev/dia0_utt1"].speaker, clips["dev/dia0_utt1"].gender) == ("The Interviewer", None)


def test_the_same_numbers_in_two_splits_are_two_utterances(tmp_path: Path) -> None:
    for split in ("test", "train"):
        write_split(tmp_path, split)
    clips = read(tmp_path)
    assert list(clips) == ["train/dia0_utt0", "train/dia0_utt1", "test/dia0_utt0", "test/dia0_utt1"]
    assert clips["test/dia0_utt0"].audio == "output_repeated_splits_test/dia0_utt0.mp4"
    assert {clip.dialogue for clip in clips.values()} == {"train/dia0", "test/dia0"}


def test_an_utterance_without_media_has_the_place_of_its_video(tmp_path: Path) -> None:
    write_split(tmp_path, "train", ("dia0_utt0.mp4",))
    assert read(tmp_path)["train/dia0_utt1"].audio == "train_splits/dia0_utt1.mp4"
    (tmp_path / "train_splits" / "dia0_utt0.mp4").unlink()
    (tmp_path / "train_splits").rmdir()
    assert read(tmp_path)["train/dia0_utt1"].audio == "train_splits/dia0_utt1.mp4"


def test_converted_media_serve_where_the_video_is_missing(tmp_path: Path) -> None:
    write_split(tmp_path, "train", ("dia0_utt0.mp4", "dia0_utt0.wav", "dia0_utt1.flac"))
    clips = read(tmp_path)
    assert clips["train/dia0_utt0"].audio == "train_splits/dia0_utt0.mp4"
    assert clips["train/dia0_utt1"].audio == "train_splits/dia0_utt1.flac"


def test_other_files_among_the_media_are_no_utterances(tmp_path: Path) -> None:
    media = ("dia0_utt0.mp4", "._dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "dia9_utt9.mp4")
    write_split(tmp_path, "test", media)
    assert list(read(tmp_path)) == ["test/dia0_utt0", "test/dia0_utt1"]


def test_tables_and_media_may_lie_as_the_archives_unpack(tmp_path: Path) -> None:
    write_split(tmp_path / "MELD.Raw" / "train", "train", ("dia0_utt0.mp4",))
    table = write_split(tmp_path / "MELD.Raw", "test", ("dia0_utt0.mp4",))
    (tmp_path / "data" / "MELD").mkdir(parents=True)
    table.rename(tmp_path / "data" / "MELD" / table.name)
    clips = read(tmp_path)
    assert clips["train/dia0_utt0"].audio == "MELD.Raw/train/train_splits/dia0_utt0.mp4"
    assert clips["test/dia0_utt0"].audio == "MELD.Raw/output_repeated_splits_test/dia0_utt0.mp4"


def test_of_two_copies_of_a_table_the_one_nearest_the_root_is_read(tmp_path: Path) -> None:
    write_split(tmp_path / "MELD.Raw", "test")
    (tmp_path / "test_sent_emo.csv").write_text(HEADER + ROWS.splitlines(keepends=True)[0])
    assert list(read(tmp_path)) == ["test/dia0_utt0"]


def test_text_is_kept_as_published_with_windows_line_ends_and_control_characters(tmp_path: Path) -> None:
    table = write_split(tmp_path, "dev")
    # the first release has U+0092 for an apostrophe
    table.write_bytes((HEADER + ROWS.replace("\u2019", "\x92")).replace("\n", "\r\n").encode())
    clips = read(tmp_path)
    assert clips["dev/dia0_utt0"].text == "Oh my God, he\x92s lost it."
    assert len(clips) == 2


def test_a_table_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    write_split(tmp_path, "dev").write_bytes((HEADER + ROWS).encode("cp1252"))
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv: line 2: expected UTF-8 text, found byte 0x92"):
        read(tmp_path)


def test_a_table_without_a_column_is_told(tmp_path: Path) -> None:
    write_split(tmp_path, "dev").write_text("Sr No.,Utterance,Speaker\n1,What?,Monica\n")
    message = r"dev_sent_emo\.csv: line 1: lacks the column Emotion; found Sr No\., Utterance, Speaker"
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_an_id_that_is_no_number_is_told(tmp_path: Path) -> None:
    table = write_split(tmp_path, "dev")
    table.write_text(HEADER + ROWS.replace(",0,1,4,7", ",0,b,4,7"))
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv: line 3: expected numbers as ids, found 0 and b"):
        read(tmp_path)


def test_another_layout_gives_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


@pytest.mark.shared
def test_the_published_tables_have_the_published_counts(shared: Path) -> None:
    clips = read(shared / "data" / "MELD").values()
    splits, emotions = Counter(clip.split for clip in clips), Counter(clip.emotion for clip in clips)
    speakers = {clip.speaker for clip in clips}
    assert splits == {"train": 9989, "dev": 1109, "test": 2610}
    assert {"clips": len(clips), "speakers": len(speakers), **splits, **emotions} == CORPUS.counts
    assert len(clips) == 13_708
    assert sum(clip.gender is not None for clip in clips) == 11_415
    assert set(CORPUS.faults) < {clip.utterance for clip in clips}


@pytest.mark.shared
def test_turns_of_a_published_dialogue_ascend(shared: Path) -> None:
    clips = list(CORPUS.read(shared / "data" / "MELD"))
    for clip, following in itertools.pairwise(clips):
        assert clip.turn is not None
        assert following.turn is not None
        assert clip.turn < following.turn or clip.dialogue != following.dialogue


@pytest.mark.shared
def test_labels_and_files_are_emoboxs(shared: Path, tmp_path: Path) -> None:
    for split, folder in (("train", "train"), ("dev", "."), ("test", ".")):
        table = f"{split}_sent_emo.csv"
        (tmp_path / folder / SPLITS[split]).mkdir(parents=True)
        (tmp_path / table).symlink_to(shared / "data" / "MELD" / table)
    lines = gzip.decompress((shared / "data" / "EmoBox" / "meld" / "meld.jsonl.gz").read_bytes()).splitlines()
    listed = {row["wav"].removeprefix("downloads/meld/"): row["emo"] for row in map(json.loads, lines)}
    for file in listed:
        (tmp_path / file).touch()
    clips = read(tmp_path)
    without_media = {name for name, clip in clips.items() if not (tmp_path / clip.audio).is_file()}
    assert without_media == {"train/dia125_utt3", "dev/dia110_utt7"}
    assert listed == {clip.audio: clip.emotion for name, clip in clips.items() if name not in without_media}
