"""Whether the probabilities of emotions are right, not only the likeliest one.

`scores` are log-probabilities or logits, (rows, classes); their softmax gives the probabilities.
"""

import numpy as np
from scipy import special

from evaluate.intervals import Floats, Ints

NUM_BINS = 15  # of the confidence, as in Guo et al. (2017)
TEMPERATURES = (0.01, 100.0)  # the search ends there: without an error on dev, no temperature is too low


def expected_calibration_error(scores: Floats, truth: Ints) -> float:
    """Return the mean difference between confidence and accuracy over bins of equal width, weighted by their rows.

    The confidence is the probability of the likeliest class (Guo et al. 2017, On calibration of modern neural
    networks).
    """
    probabilities = special.softmax(scores, axis=1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence)
    return float(np.abs(np.bincount(bins, right - confidence)).sum() / len(scores))


def cross_entropy(scores: Floats, truth: Ints) -> float:
    """Return the mean of minus the log-probability of the true class, in nats."""
    log_probabilities = special.log_softmax(scores, axis=1)
    return -float(np.take_along_axis(log_probabilities, truth[:, None], axis=1).mean())


def fit_temperature(scores: Floats, truth: Ints) -> float:
    """Return the temperature T of the lowest cross-entropy of softmax(scores / T); fit it on dev, use it on test."""
    from scipy import optimize  # takes as long to load as score does for 100,000 answers

    found = optimize.minimize_scalar(
        lambda log_t: cross_entropy(scores / np.exp(log_t), truth), bounds=np.log(TEMPERATURES), method="bounded"
    )
    return float(np.exp(found.x))


def soft_label_distance(scores: Floats, votes: Floats) -> float:
    """Return the mean Jensen-Shannon distance between probabilities and shares of votes: 0 equal, 1 disjoint.

    `votes` (rows, classes) are numbers or shares of the annotators' votes; every row needs a vote for a class.
    """
    shares = votes / votes.sum(axis=1, keepdims=True)
    probabilities = special.softmax(scores, axis=1)
    middle = (probabilities + shares) / 2
    divergence = special.rel_entr(probabilities, middle) + special.rel_entr(shares, middle)
    in_bits = divergence.sum(axis=1) / 2 / np.log(2)
    return float(np.sqrt(np.maximum(in_bits, 0)).mean())  # rounding may leave a divergence below 0
