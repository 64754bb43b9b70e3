"""Findings on the words: whether they are heard and kept; and what a judge says of the answers."""

from collections.abc import Iterator

from evaluate.metrics import CONTINUATION_KL
from evaluate.verdict.findings import CONTRADICTED, NOT_SHOWN, SHOWN, UNDECIDED, Finding, Reading
from evaluate.verdict.wording import Score, bounds, counted, p_value, percent_of, points, signed, size_of


def hearing_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether the right clip is better than a wrong one."""
    for corpus, scores in reading.tests(CONTINUATION_KL):
        if "hearing" not in scores:
            continue
        before, after, gap = scores["before"]["kl"], scores["after"]["kl"], scores["hearing"]
        compared = reading.comparisons(CONTINUATION_KL + corpus, "shuffled", ("after",))
        low, high = bounds(gap, "gap")
        interval = "no interval" if low == -high else f"{reading.percent} interval {signed(low)} to {signed(high)}"
        sentence = (
            "With another speaker's clip, the continuations are further from those of the transcript by "
            f"{signed(gap['gap'])} nats per token ({interval}), on {size_of(scores['shuffled'])}. With the right clip, "
            f"training {'lowered' if after < before else 'did not lower'} the KL divergence from {before:.3f} to "
            f"{after:.3f}. "
        )
        state = reading.state(compared["after"]) if compared else UNDECIDED
        sentence += (
            reading.reasons(compared)
            if state == UNDECIDED
            else f"The difference has {p_value(compared['after']['p'])}."
        )
        if state == CONTRADICTED:
            sentence += " The model does better on the wrong clips: look for a mistake."
        yield Finding(corpus, state, sentence)


def kept_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether the model repeats words and follows instructions for speech as for text."""
    for name, scores in reading.tests("repeat_"):
        if "difference" not in scores:
            continue
        lost = scores["difference"]
        voice, text = scores["voice"], scores["transcript"]
        sentence = (
            f"Asked to repeat the words, the model makes {_rate(voice, reading)} word errors after the clip and "
            f"{_rate(text, reading)} after the transcript, on {size_of(voice)}: {points(lost, 'wer', reading.percent)}."
        )
        if whisper := scores.get("whisper"):
            sentence += f" Whisper's own transcripts have {percent_of(whisper['wer'])}."
        state = reading.state_of_interval(lost, "wer", voice["speakers"], lower_is_better=True)
        yield Finding(_label(name), state, sentence + reading.too_few(voice["speakers"]))
    for name, scores in reading.tests("instructions_"):
        if "difference" not in scores:
            continue
        lost = scores["difference"]
        sentence = (
            f"Of {counted(scores['voice']['n'], 'question')} with an instruction for the form of the answer, "
            f"{percent_of(scores['voice']['share'])} of the answers comply if the question is spoken and "
            f"{percent_of(scores['transcript']['share'])} if it is written: {points(lost, 'share', reading.percent)}, "
            f"{p_value(lost['p'])}."
        )
        decided = SHOWN if lost["share"] > 0 else CONTRADICTED
        yield Finding(_label(name), decided if lost["p"] <= reading.alpha else NOT_SHOWN, sentence)
    for name, scores in reading.tests("text_alone_"):
        measured = scores["transcript"]
        if measured["equal"]:
            said = f"gives the language model's own logits, bit for bit, on {counted(measured['n'], 'prompt')}"
        else:
            said = f"changes the language model's logits, by up to {measured['largest_difference']:.3g}"
        yield Finding(_label(name), SHOWN if measured["equal"] else CONTRADICTED, f"For text alone, the model {said}.")


def empathy_findings(reading: Reading) -> Iterator[Finding]:
    """Say whether a judge that has passed its exam prefers the answers of each system to those for a random emotion."""
    exam = reading.metrics.get("judge_exam", {}).get("exam")
    if exam is None:
        return
    right = f"{exam['right']:.0f} (choices) and {exam['marks_right']:.0f} (marks)"
    passed = f"{right} of {exam['of']:.0f} pairs of its exam right"
    if not exam["passed"]:
        sentence = f"The judge got only {passed}, so it failed, and its marks of the answers are not shown."
        yield Finding("exam of the judge", UNDECIDED, sentence)
        return
    for corpus, scores in reading.tests("judge_"):
        for system, score in scores.items():
            if "net" not in score or system in ("random_label", "true_label"):
                continue
            state = reading.state_of_interval(score, "net", score["speakers"])
            sentence = (
                f"The answers of {system} win {percent_of(score['win'])} and lose {percent_of(score['loss'])} of the "
                f"comparisons with answers of the language model that was told a random emotion: "
                f"{points(score, 'net', reading.percent)}, on {size_of(score)}. "
                f"Mean empathy {score['empathy']:.1f} of 10."
            )
            if "share" in score:
                sentence += f" That is {percent_of(score['share'])} of the way from a random to the true emotion."
            sentence += f" The judge got {passed}.{reading.too_few(score['speakers'])}"
            yield Finding(corpus, state, sentence)


def _label(name: str) -> str:
    """Write what follows the task in the name of a test: the model, and the corpus if there is one."""
    kind, _, corpus = name.partition("_")
    model = "after stage 1" if kind == "semantic" else "after stage 2"
    return f"{corpus}, {model}" if corpus else f"the model {model}"


def _rate(score: Score, reading: Reading) -> str:
    low, high = bounds(score, "wer")
    interval = "" if low == -high else f" ({reading.percent} interval {percent_of(low)} to {percent_of(high)})"
    return percent_of(score["wer"]) + interval
