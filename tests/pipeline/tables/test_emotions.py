from pathlib import Path

import pytest

from pipeline.stage import UserError
from pipeline.tables import emotions


def test_an_unmapped_label_stops_with_the_labels_found() -> None:
    known = {"SAD": "sad", "ANG": "angry", "XXX": None}
    emotions.check_labels("acted", known, ["SAD", "XXX"])
    with pytest.raises(UserError, match="acted: no unified emotion for BOR; found the labels ANG, BOR, expected SAD"):
        emotions.check_labels("acted", known, ["ANG", "BOR"])


def test_votes_become_shares_and_what_names_no_emotion_is_other() -> None:
    known = {"hap": "happy", "exc": "happy", "xxx": None}
    assert emotions.soften({"hap": 1, "exc": 2, "xxx": 1}, known) == {"happy": 0.75, "other": 0.25}
    assert emotions.soften({"hap": 2, "xxx": 0}, known) == {"happy": 1}


def test_classes_are_read_in_prompt_order(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("emotions: [sad, neutral]\n")
    assert emotions.read_classes(file) == ["sad", "neutral"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[sad, sadness]", "emotions: found sadness, expected some of neutral, happy"),
        ("[sad, sad]", "emotions: expected two or more different emotions, found sad, sad"),
        ("[sad]", "emotions: expected two or more different emotions, found sad"),
        ("sad", "emotions: expected a valid list, found 'sad'"),
    ],
)
def test_wrong_classes_are_told(tmp_path: Path, classes: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"emotions: {classes}\n")
    with pytest.raises(UserError, match=message):
        emotions.read_classes(file)
