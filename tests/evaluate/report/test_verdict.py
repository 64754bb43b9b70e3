"""What the report claims, and on which grounds."""

import pytest

from evaluate.report.verdict import describe_intervals, emotion_verdict, hearing_verdict
from tests.builders import emotion_scores, kl_scores


def test_a_gap_whose_interval_holds_zero_means_that_no_words_were_learnt() -> None:
    verdict = hearing_verdict(kl_scores(-0.01, 0.02), "95 %")
    assert verdict.claim == "This run does not show that the model hears words."
    gap = "difference 0.005 nats per token, 95 % interval \N{MINUS SIGN}0.010 to 0.020"
    same = "the KL divergence is not clearly different from that with the right clip"
    assert f"With another speaker's clip, {same} ({gap})" in verdict.grounds
    assert "With the right clip, training lowered the KL divergence from 1.900 to " in verdict.grounds


def test_a_gap_above_zero_means_hearing_and_one_below_a_mistake() -> None:
    assert hearing_verdict(kl_scores(0.01, 0.02), "95 %").claim == "The model hears something of what is said."
    assert "look for a mistake" in hearing_verdict(kl_scores(-0.02, -0.01), "95 %").claim
    assert "did not lower" in hearing_verdict(kl_scores(0, 0.1, after=2.0), "95 %").grounds


@pytest.mark.parametrize(
    ("ua", "claim"),
    [
        (0.8, "The model hears emotion."),
        (0.55, "This run does not show that the model hears emotion: guessing may do as well."),
        (0.2, "The model gets emotion wrong more often than guessing would."),
    ],
)
def test_the_claim_on_emotion_follows_the_interval_of_the_head(ua: float, claim: str) -> None:
    assert emotion_verdict(emotion_scores(head=ua), "95 %", texts_are_neutral=True).claim == claim


def test_a_transcript_at_chance_is_explained_only_by_equal_sentences() -> None:
    reason = "since every sentence is spoken in every emotion"
    assert reason in emotion_verdict(emotion_scores(), "95 %", texts_are_neutral=True).grounds
    assert reason not in emotion_verdict(emotion_scores(), "95 %", texts_are_neutral=False).grounds
    telling = emotion_verdict(emotion_scores(transcript_logprob=0.9), "95 %", texts_are_neutral=True).grounds
    assert "not clearly different from chance" not in telling


def test_a_shuffled_head_above_chance_is_called_a_leak() -> None:
    assert "data leak" in emotion_verdict(emotion_scores(shuffled_head=0.9), "95 %", texts_are_neutral=True).grounds
    assert "data leak" not in emotion_verdict(emotion_scores(shuffled_head=0.1), "95 %", texts_are_neutral=True).grounds


def test_intervals_over_few_voices_are_said_to_be_rough() -> None:
    assert "single speaker" in describe_intervals(1)
    assert "rough" in describe_intervals(4)
    assert "rough" not in describe_intervals(40)
