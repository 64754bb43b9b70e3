"""What the report claims: no more than the paired tests allow, and it flips when the numbers do."""

from typing import Any

import pytest

from evaluate.claims import CLAIMS
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.predictions import OWN_SYSTEMS
from evaluate.verdict.findings import CONTRADICTED, NOT_SHOWN, SHOWN, UNDECIDED, Finding
from evaluate.verdict.statement import Claim, state_claims
from evaluate.verdict.wording import describe_intervals, describe_speakers
from tests.builders import emotion_scores, kl_scores

ALPHA = 0.05
PERCENT = "95 %"
Scores = dict[str, dict[str, float]]


def compared(difference: float = 0.2, p: float = 0.01, speakers: int = 8) -> dict[str, float]:
    bounds = {"difference_low": difference - 0.1, "difference_high": difference + 0.1}
    return {"difference": difference, **bounds, "p": p, "smallest_p": 2 / 2**speakers, "n": 80, "speakers": speakers}


def own_scores(**voice: float) -> Scores:
    plain = {"ua": 0.25, "ua_low": 0.2, "ua_high": 0.3, "n": 80, "speakers": 8, "p": 0.5}
    found: Scores = {"chance": {"ua": 0.25}, **{system: dict(plain) for system in OWN_SYSTEMS}}
    found["voice"] |= {"ua": 0.6, "ua_low": 0.5, "ua_high": 0.7, "p": 0.001, **voice}
    return found


def own_metrics(prefix: str = NEW_WORDS, voice: dict[str, float] | None = None, **others: Any) -> dict[str, Scores]:
    names = ("chance", "transcript", "silence", "told_head")
    pairs = {f"voice_minus_{name}": others.get(name, compared()) for name in names}
    return {f"{prefix}acted": own_scores(**voice or {}), f"{CLAIMS}{prefix}acted": pairs}


def claim_of(metrics: dict[str, Scores], name: str) -> Claim:
    (claim,) = (claim for claim in state_claims(metrics, PERCENT, ALPHA) if claim.name == name)
    assert claim.falsified_by
    assert claim.not_read_as
    return claim


def finding_of(metrics: dict[str, Scores], name: str) -> Finding:
    (finding,) = claim_of(metrics, name).findings
    return finding


def test_the_voice_chooses_if_it_beats_chance_transcript_and_silence() -> None:
    found = finding_of(own_metrics(), "new-words")
    assert (found.corpus, found.state) == ("acted", SHOWN)
    assert "60\N{NO-BREAK SPACE}% (95 % interval 50\N{NO-BREAK SPACE}% to 70\N{NO-BREAK SPACE}%)" in found.sentence
    assert "better than chance (p\N{NO-BREAK SPACE}0.010), the transcript" in found.sentence
    assert "80 test clips of 8 speakers" in found.sentence


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({"silence": compared(p=0.06)}, NOT_SHOWN, "not clearly different from silence of the same length"),
        ({"silence": compared(-0.1)}, NOT_SHOWN, "worse than silence of the same length"),
        ({"transcript": compared(p=0.4)}, NOT_SHOWN, "not clearly different from the transcript"),
        ({"chance": compared(p=0.4)}, NOT_SHOWN, "not clearly different from chance"),
        ({"chance": compared(-0.1)}, CONTRADICTED, "worse than chance"),
        ({"voice": {"p": 0.06}}, NOT_SHOWN, "Exchanging the emotions within each sentence often reaches as much"),
        ({"told_head": compared(-0.5)}, SHOWN, "better than chance"),
    ],
)
def test_one_lost_comparison_is_enough_to_show_nothing(changes: dict[str, Any], state: str, said: str) -> None:
    found = finding_of(own_metrics(**changes), "new-words")
    assert found.state == state
    assert said in found.sentence


@pytest.mark.parametrize(("speakers", "state"), [(2, UNDECIDED), (5, UNDECIDED), (6, SHOWN)])
def test_fewer_than_six_speakers_decide_nothing_however_good_the_voice_is(speakers: int, state: str) -> None:
    few = compared(0.7, p=2 / 2**speakers, speakers=speakers)
    metrics = own_metrics(chance=few, transcript=few, silence=few, told_head=few)
    found = finding_of(metrics, "new-words")
    assert found.state == state
    told = f"This could not be decided with {speakers} speakers: the exact test cannot give a p below"
    assert (told in found.sentence) == (state == UNDECIDED)


def test_metrics_of_an_earlier_score_decide_nothing() -> None:
    metrics = own_metrics()
    del metrics[f"{CLAIMS}{NEW_WORDS}acted"]
    found = finding_of(metrics, "new-words")
    assert found.state == UNDECIDED
    assert "has no paired comparisons; run the stage score again" in found.sentence


def test_a_wrong_clip_above_chance_is_called_a_leak() -> None:
    metrics = own_metrics()
    assert "leak" not in finding_of(metrics, "new-words").sentence
    metrics[f"{NEW_WORDS}acted"]["shuffled"]["ua_low"] = 0.26
    assert "suggests a data leak" in finding_of(metrics, "new-words").sentence


def test_an_accuracy_below_chance_is_no_leak_but_another_order_of_the_classes() -> None:
    metrics = own_metrics(chance=compared(-0.2)) | recognition(compared(-0.2), chance=compared(-0.2))
    for scores, name in ((f"{NEW_WORDS}acted", "shuffled"), ("emotion_acted", "shuffled_head")):
        metrics[scores][name]["ua_low"] = 0.9
    for claim, place in (("new-words", 0), ("recognition", 0), ("recognition", 1)):
        sentence = claim_of(metrics, claim).findings[place].sentence
        assert "below chance suggests that the classes have another order" in sentence
        assert "leak" not in sentence


def test_answers_that_name_no_class_are_told() -> None:
    sentence = claim_of(recognition(compared(), chance=compared()), "recognition").findings[0].sentence
    told = "Of its written answers, 25\N{NO-BREAK SPACE}% name none of the classes; their accuracy is 50"
    assert told in sentence


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (0.3, "and on all clips of new speakers 40 % (95 % interval 30 % to 50 %)."),
        (0.2, "So it is not shown that new voices are understood."),
        (None, "There are too few clips of new speakers: how well new voices are understood is not known."),
    ],
)
def test_speakers_of_the_training_among_the_test_speakers_are_told_with_their_accuracy(
    new: float | None, said: str
) -> None:
    metrics = own_metrics()
    assert "also heard" not in finding_of(metrics, "new-words").sentence
    known = {"ua": 0.9, "ua_low": 0.8, "ua_high": 1.0, "n": 40, "speakers": 4}
    metrics[f"speaker=trained/{OWN_ANSWERS}acted"] = {"voice": known}
    if new is not None:
        metrics[f"speaker=new/{OWN_ANSWERS}acted"] = {"voice": {**known, "ua": 0.4, "ua_low": new, "ua_high": 0.5}}
    sentence = finding_of(metrics, "new-words").sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert "Training has also heard 4 test speakers; on all their clips, the accuracy is 90" in sentence
    assert sentence.endswith(said)


def test_new_and_seen_words_and_corpora_are_told_apart_and_the_first_claim_is_that_of_new_words() -> None:
    metrics = own_metrics(SEEN_WORDS, silence=compared(p=0.5)) | own_metrics(NEW_WORDS)
    metrics |= {name.replace("acted", "other"): scores for name, scores in own_metrics(chance=compared(-0.2)).items()}
    claims = state_claims(metrics, PERCENT, ALPHA)
    assert [claim.name for claim in claims] == ["new-words", "seen-words"]
    assert [(one.corpus, one.state) for one in claims[0].findings] == [("acted", SHOWN), ("other", CONTRADICTED)]
    assert [one.state for one in claims[1].findings] == [NOT_SHOWN]


def test_each_rival_has_a_finding_of_its_own() -> None:
    metrics = own_metrics(OWN_ANSWERS, silence=compared(0.1), told_head=compared(-0.1, p=0.03))
    silence, cascade = claim_of(metrics, "more-than-length").findings
    assert (silence.state, cascade.state) == (SHOWN, CONTRADICTED)
    assert silence.sentence.startswith("Against silence of the same length, on all words: 60")
    assert "a difference of \N{MINUS SIGN}10.0 points (95 % interval \N{MINUS SIGN}20.0 to 0.0), p" in cascade.sentence


def test_the_head_is_compared_with_the_probe_which_decides_nothing() -> None:
    metrics = recognition(compared(), chance=compared())
    metrics[f"{CLAIMS}emotion_acted"]["head_minus_probe"] = compared(-0.1, p=0.02)
    _, head = claim_of(metrics, "recognition").findings
    assert head.state == SHOWN
    assert "Against the probe of the frozen encoder: a difference of \N{MINUS SIGN}10.0 points" in head.sentence


def recognition(head: dict[str, float], **logprob: dict[str, float]) -> dict[str, Scores]:
    scores = emotion_scores(head=0.9, logprob=0.8)
    pairs = {"head_minus_chance": head, "head_minus_transcript_logprob": compared()}
    pairs |= {f"logprob_minus_{other}": one for other, one in logprob.items()}
    return {"emotion_acted": scores, f"{CLAIMS}emotion_acted": pairs}


@pytest.mark.parametrize(
    ("logprob", "states"),
    [
        ({"chance": compared(), "transcript_logprob": compared()}, [SHOWN, SHOWN]),
        ({"chance": compared(), "transcript_logprob": compared(p=0.3)}, [NOT_SHOWN, SHOWN]),
        ({"chance": compared(), "silence_logprob": compared(-0.2)}, [NOT_SHOWN, SHOWN]),
        ({"chance": compared(-0.2), "transcript_logprob": compared()}, [CONTRADICTED, SHOWN]),
    ],
)
def test_the_language_model_and_the_head_must_beat_the_transcript(
    logprob: dict[str, dict[str, float]], states: list[str]
) -> None:
    metrics = recognition(compared(), **logprob)
    assert [one.state for one in claim_of(metrics, "recognition").findings] == states
    metrics[f"{CLAIMS}emotion_acted"]["head_minus_transcript_logprob"] = compared(p=0.3)
    assert [one.state for one in claim_of(metrics, "recognition").findings] == [states[0], NOT_SHOWN]
    metrics["gender=female/emotion_acted"] = metrics["emotion_acted"]
    assert len(claim_of(metrics, "recognition").findings) == 2


def test_recognition_tells_the_range_over_prompts_and_a_suspected_leak() -> None:
    metrics = recognition(compared(), chance=compared())
    metrics["emotion_acted"]["logprob_prompts"] = {"range": 0.11}
    metrics["emotion_acted"]["shuffled_head"] |= {"ua": 0.8, "ua_low": 0.7, "ua_high": 0.9}
    label, head = claim_of(metrics, "recognition").findings
    assert "the range over prompts is 11.0 points" in label.sentence
    assert "leak" not in label.sentence
    assert "suggests a data leak" in head.sentence


@pytest.mark.parametrize(
    ("gap", "state", "said"),
    [
        (compared(0.4), SHOWN, "The difference has p"),
        (compared(0.4, p=0.06), NOT_SHOWN, "The difference has p"),
        (compared(-0.4), CONTRADICTED, "look for a mistake"),
        (compared(0.4, p=0.5, speakers=2), UNDECIDED, "could not be decided with 2 speakers"),
    ],
)
def test_hearing_is_shown_by_a_wrong_clip_alone(gap: dict[str, float], state: str, said: str) -> None:
    metrics = {
        "continuation_kl_libri": kl_scores(0.3, 0.5),
        f"{CLAIMS}continuation_kl_libri": {"shuffled_minus_after": gap},
    }
    found = finding_of(metrics, "hearing")
    assert found.state == state
    assert said in found.sentence
    assert "lowered the KL divergence from 1.900 to 1.500" in found.sentence


def test_a_kl_that_training_did_not_lower_is_told_and_without_a_wrong_clip_nothing_is() -> None:
    scores = kl_scores(0.3, 0.5, after=2.0)
    assert "did not lower" in finding_of({"continuation_kl_libri": scores}, "hearing").sentence
    del scores["hearing"]
    assert state_claims({"continuation_kl_libri": scores}, PERCENT, ALPHA) == []


def rate(wer: float, speakers: int = 8) -> dict[str, float]:
    return {"wer": wer, "wer_low": wer - 0.1, "wer_high": wer + 0.1, "n": 40, "speakers": speakers}


@pytest.mark.parametrize(
    ("low", "high", "speakers", "state"),
    [(0.1, 0.3, 8, CONTRADICTED), (-0.1, 0.1, 8, NOT_SHOWN), (-0.3, -0.1, 8, SHOWN), (0.1, 0.3, 4, UNDECIDED)],
)
def test_words_are_lost_if_the_clip_gives_more_errors_than_the_transcript(
    low: float, high: float, speakers: int, state: str
) -> None:
    difference = {"wer": (low + high) / 2, "wer_low": low, "wer_high": high}
    scores = {"voice": rate(0.5, speakers), "transcript": rate(0.3), "whisper": rate(0.1), "difference": difference}
    found = finding_of({"repeat_semantic_acted": scores}, "kept")
    assert (found.corpus, found.state) == ("acted, after stage 1", state)
    assert "Whisper's own transcripts have 10" in found.sentence


@pytest.mark.parametrize(
    ("share", "p", "state"), [(-0.2, 0.01, CONTRADICTED), (-0.2, 0.2, NOT_SHOWN), (0.1, 0.01, SHOWN)]
)
def test_instructions_are_lost_if_fewer_spoken_ones_are_followed(share: float, p: float, state: str) -> None:
    side = {"share": 0.5, "n": 50, "speakers": 10}
    scores = {"voice": side, "transcript": side, "difference": {"share": share, "p": p}}
    found = finding_of({"instructions_emotion": scores}, "kept")
    assert (found.corpus, found.state) == ("the model after stage 2", state)


@pytest.mark.parametrize(("equal", "largest", "state"), [(1, 0.0, SHOWN), (0, 0.25, CONTRADICTED)])
def test_text_is_unchanged_only_bit_for_bit(equal: int, largest: float, state: str) -> None:
    found = finding_of(
        {"text_alone_emotion": {"transcript": {"equal": equal, "largest_difference": largest, "n": 20}}}, "kept"
    )
    assert found.state == state
    assert ("by up to 0.25" in found.sentence) == (not equal)


EXAM: dict[str, float] = {"passed": 1, "right": 38, "marks_right": 39, "of": 40}


@pytest.mark.parametrize(
    ("low", "high", "speakers", "state"),
    [(0.1, 0.3, 8, SHOWN), (-0.1, 0.3, 8, NOT_SHOWN), (-0.3, -0.1, 8, CONTRADICTED), (0.1, 0.3, 3, UNDECIDED)],
)
def test_empathy_is_shown_by_wins_against_a_random_emotion(low: float, high: float, speakers: int, state: str) -> None:
    marked = {"win": 0.4, "loss": 0.2, "net": 0.2, "net_low": low, "net_high": high, "empathy": 5.0, "share": 0.5}
    judged: Scores = {"voice": {**marked, "n": 40, "speakers": speakers}, "random_label": {"n": 40, "empathy": 4.0}}
    found = finding_of({"judge_exam": {"exam": EXAM}, "judge_acted": judged}, "empathy")
    assert found.state == state
    assert "38 (choices) and 39 (marks) of 40 pairs" in found.sentence
    failed = finding_of({"judge_exam": {"exam": EXAM | {"passed": 0, "right": 30}}, "judge_acted": judged}, "empathy")
    assert failed.state == UNDECIDED
    assert "Mean empathy" not in failed.sentence


def test_test_speakers_in_the_training_rows_are_told() -> None:
    assert describe_speakers({"a", "b"}, {"c"}) == "None of the test speakers speaks in the training rows."
    assert describe_speakers({"a", "b"}, {"b"}).startswith("1 of 2 test speakers also speak in the training rows, so")
    assert describe_speakers({"b"}, {"b"}).startswith("The test speaker also speaks in the training rows, so")


def test_intervals_over_few_voices_are_said_to_be_rough() -> None:
    assert "single speaker" in describe_intervals(1)
    assert "rough" in describe_intervals(4)
    assert "rough" not in describe_intervals(40)


def prompt_metrics(p: float = 0.001, **others: Any) -> dict[str, Scores]:
    names = ("chance", "prompted_even", "shuffled_prompted_head", "told_head", "voice")
    metrics = own_metrics(OWN_ANSWERS)
    prompted = {"ua": 0.5, "ua_low": 0.4, "ua_high": 0.6, "n": 80, "speakers": 8, "p": p}
    metrics[f"{OWN_ANSWERS}acted"]["prompted_head"] = prompted
    pairs = {f"prompted_head_minus_{name}": others.get(name, compared()) for name in names}
    metrics[f"{CLAIMS}{OWN_ANSWERS}acted"] |= pairs
    return metrics


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, SHOWN, "better than chance (p\N{NO-BREAK SPACE}0.010), the embeddings of all emotions mixed evenly"),
        (
            {"told_head": compared(-0.1)},
            SHOWN,
            "Against the cascade (the stage-1 model with the clip, told the emotion",
        ),
        ({"voice": compared(p=0.7)}, SHOWN, "Against the model after stage 2, on all words: 50"),
        ({"shuffled_prompted_head": compared(p=0.3)}, NOT_SHOWN, "not clearly different from another speaker's clip"),
        ({"prompted_even": compared(p=0.3)}, NOT_SHOWN, "not clearly different from the embeddings of all emotions"),
        ({"chance": compared(-0.1)}, CONTRADICTED, "worse than chance"),
        ({"p": 0.2}, NOT_SHOWN, "Exchanging the emotions within each sentence often reaches as much"),
    ],
)
def test_an_emotion_prompt_is_shown_by_its_controls_and_not_by_its_rivals(
    changes: dict[str, Any], state: str, said: str
) -> None:
    found = finding_of(prompt_metrics(**changes), "prompted")
    assert found.state == state
    assert said in found.sentence


def test_without_an_emotion_prompt_there_is_no_claim_about_one() -> None:
    assert "prompted" not in {claim.name for claim in state_claims(own_metrics(OWN_ANSWERS), PERCENT, ALPHA)}
