import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.cremad import CORPUS, SENTENCES
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

NAMES = ("1001_IEO_ANG_HI", "1002_TSI_NEU_XX", "1040_ITH_SAD_XX")


@pytest.fixture
def cremad(tmp_path: Path) -> Path:
    """Three clips with all tables; the third file is named as it was until 2022."""
    (tmp_path / "AudioWAV").mkdir()
    for name in (*NAMES[:2], "1040_ITH_SAD_X"):
        (tmp_path / "AudioWAV" / f"{name}.wav").touch()
    index = "".join(f'{number},"{name}"\n' for number, name in enumerate(NAMES, start=1))
    (tmp_path / "SentenceFilenames.csv").write_text('"Stimulus_Number","Filename"\n' + index)
    (tmp_path / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n'
        '1001,51,"Male","Caucasian","Not Hispanic"\n1002,21,"Female","","Hispanic"\n'
    )
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text(
        '"","A","D","F","H","N","S","fileName"\n'
        '"100001",7,1,0,0,2,0,"1001_IEO_ANG_HI"\n"200001",0,0,0,9,0,0,"1001_IEO_ANG_HI"\n'
        '"300001",8,2,0,0,0,0,"1001_IEO_ANG_HI"\n"103234",0,0,2,0,5,3,"1040_ITH_SAD_XX"\n'
    )
    return tmp_path


def read(root: Path) -> dict[str, Clip]:
    clips = list(CORPUS.read(root))
    assert len({clip.utterance for clip in clips}) == len(clips)
    return {clip.utterance: clip for clip in clips}


def test_a_clip_has_its_sentence_emotion_and_intensity_from_its_name(cremad: Path) -> None:
    clip = read(cremad)["1001_IEO_ANG_HI"]
    assert (clip.audio, clip.text) == ("AudioWAV/1001_IEO_ANG_HI.wav", "It's eleven o'clock.")
    assert (clip.emotion, clip.intensity) == ("ANG", "high")
    assert (clip.fault, clip.split, clip.session, clip.dialogue) == (None, None, None, None)


def test_a_clip_has_what_is_published_of_its_actor(cremad: Path) -> None:
    clips = read(cremad)
    assert (clips[NAMES[0]].speaker, clips[NAMES[0]].gender) == ("1001", "male")
    assert clips[NAMES[0]].attributes == {"Age": "51", "Race": "Caucasian", "Ethnicity": "Not Hispanic"}
    assert (clips[NAMES[1]].gender, clips[NAMES[1]].attributes) == ("female", {"Age": "21", "Ethnicity": "Hispanic"})
    assert (clips[NAMES[2]].gender, clips[NAMES[2]].attributes) == (None, None)


def test_votes_are_kept_apart_by_what_the_voters_were_given(cremad: Path) -> None:
    clips = read(cremad)
    clip = clips["1001_IEO_ANG_HI"]
    assert clip.votes == {"ANG": 7, "DIS": 1, "FEA": 0, "HAP": 0, "NEU": 2, "SAD": 0}
    assert clip.votes_face == {"ANG": 0, "DIS": 0, "FEA": 0, "HAP": 9, "NEU": 0, "SAD": 0}
    assert clip.votes_both == {"ANG": 8, "DIS": 2, "FEA": 0, "HAP": 0, "NEU": 0, "SAD": 0}
    assert clips["1002_TSI_NEU_XX"].votes is clips["1002_TSI_NEU_XX"].votes_both is None


def test_the_misnamed_file_is_the_clip_that_the_tables_name(cremad: Path) -> None:
    clips = read(cremad)
    assert list(clips) == list(NAMES)
    assert clips["1040_ITH_SAD_XX"].audio == "AudioWAV/1040_ITH_SAD_X.wav"
    assert clips["1040_ITH_SAD_XX"].intensity == "unspecified"
    assert (clips["1040_ITH_SAD_XX"].votes or {})["NEU"] == 5


def test_a_name_of_the_index_counts_without_its_file(cremad: Path) -> None:
    (cremad / "AudioWAV" / "1002_TSI_NEU_XX.wav").unlink()
    clip = read(cremad)["1002_TSI_NEU_XX"]
    assert (clip.audio, clip.fault, clip.emotion) == ("AudioWAV/1002_TSI_NEU_XX.wav", None, "NEU")


def test_a_file_that_the_index_does_not_name_is_set_aside(cremad: Path) -> None:
    for name in ("1003_TSI_NEU_XX.wav", "notes.wav"):
        (cremad / "AudioWAV" / name).touch()
    clips = read(cremad)
    assert len(clips) == 5
    assert clips["1003_TSI_NEU_XX"].fault == clips["notes"].fault == Fault("not-listed")


def test_a_file_with_another_name_is_set_aside_without_an_index_too(cremad: Path) -> None:
    (cremad / "SentenceFilenames.csv").unlink()
    (cremad / "AudioWAV" / "1001_XYZ_ANG_HI.wav").touch()
    clips = read(cremad)
    assert clips["1001_XYZ_ANG_HI"].fault == Fault("bad-name", "expected 1001_IEO_ANG_HI")
    assert [clip.fault for name, clip in clips.items() if name in NAMES] == [None, None, None]


def test_audio_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "AudioWAV" / "1001_IEO_SAD_XX.flac").touch()
    clip = read(tmp_path)["1001_IEO_SAD_XX"]
    assert (clip.fault, clip.gender, clip.votes, clip.attributes) == (None, None, None, None)


def test_another_layout_gives_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == {}


def test_an_index_without_its_column_is_told(cremad: Path) -> None:
    (cremad / "SentenceFilenames.csv").write_text("Stimulus_Number,Name\n1,1001_IEO_ANG_HI\n")
    message = r"SentenceFilenames\.csv: line 1: lacks the column Filename; found Stimulus_Number, Name"
    with pytest.raises(UserError, match=message):
        read(cremad)


def test_an_index_that_breaks_off_is_told_with_its_line(cremad: Path) -> None:
    rows = "".join(f"{i},1001_IEO_ANG_HI\n" for i in range(20_000))
    (cremad / "SentenceFilenames.csv").write_text(f'Stimulus_Number,Filename\n1,"1001_IEO_ANG_HI\n{rows}')
    with pytest.raises(UserError, match=r"SentenceFilenames\.csv: line \d+: expected CSV, found field larger than"):
        read(cremad)


def test_votes_that_are_no_counts_are_told(cremad: Path) -> None:
    with (cremad / "processedResults" / "tabulatedVotes.csv").open("a") as file:
        file.write('"100002",x,0,0,0,1,0,"1002_TSI_NEU_XX"\n')
    message = r"tabulatedVotes\.csv: line 6: expected counts of votes, found x, 0, 0, 0, 1, 0"
    with pytest.raises(UserError, match=message):
        read(cremad)


@pytest.fixture
def published(shared: Path, tmp_path: Path) -> Path:
    """All 7,442 files, empty, beside the published tables."""
    real = shared / "data" / "CREMA-D"
    for table in ("SentenceFilenames.csv", "VideoDemographics.csv", "processedResults"):
        (tmp_path / table).symlink_to(real / table)
    (tmp_path / "AudioWAV").mkdir()
    for line in (real / "SentenceFilenames.csv").read_text().splitlines()[1:]:
        name = line.split('"')[1]
        (tmp_path / "AudioWAV" / f"{name}.wav").touch()
    return tmp_path


@pytest.mark.shared
def test_the_published_corpus_has_its_counts(published: Path) -> None:
    clips = read(published)
    counts = Counter(clip.emotion for clip in clips.values())
    assert {"clips": len(clips), "speakers": len({clip.speaker for clip in clips.values()}), **counts} == CORPUS.counts
    assert all(clip.fault is None for clip in clips.values())
    genders = {clip.speaker: clip.gender for clip in clips.values()}
    assert Counter(genders.values()) == {"male": 48, "female": 43}
    assert {clip.text for clip in clips.values()} == set(SENTENCES.values())


@pytest.mark.shared
def test_every_published_clip_has_votes_on_voice_face_and_both(published: Path) -> None:
    clips = read(published).values()
    assert len(clips) == 7442
    for clip in clips:
        assert clip.attributes is not None
        assert list(clip.attributes) == ["Age", "Race", "Ethnicity"]
        for votes in (clip.votes, clip.votes_face, clip.votes_both):
            assert sum((votes or {}).values()) >= 4


@pytest.mark.shared
def test_votes_have_the_majorities_of_the_published_summary(published: Path, shared: Path) -> None:
    clips = read(published)
    summary = (shared / "data" / "CREMA-D" / "processedResults" / "summaryTable.csv").read_text().splitlines()[1:]
    assert len(summary) == 7442
    for line in summary:
        _, name, voice, _, face, _, both, _ = (cell.strip('"') for cell in line.split(","))
        clip = clips[name]
        for majority, votes in ((voice, clip.votes), (face, clip.votes_face), (both, clip.votes_both)):
            assert votes is not None
            most = {emotion[0] for emotion, count in votes.items() if count == max(votes.values())}
            assert set(majority.split(":")) == most


@pytest.mark.shared
def test_the_tables_alone_name_all_clips(shared: Path) -> None:
    clips = read(shared / "data" / "CREMA-D")
    assert len(clips) == 7442
    assert set(CORPUS.faults) < set(clips)


@pytest.mark.shared
def test_labels_and_files_are_emoboxs(published: Path, shared: Path) -> None:
    clips = read(published)
    lines = gzip.decompress((shared / "data" / "EmoBox" / "cremad" / "cremad.jsonl.gz").read_bytes()).splitlines()
    listed = {row["wav"].removeprefix("downloads/cremad/"): row["emo"] for row in map(json.loads, lines)}
    assert listed == {clip.audio: clip.emotion for clip in clips.values()}
