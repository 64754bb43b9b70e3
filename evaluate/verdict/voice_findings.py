"""Findings on the voice: own answers, rivals of the method, recognition of emotion."""

from collections.abc import Iterator

from evaluate.claims import CHANCE
from evaluate.groups import NEW, TRAINED
from evaluate.metrics import EMOTION
from evaluate.own_answers import OWN_ANSWERS
from evaluate.verdict.findings import CONTRADICTED, OTHERS, Finding, Reading
from evaluate.verdict.wording import (
    Score,
    Scores,
    bounds,
    counted,
    p_value,
    percent_of,
    points,
    share,
    size_of,
    with_interval,
)

_OTHER_ORDER = (
    " An accuracy below chance suggests that the classes have another order than in training, or that labels are "
    "exchanged."
)


def own_findings(reading: Reading, prefix: str) -> Iterator[Finding]:
    """Say whether the voice chooses the right answer, for all words or for seen or new ones."""
    for corpus, scores in reading.tests(prefix):
        voice, chance = scores["voice"], scores["chance"]["ua"]
        compared = reading.comparisons(prefix + corpus, "voice", (CHANCE, "transcript", "silence"))
        p = voice.get("p", 0.0)
        state = reading.better_than_all(compared, more=p <= reading.alpha)
        sentence = (
            f"The continuation that the clip makes likeliest is that of its emotion with an unweighted accuracy of "
            f"{with_interval(voice, 'ua', reading.percent)}, on {size_of(voice)}; chance is {percent_of(chance)}. "
            f"Silence of the same length reaches {percent_of(scores['silence']['ua'])}. {reading.reasons(compared)}"
        )
        if p > reading.alpha:
            sentence += f" Exchanging the emotions within each sentence often reaches as much ({p_value(p)})."
        shuffled = scores.get("shuffled")
        if state == CONTRADICTED:
            sentence += _OTHER_ORDER
        elif shuffled and bounds(shuffled, "ua")[0] > chance:
            sentence += " With another speaker's clip, the accuracy is above chance, which suggests a data leak."
        yield Finding(corpus, state, sentence + _known_speakers(reading, OWN_ANSWERS + corpus, "voice", chance))


def rival_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether the voice is better than each rival, on all words."""
    for corpus, scores in reading.tests(OWN_ANSWERS):
        rivals = ("silence", "stage1", "told_head", "heard_told_head")
        for rival, compared in reading.comparisons(OWN_ANSWERS + corpus, "voice", rivals).items():
            yield Finding(corpus, reading.state(compared), _against(reading, scores, rival, compared))


def _against(reading: Reading, scores: Scores, rival: str, compared: Score, *, system: str = "voice") -> str:
    reached = f"{percent_of(scores[system]['ua'])} against {percent_of(scores[rival]['ua'])}"
    difference = points(compared, "difference", reading.percent)
    if undecided := reading.too_few(compared["speakers"]):
        return f"Against {OTHERS[rival]}, on all words: {reached}, {difference}.{undecided}"
    return f"Against {OTHERS[rival]}, on all words: {reached}, {difference}, {p_value(compared['p'])}."


def prompt_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether an emotion prompt, mixed as the head hears the clip, makes the right answer likelier.

    Naming the head's emotion and the model after stage 2 are rivals: the state does not depend on them.
    """
    for corpus, scores in reading.tests(OWN_ANSWERS):
        if (prompted := scores.get("prompted_head")) is None:
            continue
        test = OWN_ANSWERS + corpus
        compared = reading.comparisons(test, "prompted_head", (CHANCE, "prompted_even", "shuffled_prompted_head"))
        rivals = reading.comparisons(test, "prompted_head", ("told_head", "voice"))
        p = prompted.get("p", 0.0)
        state = reading.better_than_all(compared, more=p <= reading.alpha)
        accuracy = with_interval(prompted, "ua", reading.percent)
        sentence = (
            "With embeddings learnt from text before the clip, mixed as the emotion head hears it, the likeliest "
            f"continuation is that of its emotion with an unweighted accuracy of {accuracy}, on {size_of(prompted)}; "
            f"chance is {percent_of(scores['chance']['ua'])}. {reading.reasons(compared)}"
        )
        if p > reading.alpha:
            sentence += f" Exchanging the emotions within each sentence often reaches as much ({p_value(p)})."
        for rival, difference in rivals.items():
            sentence += f" {_against(reading, scores, rival, difference, system='prompted_head')}"
        yield Finding(corpus, state, sentence)


def recognition_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether the language model and the emotion head recognise the emotion."""
    for corpus, scores in reading.tests(EMOTION):
        chance = scores["chance"]["ua"]
        for system, reader, others in (
            ("logprob", "The label that the language model finds likeliest",
             (CHANCE, "transcript_logprob", "silence_logprob", "heard_logprob")),
            ("head", "The emotion head, a classifier beside the language model,", (CHANCE, "transcript_logprob")),
        ):  # fmt: skip
            compared = reading.comparisons(EMOTION + corpus, system, others)
            accuracy = with_interval(scores[system], "ua", reading.percent)
            sentence = (
                f"{reader} is right with an unweighted accuracy of {accuracy}, on {size_of(scores[system])}; "
                f"chance is {percent_of(chance)}. "
            )
            if system == "logprob" and (written := scores.get("prompted")):
                sentence += (
                    f"Of its written answers, {percent_of(written['unparsable'])} name none of the classes; their "
                    f"accuracy is {percent_of(written['ua'])}. "
                )
            if system == "logprob" and (prompts := scores.get("logprob_prompts")):
                sentence += f"It depends on the prompt: the range over prompts is {share(prompts['range'])} points. "
                if "chosen" in prompts:
                    best = with_interval(prompts, "chosen", reading.percent)
                    sentence += f"With the prompt that is best on dev, it is {best}. "
            sentence += reading.reasons(compared)
            if probe := reading.comparisons(EMOTION + corpus, system, ("probe",)).get("probe"):
                sentence += f" Against the probe of the frozen encoder: {points(probe, 'difference', reading.percent)}"
                sentence += f", {p_value(probe['p'])}."
            state = reading.better_than_all(compared)
            wrong = scores.get(f"shuffled_{system}")
            if state == CONTRADICTED:
                sentence += _OTHER_ORDER
            elif wrong and bounds(wrong, "ua")[0] > chance:
                sentence += (
                    " With another speaker's clip of another emotion, it should reach at most chance; it reaches "
                    f"{with_interval(wrong, 'ua', reading.percent)}. This suggests a data leak."
                )
            yield Finding(corpus, state, sentence + _known_speakers(reading, EMOTION + corpus, system, chance))


def _known_speakers(reading: Reading, test: str, system: str, chance: float) -> str:
    """Say what a system reaches on test speakers of the training and on others; nothing if all are others."""
    known, new = (reading.metrics.get(f"{group}/{test}", {}).get(system) for group in (TRAINED, NEW))
    if known is None:
        return ""
    said = (
        f" Training has also heard {counted(known['speakers'], 'test speaker')}; on all their clips, the accuracy is "
        f"{with_interval(known, 'ua', reading.percent)}"
    )
    if new is None:
        return f"{said}. There are too few clips of new speakers: how well new voices are understood is not known."
    said += f", and on all clips of new speakers {with_interval(new, 'ua', reading.percent)}."
    return said if bounds(new, "ua")[0] > chance else f"{said} So it is not shown that new voices are understood."
