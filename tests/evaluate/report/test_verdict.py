"""What the report claims, and on which grounds."""

import pytest

from evaluate.report.verdict import describe_intervals, describe_speakers, emotion_verdict, hearing_verdict
from tests.builders import emotion_scores, kl_scores

SIZE = "on 4 test clips of 2 speakers."


def test_a_gap_whose_interval_holds_zero_means_that_no_words_were_learnt() -> None:
    verdict = hearing_verdict(kl_scores(-0.01, 0.02), "95 %")
    assert verdict.claim == f"No difference was seen between the right clip and a wrong one, {SIZE}"
    gap = "difference 0.005 nats per token, 95 % interval \N{MINUS SIGN}0.010 to 0.020"
    same = "the KL divergence is not clearly different from that with the right clip"
    assert f"With another speaker's clip, {same} ({gap})" in verdict.grounds
    assert "With the right clip, training lowered the KL divergence from 1.900 to " in verdict.grounds


def test_a_gap_above_zero_means_hearing_and_one_below_a_mistake() -> None:
    assert hearing_verdict(kl_scores(0.01, 0.02), "95 %").claim == "The model hears something of what is said."
    assert "look for a mistake" in hearing_verdict(kl_scores(-0.02, -0.01), "95 %").claim
    assert "did not lower" in hearing_verdict(kl_scores(0, 0.1, after=2.0), "95 %").grounds


@pytest.mark.parametrize(
    ("accuracies", "claim"),
    [
        ({"logprob": 0.8}, "The language model hears emotion."),
        ({"logprob": 0.8, "head": 0.8}, "The language model hears emotion."),
        (
            {"head": 0.8},
            f"Only the emotion head hears emotion: in the language model, no difference was seen, {SIZE}",
        ),
        ({"head": 0.55}, f"No difference from guessing was seen, {SIZE}"),
        ({"prompted": 0.9}, f"No difference from guessing was seen, {SIZE}"),
        ({"logprob": 0.2}, "The language model gets emotion wrong more often than guessing would."),
        (
            {"logprob": 0.8, "transcript_logprob": 0.75},
            "The language model recognises emotion, but no better than it does from the transcript.",
        ),
        ({"logprob": 0.9, "transcript_logprob": 0.65}, "The language model hears emotion."),
        ({"head": 0.8, "transcript_logprob": 0.75}, f"No difference from guessing was seen, {SIZE}"),
    ],
)
def test_the_claim_on_emotion_is_no_more_than_the_intervals_hold(accuracies: dict[str, float], claim: str) -> None:
    assert emotion_verdict(emotion_scores(**accuracies), "95 %", texts_are_neutral=True).claim == claim


def test_without_an_interval_or_a_wrong_clip_nothing_is_claimed() -> None:
    scores = emotion_scores(head=1.0, logprob=1.0)
    alone = {
        name: {key: value for key, value in score.items() if key not in ("ua_low", "ua_high")}
        for name, score in scores.items()
        if not name.startswith("shuffled")
    }
    verdict = emotion_verdict(alone, "95 %", texts_are_neutral=False)
    assert verdict.claim == f"No difference from guessing was seen, {SIZE}"
    assert "100\N{NO-BREAK SPACE}% (no interval)" in verdict.grounds
    assert verdict.grounds.endswith("another speaker and emotion is in the test split, so this control is missing.")

    divergences = {name: score for name, score in kl_scores(1, 2).items() if name not in ("shuffled", "hearing")}
    assert hearing_verdict(divergences, "95 %").claim == "This run cannot show whether the model hears words."


def test_test_speakers_in_the_training_rows_are_told() -> None:
    assert describe_speakers({"a", "b"}, {"c"}) == "None of the test speakers speaks in the training rows."
    assert describe_speakers({"a", "b"}, {"b"}).startswith("1 of 2 test speakers also speak in the training rows, so")
    assert describe_speakers({"b"}, {"b"}).startswith("The test speaker also speaks in the training rows, so")


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
