"""Paired comparisons: equal to those of `compare`, and to tests of scipy where one system answers for all speakers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from evaluate.claims import CHANCE, compare_divergence, compare_own_answers, compare_recognition
from evaluate.comparison import Side
from evaluate.comparison import compare_divergence as command_divergence
from evaluate.comparison import compare_recognition as command_recognition
from evaluate.own_answers import score_own_answers
from evaluate.predictions import OWN_PROMPTED, OWN_SYSTEMS
from pipeline.stage import UserError
from tests.builders import CLASSES, divergence_table, recognition_table
from tests.evaluate.test_own_answers import acted, listener, table_of

CONFIDENCE = 0.95


def test_systems_are_compared_as_the_command_compares_them() -> None:
    table = recognition_table(speakers=8)
    found = compare_recognition(table, CLASSES, CONFIDENCE)["claims_emotion_acted"]["logprob_minus_transcript_logprob"]
    a, b = (Side(Path("a/b/c"), name, table) for name in ("transcript_logprob", "logprob"))
    (expected,) = command_recognition(a, b, None)
    ua = expected.scores[0]
    assert found["difference"] == pytest.approx(ua.difference, abs=1e-6)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((ua.low, ua.high), abs=1e-6)
    assert (found["p"], found["smallest_p"]) == pytest.approx((ua.p, 2 / 2**8), abs=1e-6)
    assert (found["n"], found["speakers"]) == (80, 8)


def test_the_wrong_clip_is_compared_as_the_command_compares_it() -> None:
    table = divergence_table(gap=0.05, speakers=8)
    found = compare_divergence(table, CONFIDENCE)["claims_continuation_kl_libri"]["shuffled_minus_after"]
    (expected,) = command_divergence(Side(Path("a/b/c"), "after", table), Side(Path("a/b/c"), "shuffled", table), None)
    assert found["difference"] == pytest.approx(expected.scores[0].difference, abs=1e-6)
    assert found["p"] == pytest.approx(expected.scores[0].p, abs=1e-6)
    assert found["difference"] > 0.04
    assert compare_divergence(table.filter(pc.field("condition") != "shuffled"), CONFIDENCE) == {}


def test_chance_is_tested_by_the_signs_of_the_speakers_distances_from_it() -> None:
    table = recognition_table(speakers=5)
    found = compare_recognition(table, CLASSES, CONFIDENCE)["claims_emotion_acted"]["head_minus_chance"]
    head = [row for row in table.to_pylist() if row["system"] == "head"]
    recall = sklearn_metrics.recall_score(
        [row["emotion"] for row in head], [row["predicted"] or "" for row in head], labels=CLASSES, average="macro"
    )
    assert found["difference"] == pytest.approx(recall - 0.25, abs=1e-6)
    # each speaker has 16 clips, 4 of each emotion, so the accuracy is the mean over speakers
    right = [[row["predicted"] == row["emotion"] for row in head if row["speaker"] == f"acted/{i}"] for i in range(5)]
    distances = np.mean(right, axis=1) - 0.25
    expected = stats.permutation_test(
        (distances,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert found["p"] == pytest.approx(expected.pvalue, abs=1e-6)
    interval = stats.ttest_1samp(distances, 0).confidence_interval(CONFIDENCE)
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_emotions_of_no_test_clip_are_no_part_of_chance() -> None:
    table = recognition_table()
    table = table.filter(pc.is_in(table["emotion"], pa.array(["neutral", "sad"])))
    found = compare_recognition(table, CLASSES, CONFIDENCE)["claims_emotion_acted"]["head_minus_chance"]
    head = [row for row in table.to_pylist() if row["system"] == "head"]
    recalls = [np.mean([row["predicted"] == e for row in head if row["emotion"] == e]) for e in ("neutral", "sad")]
    assert found["difference"] == pytest.approx(np.mean(recalls) - 0.5, abs=1e-6)


@pytest.mark.parametrize("speakers", [3, 8])
def test_few_speakers_cannot_have_a_small_p_whatever_the_voice_reaches(speakers: int) -> None:
    rows = acted(num_speakers=speakers, seen_words=False)
    table = table_of(rows, listener(np.random.default_rng(0), gain=6.0))
    compared = compare_own_answers(table, CLASSES, CONFIDENCE)
    assert list(compared) == ["claims_own_answers_acted", "claims_new_words_own_answers_acted"]
    found = compared["claims_new_words_own_answers_acted"]
    names = ("chance", "transcript", "silence", "stage1", "told_head")
    assert list(found) == [f"voice_minus_{name}" for name in names]
    scores = score_own_answers(table, CLASSES, CONFIDENCE).metrics["new_words_own_answers_acted"]
    for name in names:
        one = found[f"voice_minus_{name}"]
        assert one["difference"] == pytest.approx(scores["voice"]["ua"] - scores[name]["ua"], abs=2e-6)
        assert one["p"] == one["smallest_p"] == pytest.approx(2 / 2**speakers, abs=1e-6)  # every speaker is better
        assert one["difference_low"] > 0.2
        assert (one["n"], one["speakers"]) == (8 * speakers, speakers)


def test_a_single_speaker_has_no_interval_and_decides_nothing() -> None:
    found = compare_recognition(recognition_table(speakers=1), CLASSES, CONFIDENCE)
    one = found["claims_emotion_acted"]["head_minus_chance"]
    assert one.keys() == {"difference", "p", "smallest_p", "n", "speakers"}
    assert one["p"] == one["smallest_p"] == 1


def test_systems_on_other_clips_are_not_compared() -> None:
    table = recognition_table()
    fewer = table.filter((pc.field("system") != "logprob") | (pc.field("id") != "acted/3"))
    with pytest.raises(UserError, match="acted: found 79 clips of logprob and 80 of head, expected the same clips"):
        compare_recognition(fewer, CLASSES, CONFIDENCE)


def prompted(system: str, row: dict[str, Any]) -> list[float]:
    """A head that hears each fourth clip as another emotion, before embeddings that do what the name does."""
    right = CLASSES.index(row["emotion"])
    heard = (right + 1) % 4 if row["id"].startswith(("0/", "4/")) else right
    scores = [-20.0 + 3.0 * i for i in range(4)]  # a preference for some continuations, whatever the clip
    if system in ("told_true", "prompted_true"):
        scores[right] += 1.0
    if system in ("told_head", "prompted_head"):
        scores[heard] += 1.0
    if system in ("shuffled", "shuffled_prompted_head"):
        scores[(right + 2) % 4] += 1.0
    return scores


def test_an_emotion_prompt_is_compared_with_its_controls_and_with_the_named_emotion() -> None:
    systems = (*OWN_SYSTEMS, *OWN_PROMPTED)
    rows = acted(num_speakers=8, seen_words=False)
    whole = table_of(rows, prompted, systems)
    has_no_wrong_clip = pc.and_(pc.match_substring(whole["system"], "shuffled"), pc.equal(whole["id"], "7/dogs/sad"))
    table = whole.filter(pc.invert(has_no_wrong_clip))
    found = compare_own_answers(table, CLASSES, CONFIDENCE)["claims_own_answers_acted"]
    others = (CHANCE, "prompted_even", "told_head", "voice", "shuffled_prompted_head")
    assert [name for name in found if "prompted" in name] == [f"prompted_head_minus_{other}" for other in others]
    assert found["prompted_head_minus_told_head"]["difference"] == 0
    assert found["prompted_head_minus_told_head"]["p"] == 1
    assert found["prompted_head_minus_prompted_even"]["difference"] == pytest.approx(0.75 - 0.25)
    wrong = found["prompted_head_minus_shuffled_prompted_head"]
    assert (wrong["n"], found["prompted_head_minus_voice"]["n"]) == (63, 64)
    assert wrong["difference"] > 0.7
    assert wrong["p"] == pytest.approx(2 * 2**2 / 2**8)  # the head is wrong for two of eight speakers
    scores = score_own_answers(whole, CLASSES, CONFIDENCE).metrics["own_answers_acted"]
    assert scores["prompted_true"]["ua_raw"] == 0.25  # the preference hides what is there
    assert scores["prompted_true"]["ua_less_even"] == 1
    assert scores["prompted_head"]["ua_less_even"] == scores["prompted_head"]["ua"] == 0.75
    assert [name for name, of in scores.items() if "ua_less_even" in of] == ["prompted_head", "prompted_true"]


def test_without_an_emotion_prompt_nothing_is_compared_with_it() -> None:
    table = table_of(acted(num_speakers=8), listener(np.random.default_rng(0)))
    found = compare_own_answers(table, CLASSES, CONFIDENCE)["claims_own_answers_acted"]
    assert list(found) == [f"voice_minus_{other}" for other in (CHANCE, "transcript", "silence", "stage1", "told_head")]
