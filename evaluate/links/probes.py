"""The probe of a link: logistic regression on the mean states of train clips, asked about test clips."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evaluate import confusions, intervals
from evaluate.intervals import Ints
from evaluate.links.clips import Clips, permute_within_speakers
from evaluate.probe import classifier

NUM_PERMUTATIONS = 5
"""If emotions form clusters, the probe of one permutation gets a whole cluster right or wrong, so the mean is taken."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe of a link says of the test clips."""

    strength: float
    """The regularisation, one of classifier.STRENGTHS."""
    choice_ua: float
    """Unweighted accuracy of this regularisation on the clips that chose it: dev, or train speakers left out."""
    predicted: Ints
    """Class of each test clip."""
    controls: list[Ints]
    """The same after training on labels that are permuted within speakers, for each of NUM_PERMUTATIONS."""


def probe_link(x: Float[np.ndarray, "n e"], train: Clips, dev: Clips, test: Clips, seed: int) -> Probe:
    """Fit the probe of a link, whose means `x` are those of train, dev and test, one after another.

    The regularisation is chosen on dev; without dev clips, by leaving speakers out of train. Test clips choose nothing.
    """
    of_train, of_dev, of_test = np.split(x, [len(train), len(train) + len(dev)])
    speakers = train.column("speaker")
    fitted = [classifier.fit(of_train, train.labels, strength) for strength in classifier.STRENGTHS]
    if len(dev):
        scores = [_accuracy(dev.labels, one.predict(of_dev)) for one in fitted]
    else:
        scores = [classifier.ua_left_out(of_train, train.labels, speakers, each) for each in classifier.STRENGTHS]
    best = int(np.argmax(scores))
    strength = classifier.STRENGTHS[best]
    controls = [
        classifier.fit(of_train, permute_within_speakers(train.labels, speakers, [seed, number]), strength)
        for number in range(NUM_PERMUTATIONS)
    ]
    return Probe(strength, scores[best], fitted[best].predict(of_test), [one.predict(of_test) for one in controls])


def _accuracy(truth: Ints, predicted: Ints) -> float:
    everyone = intervals.by_speaker([""] * len(truth))
    num_classes = 1 + int(max(truth.max(), predicted.max()))
    return float(
        confusions.unweighted_accuracy(confusions.count_confusions(truth, predicted, num_classes, everyone))[0]
    )
