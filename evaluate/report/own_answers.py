"""What the report says of own answers: a verdict and a table for each corpus."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from evaluate.metrics import Metrics
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.report.verdict import Scores, Verdict, bounds

GIVEN = {
    "voice": "the clip",
    "shuffled": "another speaker's clip of another emotion",
    "silence": "silence as long as the clip",
    "transcript": "only the transcript",
    "stage1": "the clip, before stage 2",
    "told_true": "the clip and, in words, its emotion; before stage 2",
    "told_head": "the clip and, in words, the emotion that the head hears; before stage 2",
}
"""system -> what is given; the report shows the systems in this order."""

WORDS = {OWN_ANSWERS: "all words", SEEN_WORDS: "words seen in training", NEW_WORDS: "new words"}


@dataclass(frozen=True, slots=True)
class OwnAnswersProtocol:
    """Own answers on one corpus."""

    corpus: str
    verdict: Verdict
    scores: Mapping[str, Scores]
    """prefix of the test -> its scores; without seen or new words if no clip has them"""

    @property
    def all_words(self) -> Scores:
        """The scores on all clips of the corpus."""
        return self.scores[OWN_ANSWERS]


def own_answers_protocols(metrics: Metrics, percent: str, alpha: float) -> list[OwnAnswersProtocol]:
    """Describe own answers on each corpus; `alpha` is 1 minus the coverage of the intervals."""
    protocols = []
    for corpus in (name.removeprefix(OWN_ANSWERS) for name in metrics if name.startswith(OWN_ANSWERS)):
        scores = {prefix: metrics[prefix + corpus] for prefix in WORDS if prefix + corpus in metrics}
        protocols.append(OwnAnswersProtocol(corpus, own_answers_verdict(scores, percent, alpha), scores))
    return protocols


def own_answers_verdict(scores: Mapping[str, Scores], percent: str, alpha: float) -> Verdict:
    """State for which words the voice chooses among the LLM's own answers.

    It does if the interval is above chance, and the permutation test, if there is one, agrees at `alpha`. The claim
    says so if the interval is not above silence.
    """
    chooses = {prefix: _chooses(of_words, alpha) for prefix, of_words in scores.items()}
    names = ("voice", "silence", "answers", "chance")
    voice, silence, answers, chance = (scores[OWN_ANSWERS][name] for name in names)
    low, high = bounds(voice, "ua")
    if any(chooses.values()):
        claim = f"The voice chooses among the language model's own answers{_for_words(chooses)}."
        if low <= silence["ua"]:  # emotions are spoken at different speeds
            claim += " But the length of the clip may be all that counts."
    else:
        size = f"{voice['n']:,.0f} test clips of {voice['speakers']:,.0f} speakers"
        claim = f"No influence of the voice on the choice among the language model's own answers was seen, on {size}."
    interval = f" ({percent} interval {low:.2f} to {high:.2f})" if math.isfinite(low) else ""
    grounds = (
        "The language model continued each transcript once for each emotion that it was told; "
        f"{answers['distinct']:,.0f} of these {answers['n']:,.0f} continuations differ. The continuation that a clip "
        f"makes likeliest is that of the clip's emotion with an unweighted accuracy of {voice['ua']:.2f}{interval}; "
        f"chance is {chance['ua']:.2f}. Silence as long as the clip reaches {silence['ua']:.2f}. This does not "
        "show that the model would write this continuation, or that the continuation suits the speaker."
    )
    return Verdict(claim, grounds)


def _chooses(scores: Scores, alpha: float) -> bool:
    voice = scores["voice"]
    return bounds(voice, "ua")[0] > scores["chance"]["ua"] and voice.get("p", 0.0) <= alpha


def _for_words(chooses: Mapping[str, bool]) -> str:
    seen, new = chooses.get(SEEN_WORDS), chooses.get(NEW_WORDS)
    if seen and new:
        return ", for words that training has seen and for new words"
    if seen:
        rest = "the test has no new words" if new is None else "for new words, this was not seen"
        return f" for words that training has seen; {rest}"
    if new:
        return " for words that training has not seen"
    return ", but it was not seen for the words of training, or for new words, by themselves"
