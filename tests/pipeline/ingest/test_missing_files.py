"""A file that is not where a table names it: what is there instead is told, and a converted file is taken."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora import registry
from pipeline.ingest.__main__ import ingest
from pipeline.ingest.missing_files import NearbyFiles
from pipeline.stage import UserError

NFC, NFD = (unicodedata.normalize(form, "wav/Müller.wav") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("named", "there", "found"),
    [
        ("wav/3.WAV", "wav/3.wav", "found wav/3.wav"),
        ("Wav/a b.wav", "wav/A B.wav", "found wav/A B.wav"),
        ("wav\\2.wav", "wav/2.wav", "found wav/2.wav"),
        (NFC, NFD, f"found {NFD}, whose accents are in another Unicode form"),
        ("wav/1.wav", "wav/1.mp3", "found wav/1.mp3"),
        ("1.wav", "clips/1.wav", "found clips/1.wav"),
        ("clips/1.wav", "data/clips/1.flac", "found data/clips/1.flac"),
        ("./wav/1.wav", "wav/deep/1.wav", "found wav/deep/1.wav"),
        ("wav/1.wav", "wav/10.wav", ""),
        ("wav/1.wav", "wav/._1.mp3", ""),
        ("wav/1.wav", "a/b/c/1.wav", ""),
        ("", "1.wav", ""),
        ("../1.wav", "1.wav", "found 1.wav"),
        ("clips/1.wav", "1.wav", "found 1.wav"),
        ("AudioWAV/1.wav", "AudioMP3/1.mp3", "found AudioMP3/1.mp3"),
        ("/home/me/corpus/1.wav", "1.wav", "found 1.wav"),
    ],
)
def test_what_lies_there_instead_is_described(tmp_path: Path, named: str, there: str, found: str) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).touch()
    assert NearbyFiles(str(tmp_path)).describe(named) == found


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    (tmp_path / b"caf\xe9.mp3".decode(errors="surrogateescape")).touch()
    found = NearbyFiles(str(tmp_path)).describe(b"caf\xe9.wav".decode(errors="surrogateescape"))
    assert found == "found caf\\xe9.mp3"


def test_a_table_tells_it_in_the_quarantine(
    tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    root = tmp_path / "c"
    for name in ("1.mp3", "2.flac", "4.wav"):
        speak(root / "wav" / name)
    rows = "".join(f"wav/{i}.wav,s,hello there\n" for i in range(1, 5))
    (root / "c.csv").write_text(f"audio,speaker,text\n{rows}")
    taken = take_in("table", root, "table: c.csv\n")
    assert taken.column("audio") == ["wav/2.flac", "wav/4.wav"]
    assert taken.column("id") == ["x/wav/2", "x/wav/4"]
    assert taken.reasons == {"x/wav/1": ("no-file", "found wav/1.mp3"), "x/wav/3": ("no-file", "")}


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_published_media_may_be_converted(
    tmp_path: Path, suffix: str, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    head = "client_id\tpath\tsentence\tlocale\n"
    speak(tmp_path / "cv" / "clips" / f"common_voice_en_1{suffix}")
    (tmp_path / "cv" / "train.tsv").write_text(f"{head}s\tcommon_voice_en_1.mp3\tYes.\ten\n")
    assert take_in("commonvoice", tmp_path / "cv").column("audio") == [f"clips/common_voice_en_1{suffix}"]

    speak(tmp_path / "mead" / "M003/audio/angry/level_1" / f"001{suffix}")
    assert take_in("mead", tmp_path / "mead").column("audio") == [f"M003/audio/angry/level_1/001{suffix}"]

    chapter = tmp_path / "libri" / "dev-clean" / "1" / "2"
    speak(chapter / f"1-2-0000{suffix}")
    (chapter / "1-2.trans.txt").write_text("1-2-0000 HELLO\n")
    assert take_in("librispeech", tmp_path / "libri").column("audio") == [f"dev-clean/1/2/1-2-0000{suffix}"]


def test_a_table_of_another_format_says_so_in_the_error(tmp_path: Path, speak: Callable[..., Path]) -> None:
    root = tmp_path / "c"
    speak(root / "1.mp3")
    (root / "c.csv").write_text("audio,speaker\n1.wav,s\n")
    (root / "mapping.yaml").write_text("language: en\nlicence: CC0-1.0\ntable: c.csv\n")
    with pytest.raises(UserError, match=r"found 1 no-file; the first one is x/1, no-file, found 1\.mp3 \(see "):
        ingest(registry.open_corpus("table", root), root, "x", "samples", tmp_path / "x.parquet")


def test_a_root_of_another_layout_names_its_audio(tmp_path: Path, speak: Callable[..., Path]) -> None:
    speak(tmp_path / "c" / "a" / "b" / "Actor_01" / "03-01-06-02-01-01-01.wav")
    (tmp_path / "c" / "._a").touch()
    with pytest.raises(UserError, match=r"found a with 1 \.wav files such as a/b/Actor_01/03-\S+; expected RAVDESS's"):
        ingest(registry.load("ravdess"), tmp_path / "c", "x", "samples", tmp_path / "x.parquet")
