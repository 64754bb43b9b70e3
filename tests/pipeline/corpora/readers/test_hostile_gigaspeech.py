"""A GigaSpeech.json of other types or depth stops with one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.readers.gigaspeech import read
from pipeline.stage import UserError

SEGMENT = {"sid": "a", "begin_time": 0, "end_time": 1.5, "text_tn": "HELLO", "subsets": ["{XL}"]}


def write(root: Path, audio: object) -> Path:
    whole = {"path": "1.wav", "aid": "A", "source": "podcast", "segments": [SEGMENT]}
    (root / "GigaSpeech.json").write_text(json.dumps({"audios": [whole, audio]}))
    return root


@pytest.mark.parametrize(
    "change",
    [
        {"sid": None}, {"sid": 5}, {"sid": ["a"]}, {"begin_time": "0"}, {"begin_time": None}, {"begin_time": True},
        {"end_time": {}}, {"subsets": "{XL}"}, {"subsets": None}, {"text_tn": 7},
        {"text_tn": None},
    ],
)  # fmt: skip
def test_a_segment_of_other_types_stops_with_its_line(tmp_path: Path, change: dict[str, Any]) -> None:
    audio = {"path": "1.wav", "aid": "B", "source": "podcast", "segments": [SEGMENT | change]}
    with pytest.raises(
        UserError, match=r"GigaSpeech\.json: line 1: expected aid, .+ in this recording, found \w+Error"
    ):
        list(read(write(tmp_path, audio)))


@pytest.mark.parametrize(
    "audio",
    [
        None, 5, "x", [], {}, {"aid": 7, "path": "1.wav", "source": "p", "segments": []},
        {"aid": "A", "path": None, "source": "p", "segments": []},
        {"aid": "A", "path": "1.wav", "source": [], "segments": []},
        {"aid": "A", "path": "1.wav", "source": "p", "segments": None},
        {"aid": "A", "path": "1.wav", "source": "p", "segments": {"a": 1}},
        {"aid": "A", "path": "1.wav", "source": "p", "segments": [None]},
    ],
)  # fmt: skip
def test_a_recording_of_other_types_stops_with_its_line(tmp_path: Path, audio: object) -> None:
    with pytest.raises(
        UserError, match=r"GigaSpeech\.json: line 1: expected aid, .+ in this recording, found \w+Error"
    ):
        list(read(write(tmp_path, audio)))


def test_a_number_that_no_computer_holds_stops_with_its_line(tmp_path: Path) -> None:
    audio = {"path": "1.wav", "aid": "B", "source": "podcast", "segments": [SEGMENT | {"end_time": 10**400}]}
    with pytest.raises(UserError, match=r"GigaSpeech\.json: line 1: expected "):
        list(read(write(tmp_path, audio)))


def test_times_may_be_whole_numbers(tmp_path: Path) -> None:
    audio = {"path": "1.wav", "aid": "B", "source": "p", "segments": [SEGMENT | {"begin_time": 1, "end_time": 3}]}
    clips = list(read(write(tmp_path, audio)))
    assert [(clip.start_s, clip.duration_s) for clip in clips] == [(0, 1.5), (1, 2)]


@pytest.mark.parametrize("opening", ["[", '{"a":', "[\n"])
def test_brackets_within_brackets_take_no_memory(tmp_path: Path, opening: str) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "GigaSpeech.json").write_text('{"audios": [' + opening * 100_000)
    with pytest.raises(UserError, match=r"GigaSpeech\.json: after line 1: expected aid, .+, found too many brackets"):
        list(read(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_an_index_of_many_blocks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audios = [
        {"title": '[{"' * i, "path": "1.wav", "aid": f"A{i}", "source": "p", "segments": [SEGMENT | {"sid": str(i)}]}
        for i in range(50)
    ]
    (tmp_path / "GigaSpeech.json").write_text(json.dumps({"audios": audios}, indent=1))
    for block in (7, 100, 4096):
        monkeypatch.setattr("pipeline.corpora.readers.gigaspeech._BLOCK", block)
        assert [clip.utterance for clip in read(tmp_path)] == [str(i) for i in range(50)]
