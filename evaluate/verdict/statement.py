"""The claims of the report: what was found on each corpus, in sentences that say no more than the tests allow.

Beside each claim stands what would falsify it, and what it may not be read as.
"""

from dataclasses import dataclass

from evaluate.metrics import Metrics
from evaluate.own_answers import NEW_WORDS, SEEN_WORDS
from evaluate.verdict.findings import Finding, Reading
from evaluate.verdict.voice_findings import own_findings, prompt_findings, recognition_findings, rival_findings
from evaluate.verdict.word_findings import empathy_findings, hearing_findings, kept_findings


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, and what the run says about it."""

    name: str
    question: str
    findings: list[Finding]
    falsified_by: str
    not_read_as: str


_CLAIMS = (
    (
        "new-words",
        "For words that training has not seen, does the voice choose among the language model's own answers?",
        lambda reading: own_findings(reading, NEW_WORDS),
        "Other speakers or other new sentences, on which silence of the same length or the transcript alone reaches as "
        "much as the clip.",
        "That the model writes this answer, that the answer suits the speaker, or that acted emotion is felt emotion.",
    ),
    (
        "seen-words",
        "And for words that training has seen?",
        lambda reading: own_findings(reading, SEEN_WORDS),
        "The same, with sentences of the training data.",
        "Understanding: if a corpus repeats few sentences, a model can learn which text belongs to which voice.",
    ),
    (
        "more-than-length",
        "Does the voice do more than its length, than before stage 2, and than a cascade of a classifier and a prompt?",
        rival_findings,
        "A rival that reaches as much on the same clips. A better classifier would make a better cascade.",
        "That no cascade is as good: these use the emotion head and the models of this run.",
    ),
    (
        "prompted",
        "Do embeddings learnt from text make the language model answer the emotion of a voice?",
        prompt_findings,
        "The same with another speaker's clip of another emotion, or with all emotions mixed evenly.",
        "That the embeddings do more than the emotion's name does: for that, they must be better than the cascade.",
    ),
    (
        "recognition",
        "Does the model recognise the speaker's emotion?",
        recognition_findings,
        "The same accuracy with only the transcript, with silence, or with another speaker's clip.",
        "Empathy, or recognition of felt emotion. The emotion head is a classifier beside the language model: its "
        "accuracy says nothing about the answers.",
    ),
    (
        "hearing",
        "Does the model hear something of what is said?",
        hearing_findings,
        "A KL divergence with another speaker's clip that is as low as with the right one.",
        "That it hears all words: a difference above 0 shows only that some of the words arrive.",
    ),
    (
        "kept",
        "Are words and instructions kept as well in speech as in text?",
        kept_findings,
        "More word errors after the clip than after the transcript, or fewer instructions followed.",
        "That no words are lost: a difference that was not shown may still be there, as large as its interval allows.",
    ),
    (
        "empathy",
        "Does a judge prefer the answers to those for a random emotion?",
        empathy_findings,
        "A judge that passes its exam and finds no difference.",
        "What people would prefer: the judge is a language model, and its exam has 40 pairs.",
    ),
)
"""Name, question, what is found, what would falsify it, and what it may not be read as."""


def state_claims(metrics: Metrics, percent: str, alpha: float) -> list[Claim]:
    """Return the claims on which the run says something; the first one is the claim of the method.

    `percent` is the coverage of the intervals, as in "95 %", and `alpha` the level of the tests.
    """
    reading = Reading(metrics, alpha, percent)
    claims = [Claim(name, question, list(found(reading)), *limits) for name, question, found, *limits in _CLAIMS]
    return [claim for claim in claims if claim.findings]
