import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import typer

from pipeline import ingest, manifest, tables
from pipeline.corpora import READERS
from pipeline.stage import UserError


def speak(path: Path, num_samples: int = 1600, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng([seed, *path.name.encode()]).integers(-9, 9, num_samples, dtype=np.int16)
    soundfile.write(path, samples, 16_000)


def rows(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in table.to_pylist()}


def reasons(table: pa.Table) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in table.to_pylist()}


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    for turn in (0, 1):
        speak(chapter / f"84-121123-000{turn}.flac")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 IT'S LATE\n84-121123-0001 GO HOME")
    (tmp_path / "SPEAKERS.TXT").write_text(
        ";ID |SEX| SUBSET |MINUTES| NAME\n84   | F | dev-clean  |  8.02 | Ann | Lee\n"
    )
    return tmp_path


@pytest.fixture
def cremad(tmp_path: Path) -> Path:
    for name in ("1001_IEO_ANG_HI.wav", "1002_TSI_NEU_XX.wav", "1040_ITH_SAD_X.wav"):
        speak(tmp_path / "AudioWAV" / name)
    (tmp_path / "VideoDemographics.csv").write_text('"ActorID","Age","Sex"\n1001,51,"Male"\n1002,21,"Female"\n')
    (tmp_path / "processedResults").mkdir()
    (tmp_path / "processedResults" / "tabulatedVotes.csv").write_text(
        '"","A","D","F","H","N","S","fileName"\n'
        '"100001",7,1,0,0,2,0,"1001_IEO_ANG_HI"\n"200001",0,0,0,9,0,0,"1001_IEO_ANG_HI"\n'
        '"103234",0,0,2,0,5,3,"1040_ITH_SAD_XX"\n'
    )
    return tmp_path


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    for actor in (1, 2):
        speak(tmp_path / "audio_speech_actors_01-24" / f"Actor_0{actor}" / f"03-01-06-02-01-01-0{actor}.wav")
    return tmp_path


def test_librispeech_gives_transcript_speaker_chapter_and_official_part(librispeech: Path) -> None:
    usable, unusable = ingest.ingest(librispeech, "librispeech", "libri")
    assert unusable.num_rows == 0
    row = rows(usable)["libri/84-121123-0001"]
    assert row["audio"] == "dev-clean/84/121123/84-121123-0001.flac"
    assert (row["text"], row["text_published"]) == ("go home", "GO HOME")
    assert (row["speaker"], row["gender"], row["session"], row["turn"]) == ("libri/84", "female", "121123", 1)
    assert (row["split"], row["duration_s"], row["licence"]) == ("dev", 0.1, "CC-BY-4.0")
    assert row["emotion"] is row["emotion_published"] is row["votes"] is None


def test_librispeech_sets_aside_what_lacks_audio_or_transcript(librispeech: Path) -> None:
    chapter = librispeech / "dev-clean" / "84" / "121123"
    speak(chapter / "84-121123-0002.flac")
    speak(chapter / "notes.flac")
    with (chapter / "84-121123.trans.txt").open("a") as file:
        file.write("\n84-121123-0003 NOT RECORDED\n84-121123-0004\n")
    usable, unusable = ingest.ingest(librispeech, "librispeech", "libri")
    assert usable.num_rows == 2
    assert reasons(unusable) == {
        "libri/84-121123-0002": "no transcript line",
        "libri/84-121123-0003": "file is missing",
        "libri/84-121123-0004": "empty transcript",
        "libri/notes": "name is not of the form SPK-CHAP-NNNN",
    }


def test_a_transcript_that_is_not_utf_8_is_told(librispeech: Path) -> None:
    (librispeech / "dev-clean/84/121123/84-121123.trans.txt").write_bytes(b"84-121123-0000 CAF\xc9\n")
    with pytest.raises(UserError, match=r"84-121123\.trans\.txt: expected UTF-8 text, found byte 0xc9"):
        ingest.ingest(librispeech, "librispeech", "libri")


def test_cremad_gives_emotion_intensity_gender_and_the_votes_on_the_voice_alone(cremad: Path) -> None:
    usable, _ = ingest.ingest(cremad, "cremad", "cremad")
    row = rows(usable)["cremad/1001_IEO_ANG_HI"]
    assert (row["emotion"], row["emotion_published"], row["intensity"]) == ("angry", "ANG", "high")
    assert (row["text_published"], row["speaker"], row["gender"]) == ("It's eleven o'clock.", "cremad/1001", "male")
    assert dict(row["votes"]) == {"ANG": 7, "DIS": 1, "FEA": 0, "HAP": 0, "NEU": 2, "SAD": 0}
    assert row["split"] is None
    assert rows(usable)["cremad/1002_TSI_NEU_XX"]["votes"] is None


def test_cremad_knows_the_clip_whose_file_is_misnamed(cremad: Path) -> None:
    row = rows(ingest.ingest(cremad, "cremad", "cremad")[0])["cremad/1040_ITH_SAD_XX"]
    assert row["audio"] == "AudioWAV/1040_ITH_SAD_X.wav"
    assert row["intensity"] == "unspecified"
    assert dict(row["votes"])["NEU"] == 5


def test_cremad_needs_no_metadata(tmp_path: Path) -> None:
    speak(tmp_path / "AudioWAV" / "1001_IEO_SAD_XX.flac")
    row = ingest.ingest(tmp_path, "cremad", "cremad")[0].to_pylist()[0]
    assert row["gender"] is row["votes"] is None


def test_ravdess_gives_emotion_intensity_statement_and_gender_by_parity(ravdess: Path) -> None:
    usable, _ = ingest.ingest(ravdess, "ravdess", "ravdess")
    first, second = usable.to_pylist()
    assert (first["emotion"], first["emotion_published"], first["intensity"]) == ("fear", "fearful", "strong")
    assert (first["speaker"], first["gender"], second["gender"]) == ("ravdess/01", "male", "female")
    assert first["text"] == "kids are talking by the door"


def test_ravdess_sets_aside_songs_and_foreign_names(ravdess: Path) -> None:
    speak(ravdess / "Actor_03" / "03-02-06-02-01-01-03.wav")
    speak(ravdess / "Actor_03" / "outtake.wav")
    assert reasons(ingest.ingest(ravdess, "ravdess", "ravdess")[1]) == {
        "ravdess/03-02-06-02-01-01-03": "sung, not spoken",
        "ravdess/outtake": "name is not of the form 03-01-EE-II-SS-RR-AA",
    }


def test_unusable_audio_is_set_aside_with_a_reason(cremad: Path) -> None:
    (cremad / "AudioWAV" / "1001_IEO_ANG_LO.wav").write_text("no audio")
    soundfile.write(cremad / "AudioWAV" / "1076_MTI_SAD_XX.wav", np.zeros(1600, np.int16), 16_000)
    (cremad / "AudioWAV" / "1064_TIE_SAD_XX.wav").write_bytes(b"")
    usable, unusable = ingest.ingest(cremad, "cremad", "cremad")
    assert usable.num_rows == 3
    assert reasons(unusable) == {
        "cremad/1001_IEO_ANG_LO": "not readable: Format not recognised",
        "cremad/1064_TIE_SAD_XX": "file is empty",
        "cremad/1076_MTI_SAD_XX": "silent",
    }


def test_a_label_without_unified_emotion_stops_with_the_labels_found(cremad: Path) -> None:
    speak(cremad / "AudioWAV" / "1001_IEO_BOR_XX.wav")
    with pytest.raises(UserError, match="no unified emotion for BOR; found the labels ANG, BOR, NEU, SAD"):
        ingest.ingest(cremad, "cremad", "cremad")


def test_one_id_for_two_files_is_told(cremad: Path) -> None:
    speak(cremad / "AudioWAV" / "1001_IEO_ANG_HI.flac")
    message = r"expected one clip for each id, found 1001_IEO_ANG_HI as AudioWAV/\S+\.flac, AudioWAV/\S+\.wav"
    with pytest.raises(UserError, match=message):
        ingest.ingest(cremad, "cremad", "cremad")


@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_root_that_is_missing_empty_or_of_another_layout_is_told(reader: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such: no such folder; expected .+ layout"):
        ingest.ingest(tmp_path / "no/such", reader, "x")
    with pytest.raises(UserError, match=f"{tmp_path}: found nothing; expected .+ layout"):
        ingest.ingest(tmp_path, reader, "x")
    for i in range(7):
        (tmp_path / f"folder-{i}").mkdir()
    with pytest.raises(UserError, match=r"found folder-0, .+ folder-4 and 2 more; expected .+ layout"):
        ingest.ingest(tmp_path, reader, "x")


def test_the_stage_writes_manifest_quarantine_and_summary(
    ravdess: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(ravdess / "Actor_03" / "03-02-06-02-01-01-03.wav")
    output = tmp_path / "manifests" / "rav.parquet"
    ingest.main("ravdess", ravdess, output, "rav")
    first = output.read_bytes()
    ingest.main("ravdess", ravdess, output, "rav")
    assert output.read_bytes() == first
    assert manifest.read(output)["id"].to_pylist() == ["rav/03-01-06-02-01-01-01", "rav/03-01-06-02-01-01-02"]
    assert tables.read(tmp_path / "manifests" / "rav.quarantine.parquet", manifest.QUARANTINE_SCHEMA).num_rows == 1
    summary = json.loads((tmp_path / "manifests" / "ingested" / "rav.json").read_text())
    assert (summary["corpus"], summary["rows"], summary["speakers"]) == ("rav", 2, 2)
    assert summary["quarantined"] == {"sung, not spoken": 1}
    assert "ingest: rav: 2 clips, 0.00 h, 2 speakers; 1 quarantined (1 sung, not spoken)\n" in capsys.readouterr().out


def test_a_corpus_without_a_usable_clip_stops_but_leaves_its_quarantine(tmp_path: Path) -> None:
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "AudioWAV" / "1001_IEO_ANG_HI.wav").write_text("no audio")
    with pytest.raises(UserError, match="no usable clip; expected at least one, found 1 not readable"):
        ingest.main("cremad", tmp_path, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    quarantine = tables.read(tmp_path / "out.quarantine.parquet", manifest.QUARANTINE_SCHEMA)
    assert quarantine["audio"].to_pylist() == ["AudioWAV/1001_IEO_ANG_HI.wav"]


@pytest.mark.parametrize(
    ("corpus", "output", "name", "message"),
    [
        ("crema", "a.parquet", None, "found crema, expected one of cremad, librispeech, ravdess"),
        ("cremad", "a.csv", None, r"found a\.csv, expected a \.parquet file"),
        ("cremad", "a.parquet", "a/b", "found 'a/b', expected letters, digits"),
    ],
)
def test_a_wrong_option_is_told(corpus: str, output: str, name: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        ingest.main(corpus, tmp_path, Path(output), name)


@pytest.mark.shared
def test_real_librispeech_is_read(shared: Path) -> None:
    usable, unusable = ingest.ingest(shared / "data" / "LibriSpeech", "librispeech", "librispeech")
    assert unusable.num_rows == 0
    files = Counter(path.split("/")[0] for path in usable["audio"].to_pylist())
    assert files == {"test-other": 80, "test-clean": 4}
    assert len(usable["speaker"].unique()) == 9
    assert set(usable["split"].to_pylist()) == {"test"}
    assert usable["gender"].null_count == 0


@pytest.mark.shared
def test_readings_in_librispeechs_layout_are_train_by_their_folder(shared: Path) -> None:
    usable, unusable = ingest.ingest(shared / "data" / "LibriSpeech-tts", "librispeech", "tts")
    assert (usable.num_rows, unusable.num_rows) == (1070, 0)
    assert len(usable["speaker"].unique()) == 28
    assert set(usable["split"].to_pylist()) == {"train"}


@pytest.mark.shared
def test_real_ravdess_is_read(shared: Path) -> None:
    usable, unusable = ingest.ingest(shared / "data" / "RAVDESS", "ravdess", "ravdess")
    assert (usable.num_rows, unusable.num_rows) == (1080, 0)
    emotions = Counter(usable["emotion"].to_pylist())
    assert emotions.pop("neutral") == 72
    assert set(emotions.values()) == {144}
    assert len(emotions) == 7
    as_published = [row for row in usable.to_pylist() if row["sample_rate_hz"] == 48_000]
    assert len(as_published) == 17
    assert {row["speaker"] for row in as_published} == {"ravdess/01"}
    assert sum(row["channels"] == 2 for row in as_published) == 2


@pytest.mark.shared
def test_real_cremad_metadata_fits_its_names(shared: Path, tmp_path: Path) -> None:
    real = shared / "data" / "CREMA-D"
    names = [line.split('"')[1] for line in (real / "SentenceFilenames.csv").read_text().splitlines()[1:]]
    (tmp_path / "AudioWAV").mkdir()
    for name in names:
        (tmp_path / "AudioWAV" / f"{name}.wav").touch()
    for metadata in ("VideoDemographics.csv", "processedResults"):
        (tmp_path / metadata).symlink_to(real / metadata)
    clips = list(READERS["cremad"](tmp_path))
    assert len(clips) == 7442
    assert all(clip.fault is None and clip.gender and sum((clip.votes or {}).values()) >= 4 for clip in clips)
    assert len({clip.speaker for clip in clips}) == 91
