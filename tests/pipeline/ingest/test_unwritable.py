import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.corpus import Clip
from pipeline.ingest.unwritable import refuse_unwritable


def reason(**values: Any) -> tuple[str, str] | None:
    clip = Clip(**{"utterance": "u", "audio": "a.wav", "text": "yes", "speaker": "s", **values})
    fault = refuse_unwritable(clip, "/root").fault
    return None if fault is None else (fault.reason, fault.detail)


@pytest.mark.parametrize(
    "values",
    [
        {}, {"audio": "é" * 100 + ".wav", "text": "Grüße 😀"}, {"audio": "a/" * 500 + "a.wav"}, {"audio": "x" * 255},
        {"text": "a\0b", "attributes": {"age": "41"}},
    ],
)  # fmt: skip
def test_what_can_be_written_is_kept(values: dict[str, Any]) -> None:
    assert reason(**values) is None


@pytest.mark.parametrize("audio", ["x" * 256, "é" * 128, "a/" * 2100 + "a.wav", "and so he went on " * 20])
def test_a_name_that_no_disk_can_hold_is_refused(audio: str) -> None:
    assert reason(audio=audio) == ("bad-name", "expected a name of at most 255 bytes")


def test_a_name_with_nul_is_not_cut_there() -> None:
    assert reason(audio="1.wav\0.mp3") == ("bad-name", "expected a name without NUL")


@pytest.mark.parametrize("field", ["text", "speaker", "session", "dialogue", "emotion", "intensity"])
def test_half_of_a_surrogate_pair_is_refused_wherever_it_is(field: str) -> None:
    assert reason(**{field: "oh no \ud83d"}) == ("bad-text", "found oh no \\ud83d")


def test_half_of_a_surrogate_pair_in_names_and_attributes_is_refused() -> None:
    assert reason(attributes={"mood": "\ude00"}) == ("bad-text", "found \\ude00")
    assert reason(audio="\ud83d.wav") == ("bad-name", "expected a name in UTF-8")


def test_a_row_of_jsonl_with_half_of_an_emoji_is_quarantined(
    tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]
) -> None:
    texts = ["oh no \ud83d", "fine \ud83d\ude00"]
    for i in range(2):
        speak(tmp_path / "c" / f"{i}.wav")
    rows = (json.dumps({"audio": f"{i}.wav", "speaker": "s", "text": text}) for i, text in enumerate(texts))
    (tmp_path / "c" / "c.jsonl").write_text("\n".join(rows))
    taken = take_in("table", tmp_path / "c", "table: c.jsonl\n")
    assert taken.column("text_published") == ["fine 😀"]
    assert taken.reasons == {"x/0": ("bad-text", "found oh no \\ud83d")}
