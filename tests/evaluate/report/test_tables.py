"""The tables of the report: systems by what they are given, published results, calibration, what was not measured."""

from typing import Any

import numpy as np
import pytest

from evaluate.calibration import expected_calibration_error
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.predictions import OWN_SYSTEMS, PROBE, SYSTEMS
from evaluate.protocols.definition import load_protocol
from evaluate.report.audio_matters import overviews
from evaluate.report.published import protocol_tables
from evaluate.report.reliability import bin_confidences
from evaluate.verdict.systems import CLIP, OWN_ROWS, RECOGNITION_ROWS
from evaluate.verdict.unmeasured import NEVER, find_unmeasured
from tests.builders import emotion_scores, kl_scores

OWN = {"chance": {"ua": 0.25}, "silence": {"ua": 0.3, "n": 9}, "voice": {"ua": 0.6, "n": 9}}


def test_every_system_of_respond_and_probe_has_a_row() -> None:
    assert {system.name for system in (*SYSTEMS, PROBE)} <= RECOGNITION_ROWS.keys()
    assert set(OWN_SYSTEMS) <= OWN_ROWS.keys()


def test_new_words_come_first_and_the_clip_before_its_controls() -> None:
    metrics = {
        "emotion_acted": emotion_scores(head=0.9),
        "gender=male/emotion_acted": emotion_scores(),
        f"{OWN_ANSWERS}acted": OWN,
        f"{SEEN_WORDS}acted": OWN,
        f"{NEW_WORDS}acted": OWN,
        f"{OWN_ANSWERS}other": OWN,
    }
    acted, other = overviews(metrics)
    assert (acted.corpus, other.corpus, other.groups) == ("acted", "other", [])
    assert [group.question.split(":")[0] for group in acted.groups] == [
        "Own answers, new words", "Own answers, words seen in training", "Recognition",
    ]  # fmt: skip
    assert [row.system for row in acted.groups[0].rows] == ["voice", "silence"]
    assert (acted.groups[0].rows[0].given, acted.groups[0].chance, acted.groups[2].chance) == (CLIP, 0.25, 0.5)
    assert [row.system for row in acted.groups[2].rows][:3] == ["head", "logprob", "prompted"]


def scored(rows: int, expected: int) -> dict[str, dict[str, float]]:
    numbers: dict[str, float] = {"rows": rows, "rows_expected": expected, "rows_left_out": 0, "classes": 4}
    return {system: score | {"weighted_f1": 0.5} for system, score in emotion_scores(head=0.71).items()} | {
        "protocol": numbers
    }


def test_published_results_stand_beside_ours_only_if_all_clips_were_tested() -> None:
    protocol = load_protocol("iemocap-loso-4")
    (whole,) = protocol_tables([protocol], {protocol.name: scored(5531, 5531)})
    assert not whole.is_partial
    assert [row.source for row in whole.rows].count("this run") == 3
    assert len(whole.rows) == 3 + len(protocol.published)
    assert whole.rows[0].values["ua"] == "71.0 (61.0 to 81.0)"
    assert whole.rows[3].values == {"wa": "69.07"}
    assert "mean of the folds" in whole.rows[3].source
    (partial,) = protocol_tables([protocol], {protocol.name: scored(1000, 5531)})
    assert partial.is_partial
    assert (partial.tested, len(partial.rows)) == ("1,000 of 5,531 test clips", 3)
    assert protocol_tables([protocol], {}) == []


def test_the_bins_of_the_diagram_give_the_expected_calibration_error() -> None:
    generator = np.random.default_rng(0)
    scores, truth = generator.normal(0, 2, (200, 4)), generator.integers(0, 4, 200)
    bins = bin_confidences(scores, truth)
    assert bins.clips.sum() == 200
    assert len(bins.clips) < 15  # the confidence of four classes is at least 1/4
    error = np.abs(bins.confidence - bins.accuracy) @ bins.clips / 200
    assert error == pytest.approx(expected_calibration_error(scores, truth))


BARE: dict[str, Any] = {"emotion_acted": emotion_scores(), "continuation_kl_libri": kl_scores(0.1, 0.2)}
WHOLE: dict[str, Any] = {
    "emotion_acted": emotion_scores()
    | {"probe": {}, "heard_logprob": {}, "silence_logprob": {}, "logprob_prompts": {}, "head": {"temperature": 1.2}},
    "gender=male/emotion_acted": {},
    "continuation_kl_libri": kl_scores(0.1, 0.2) | {"after": {"top1": 0.5}},
    f"{OWN_ANSWERS}acted": OWN,
    f"{NEW_WORDS}acted": OWN,
    "iemocap-s5-4": {"protocol": {}},
    **{
        name: {}
        for name in (
            "written_a",
            "transcripts_a",
            "repeat_a",
            "instructions_a",
            "text_alone_a",
            "counterfactual_a",
            "answers_a",
        )
    },
    "judge_exam": {"exam": {"passed": 1}},
    "judge_acted": {},
}


def test_only_what_no_run_measures_is_left_if_everything_was_measured() -> None:
    assert find_unmeasured(WHOLE) == list(NEVER)
    assert {one.how for one in find_unmeasured(BARE)} > {
        "the stage transcribe",
        "the stage judge (judge in params.yaml)",
    }


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (f"{NEW_WORDS}acted", "The choice for new words, on acted: training has seen all words"),
        ("gender=male/emotion_acted", "Accuracy by gender and by duration"),
        ("iemocap-s5-4", "A score that can be compared with published ones"),
        ("transcripts_a", "Word errors of the whole Whisper"),
        ("written_a", "Whether the model writes"),
        ("repeat_a", "Word errors when the model repeats"),
        ("answers_a", "Whether the answer after the clip is that after the transcript"),
        ("instructions_a", "Whether instructions are followed"),
        ("text_alone_a", "Whether training left the answers to text"),
        ("counterfactual_a", "Whether the choice changes"),
    ],
)
def test_a_missing_test_is_named(missing: str, named: str) -> None:
    (found, *_) = find_unmeasured({name: scores for name, scores in WHOLE.items() if name != missing})
    assert found.what.startswith(named)
    assert found.how


@pytest.mark.parametrize(
    ("test", "system", "named"),
    [
        ("emotion_acted", "probe", "What the encoder holds before training"),
        ("emotion_acted", "heard_logprob", "What Whisper's transcript gives"),
        ("emotion_acted", "silence_logprob", "Recognition from silence"),
        ("emotion_acted", "logprob_prompts", "How much recognition depends on the prompt"),
        ("emotion_acted", "shuffled_head", "Recognition with a wrong clip, on acted"),
        ("continuation_kl_libri", "hearing", "The KL divergence with a wrong clip, on libri"),
    ],
)
def test_a_missing_system_is_named(test: str, system: str, named: str) -> None:
    fewer = {name: score for name, score in WHOLE[test].items() if name != system}
    found = find_unmeasured(WHOLE | {test: fewer})
    assert len(found) == 1 + len(NEVER)
    assert found[0].what.startswith(named)


def test_a_judge_that_failed_or_had_no_answers_gives_no_empathy() -> None:
    failed = WHOLE | {"judge_exam": {"exam": {"passed": 0}}}
    del failed["judge_acted"]
    (found, *_) = find_unmeasured(failed)
    assert found.what == "Empathy of the written answers: the judge failed its exam"
    silent = {name: scores for name, scores in WHOLE.items() if not name.startswith("judge_")}
    assert find_unmeasured(silent)[0].what == "Empathy of the written answers"
