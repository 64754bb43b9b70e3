from pathlib import Path

import pytest

from pipeline import taxonomy
from pipeline.corpora import cremad, ravdess
from pipeline.stage import UserError


def test_every_published_label_maps_to_a_unified_emotion() -> None:
    assert set(taxonomy.LABELS["ravdess"]) == set(ravdess.EMOTIONS.values())
    assert set(taxonomy.LABELS["cremad"]) == set(cremad.VOTE_COLUMNS)
    for labels in taxonomy.LABELS.values():
        assert set(labels.values()) <= set(taxonomy.EMOTIONS)


def test_an_unmapped_label_stops_with_the_labels_found() -> None:
    assert taxonomy.mapping("cremad", ["SAD", "ANG"]) == {"ANG": "angry", "SAD": "sad"}
    with pytest.raises(UserError, match=r"cremad: no unified emotion for BOR; found the labels ANG, BOR, expected NEU"):
        taxonomy.mapping("cremad", ["ANG", "BOR"])


def test_classes_are_read_in_prompt_order(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("emotions: [sad, neutral]\n")
    assert taxonomy.read_classes(file) == ["sad", "neutral"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[sad, sadness]", "emotions: found sadness, expected some of neutral, happy"),
        ("[sad, sad]", "emotions: expected two or more different ones, found sad, sad"),
        ("[sad]", "emotions: expected two or more different ones, found sad"),
        ("sad", "emotions: expected a valid list, found 'sad'"),
    ],
)
def test_wrong_classes_are_told(tmp_path: Path, classes: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"emotions: {classes}\n")
    with pytest.raises(UserError, match=message):
        taxonomy.read_classes(file)
