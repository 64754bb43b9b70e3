import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.corpora.readers.gigaspeech import CORPUS, read
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault


def segment(number: int, begin: float, text: str, *subsets: str) -> dict[str, Any]:
    return {
        "sid": f"POD0_S{number:07}",
        "speaker": "N/A",
        "begin_time": begin,
        "end_time": begin + 2.1,
        "text_tts": text,
        "subsets": [f"{{{subset}}}" for subset in subsets],
    }


def audio(aid: str, *segments: dict[str, Any]) -> dict[str, Any]:
    return {"aid": aid, "path": f"audio/podcast/P0000/{aid}.opus", "source": "podcast", "segments": list(segments)}


def write(root: Path, *audios: object) -> Path:
    content = {"dataset": "GigaSpeech", "language": "EN", "audios": audios}
    (root / "GigaSpeech.json").write_text(json.dumps(content, indent=1))
    return root


def texts(root: Path, subset: str | None = None) -> list[str | None]:
    return [clip.text for clip in read(root, subset=subset)]


def test_a_clip_is_a_segment_of_a_long_recording_which_is_its_speaker(tmp_path: Path) -> None:
    write(tmp_path, audio("POD0", segment(7, 6.1, "AS THEY'RE LEAVING <COMMA> CAN KASH GO <QUESTIONMARK>", "XL")))
    assert list(read(tmp_path)) == [
        Clip(
            utterance="POD0_S0000007",
            audio="audio/podcast/P0000/POD0.opus",
            text="AS THEY'RE LEAVING, CAN KASH GO?",
            speaker="POD0",
            start_s=6.1,
            duration_s=2.1,
            session="POD0",
            split="train",
            attributes={"source": "podcast"},
        )
    ]


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("STOP <EXCLAMATIONPOINT> NOW <PERIOD>", "STOP! NOW."),
        ("<COMMA> WELL", ", WELL"),
        ("THE COMMA IS A SIGN <PERIOD>", "THE COMMA IS A SIGN."),
        ("NO TAGS", "NO TAGS"),
        ("", ""),
    ],
)
def test_punctuation_tags_become_punctuation(tmp_path: Path, tagged: str, text: str) -> None:
    write(tmp_path, audio("POD0", segment(0, 0, tagged, "XL")))
    (clip,) = read(tmp_path)
    assert (clip.text, clip.fault) == (text, None)


@pytest.mark.parametrize("tag", ["<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>", "<MUSIC> <NOISE>"])
def test_what_is_labelled_as_no_speech_is_set_aside_with_its_tag(tmp_path: Path, tag: str) -> None:
    write(tmp_path, audio("POD0", segment(0, 0, tag, "DEV"), segment(1, 3, f"A TALK {tag}", "DEV")))
    first, second = read(tmp_path)
    assert first.fault == Fault("not-speech", tag)
    assert (second.text, second.fault) == ("A TALK", None)


def test_segments_come_in_time_order_a_recording_after_the_other(tmp_path: Path) -> None:
    first = audio("POD1", segment(1, 30.5, "C", "XL"), segment(0, 2, "A", "XL"), segment(2, 11, "B", "XL"))
    write(tmp_path, first, audio("POD0", segment(3, 0, "D", "XL")))
    assert texts(tmp_path) == ["A", "B", "C", "D"]


def test_subsets_give_official_splits_and_one_may_be_read_alone(tmp_path: Path) -> None:
    write(
        tmp_path,
        audio("POD0", segment(0, 0, "S", "XL", "L", "M", "S"), segment(1, 3, "XL", "XL")),
        audio("POD1", segment(2, 0, "DEV", "DEV")),
        audio("POD2", segment(3, 0, "TEST", "TEST")),
    )
    assert [(clip.text, clip.split) for clip in read(tmp_path)] == [
        ("S", "train"), ("XL", "train"), ("DEV", "dev"), ("TEST", "test"),
    ]  # fmt: skip
    alone = {subset: texts(tmp_path, subset) for subset in CORPUS.subsets}
    assert alone == {
        "XS": [], "S": ["S"], "M": ["S"], "L": ["S"], "XL": ["S", "XL"], "DEV": ["DEV"], "TEST": ["TEST"],
    }  # fmt: skip


def test_a_file_on_one_line_or_with_other_line_ends_is_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path, *(audio(f"POD{i}", segment(i, 0, f"WORD {i}", "XL")) for i in range(9))) / "GigaSpeech.json"
    expected = texts(tmp_path)
    assert len(expected) == 9
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert texts(tmp_path) == expected
    path.write_bytes(json.dumps(json.loads(path.read_text()), indent=4).replace("\n", "\r\n").encode())
    assert texts(tmp_path) == expected


def test_a_file_cut_in_the_middle_stops_with_its_line_after_what_is_whole(tmp_path: Path) -> None:
    write(tmp_path, *(audio(f"POD{i}", segment(i, 0, f"WORD {i}", "XL")) for i in range(3)))
    path = tmp_path / "GigaSpeech.json"
    whole = path.read_text()
    path.write_text(whole[: whole.index("WORD 2")])
    line = path.read_text().count("\n") + 1
    clips = read(tmp_path)
    assert [next(clips).text, next(clips).text] == ["WORD 0", "WORD 1"]
    with pytest.raises(UserError, match=rf"GigaSpeech\.json: line {line}: expected JSON, found it cut short or broken"):
        next(clips)


@pytest.mark.parametrize("broken", [b'"aid": POD', b'"aid": "\xff"', b"]"])
def test_json_that_is_broken_stops_with_its_line(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, audio("POD0", segment(0, 0, "WORD", "XL")))
    path = tmp_path / "GigaSpeech.json"
    content = path.read_bytes()
    line = content[: content.index(b'"aid"')].count(b"\n") + 1
    path.write_bytes(content.replace(b'"aid": "POD0"', broken))
    with pytest.raises(UserError, match=rf"GigaSpeech\.json: line {line}: expected JSON"):
        list(read(tmp_path))


@pytest.mark.parametrize(
    ("change", "found"),
    [({"begin_time": "soon"}, "ValueError"), ({"text_tts": None}, "AttributeError"), ({"end_time": "1"}, "TypeError")],
)
def test_a_recording_of_another_form_stops_with_its_line(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    whole = segment(0, 0, "A", "XL")
    write(tmp_path, audio("POD0", whole), audio("POD1", whole | change))
    last = len((tmp_path / "GigaSpeech.json").read_text().splitlines()) - 2  # before the ends of list and file
    with pytest.raises(UserError, match=rf"line {last}: expected aid, path, .+ in this recording, found {found}"):
        list(read(tmp_path))


def test_a_segment_without_an_id_stops_with_the_key(tmp_path: Path) -> None:
    write(tmp_path, audio("POD0", {"begin_time": 0, "text_tts": "A", "subsets": []}))
    with pytest.raises(UserError, match=r"found KeyError\('sid'\)"):
        list(read(tmp_path))


def test_other_folders_yield_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == []
    (tmp_path / "GigaSpeech.json").write_text("{}")
    assert list(read(tmp_path)) == []
