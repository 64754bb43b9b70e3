"""What was not measured, and what measures it: a run without a figure must not look like one without a weakness."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from evaluate.metrics import CONTINUATION_KL, EMOTION, Metrics
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Something that was not measured, and the command or parameter that measures it."""

    what: str
    how: str


NEVER = (
    Unmeasured("What people think of the answers", "nothing here asks listeners."),
    Unmeasured(
        "How much another training would differ",
        "every figure is of one training. Train again with another fit.*.seed, and compare with "
        "python -m evaluate compare.",
    ),
)
"""What no run measures."""


def find_unmeasured(metrics: Metrics, *, tables: Collection[str] = ()) -> list[Unmeasured]:
    """Return what the metrics lack; `tables` names the tables of data that are missing."""
    found = [*_whole_tests(metrics), *_systems(metrics), *_controls(metrics)]
    if "leaks" in tables:
        found.append(Unmeasured("Whether test shares data with training", "python -m pipeline.leaks"))
    if "rejected" in tables:
        found.append(Unmeasured("How many clips were rejected, and why", "python -m pipeline.ingest"))
    return [*found, *NEVER]


def _whole_tests(metrics: Metrics) -> Iterator[Unmeasured]:
    for prefix, what, how in (
        (OWN_ANSWERS, "Whether the voice chooses among the language model's own answers",
         "python -m evaluate.score --own-answers, after the stages generate-told and respond-emotion"),
        ("written_", "Whether the model writes the answer of the speaker's emotion",
         "respond.written in params.yaml (the stage respond-emotion)"),
        ("transcripts_", "Word errors of the whole Whisper", "the stage transcribe"),
        ("repeat_", "Word errors when the model repeats what was said", "the stage semantics"),
        ("instructions_", "Whether instructions are followed for speech as for text", "the stage semantics"),
        ("answers_", "Whether the answer after the clip is that after the transcript", "the stage semantics"),
        ("text_alone_", "Whether training left the answers to text as they were", "the stage semantics"),
        ("counterfactual_", "Whether the choice changes if a speaker says the same words in another emotion",
         "the stage score, if a test speaker says a sentence in several emotions"),
        ("judge_", "Empathy of the written answers", "the stage judge (judge in params.yaml)"),
    ):  # fmt: skip
        if not any(name.startswith(prefix) for name in metrics):
            yield Unmeasured(what, how)
    for name in metrics:
        if name.startswith(OWN_ANSWERS) and NEW_WORDS + name.removeprefix(OWN_ANSWERS) not in metrics:
            corpus = name.removeprefix(OWN_ANSWERS)
            yield Unmeasured(
                f"The choice for new words, on {corpus}: training has seen all words of its test clips",
                "a corpus whose test sentences are in no train split",
            )
    if not any(name.startswith(("gender=", "duration=")) for name in metrics):
        yield Unmeasured("Accuracy by gender and by duration", "the stage score, for groups of at least ten clips")
    if not any("protocol" in scores for scores in metrics.values()):
        yield Unmeasured("A score that can be compared with published ones", "score.protocols in params.yaml")
    if (exam := metrics.get("judge_exam")) and not any(one.get("passed") for one in exam.values()):
        yield Unmeasured("Empathy of the written answers: the judge failed its exam", "another model as judge.llm")


def _systems(metrics: Metrics) -> Iterator[Unmeasured]:
    recognition = _names(metrics, EMOTION)
    own = _names(metrics, OWN_ANSWERS)
    for has, what, how in (
        ("probe" in recognition, "What the encoder holds before training", "the stage probe"),
        ("heard_logprob" in recognition or "heard_told_head" in own,
         "What Whisper's transcript gives, and the usual cascade",
         "the stages transcribe and respond-emotion"),
        ("silence_logprob" in recognition, "Recognition from silence as long as the clip", "the stage respond-emotion"),
        ("logprob_prompts" in recognition, "How much recognition depends on the prompt",
         "respond.recognition_wordings and respond.option_orders"),
    ):  # fmt: skip
        if not has:
            yield Unmeasured(what, how)
    heads = [scores["head"] for name, scores in metrics.items() if name.startswith(EMOTION) and "head" in scores]
    if not any("temperature" in head for head in heads):
        yield Unmeasured("Calibration of the emotion head with a temperature", "dev rows in the stage respond-emotion")


def _controls(metrics: Metrics) -> Iterator[Unmeasured]:
    for name, scores in metrics.items():
        if name.startswith(EMOTION) and "shuffled_head" not in scores:
            corpus = name.removeprefix(EMOTION)
            yield Unmeasured(
                f"Recognition with a wrong clip, on {corpus}: no test clip of another speaker has another emotion",
                "more test speakers",
            )
        if name.startswith(CONTINUATION_KL):
            corpus = name.removeprefix(CONTINUATION_KL)
            if "hearing" not in scores:
                yield Unmeasured(
                    f"The KL divergence with a wrong clip, on {corpus}: no other speaker says other words",
                    "more test speakers",
                )
            if "top1" not in scores["after"]:
                yield Unmeasured(
                    f"How often the likeliest token is the same after speech and after text, on {corpus}",
                    "the stage respond-semantic",
                )


def _names(metrics: Metrics, prefix: str) -> set[str]:
    return {system for name, scores in metrics.items() if name.startswith(prefix) for system in scores}
