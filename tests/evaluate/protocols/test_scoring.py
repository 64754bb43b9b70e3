"""The scores under a protocol are those of scikit-learn on the rows that it tests."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from evaluate.protocols.definition import Protocol
from evaluate.protocols.scoring import describe, score_protocols
from evaluate.protocols.selection import RunFacts
from tests.builders import recognised

CLASSES = ["neutral", "sad", "angry"]
RUN = RunFacts(classes=CLASSES, readers={"acted": "cremad"}, manifests=Path(), recognition_prompt={}, trained={})
PROTOCOL = Protocol(
    name="acted-test-2", about="", reader="cremad", classes=["sad", "angry"], headline=["weighted_f1", "ua"],
    source="", folds={"one": ["0", "1"], "two": ["2"]}, counts={"sad": 40, "angry": 30},
)  # fmt: skip


def make_clips(count: int = 90) -> list[dict[str, str]]:
    emotions = ["sad", "sad", "angry", "neutral"]
    return [
        {"id": f"acted/{i:03}", "speaker": f"acted/{i % 5}", "emotion": emotions[i % len(emotions)]}
        for i in range(count)
    ]


def test_scores_are_those_of_scikit_learn(capsys: pytest.CaptureFixture[str]) -> None:
    clips = make_clips()
    answers = [[*CLASSES, None][i] for i in np.random.default_rng(0).integers(0, 4, 97)]
    metrics = score_protocols([PROTOCOL], recognised(clips, answers), RUN, 0.95)
    tested = [(clip["emotion"], answers[i] or "none") for i, clip in enumerate(clips)
              if clip["emotion"] != "neutral" and clip["speaker"][-1] in "012"]  # fmt: skip
    truth, predicted = (list(column) for column in zip(*tested, strict=True))
    scores = metrics["acted-test-2"]["head"]
    expected = {
        "ua": recall_score(truth, predicted, labels=PROTOCOL.classes, average="macro"),
        "wa": accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, labels=PROTOCOL.classes, average="macro"),
        "weighted_f1": f1_score(truth, predicted, labels=PROTOCOL.classes, average="weighted"),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert scores["ua_low"] <= scores["ua"] <= scores["ua_high"]
    assert metrics["acted-test-2"]["chance"] == {"ua": 0.5}
    numbers = {"rows": len(truth), "rows_expected": 70, "rows_left_out": 90 - len(truth), "classes": 2, "options": 3}
    assert metrics["acted-test-2"]["protocol"] == numbers
    line = f"score: acted-test-2: head weighted_f1 {scores['weighted_f1']:.3f}, ua {scores['ua']:.3f} "
    assert capsys.readouterr().out.startswith(f"{line}(partial: {len(truth)} of 70 rows, ")


def test_a_whole_test_is_not_called_partial() -> None:
    clips = make_clips()
    whole = PROTOCOL.model_copy(update={"counts": {"sad": 27, "angry": 14}})
    scores = score_protocols([whole], recognised(clips, ["sad"]), RUN, 0.95)["acted-test-2"]
    assert describe(whole, scores).endswith("(41 rows, 49 left out)")
    unknown = PROTOCOL.model_copy(update={"counts": None})
    scores = score_protocols([unknown], recognised(clips, ["sad"]), RUN, 0.95)["acted-test-2"]
    assert "rows_expected" not in scores["protocol"]
    assert describe(unknown, scores).endswith("(41 rows, 49 left out)")


def test_a_protocol_without_its_corpus_is_named_and_has_no_scores(capsys: pytest.CaptureFixture[str]) -> None:
    other = PROTOCOL.model_copy(update={"reader": "meld", "name": "meld-own"})
    assert score_protocols([other], recognised(make_clips(), ["sad"]), RUN, 0.95) == {}
    assert capsys.readouterr().out == "score: meld-own: not scored, no test row is of the reader meld\n"
