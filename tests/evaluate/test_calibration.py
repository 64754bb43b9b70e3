"""Calibration of probabilities, and their distance to votes."""

import numpy as np
import pytest
from scipy import optimize, special
from scipy.spatial.distance import jensenshannon
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from evaluate import calibration
from evaluate.intervals import Floats, Ints


def made_up(seed: int, rows: int = 500, classes: int = 4, scale: float = 1.0) -> tuple[Floats, Ints]:
    """Logits and labels drawn from softmax(logits / scale)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, classes))
    truth = np.array([rng.choice(classes, p=p) for p in special.softmax(logits / scale, axis=1)])
    return logits, truth


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_scikit_learns_curve(seed: int) -> None:
    scores, truth = made_up(seed, scale=2.0)
    confidence = special.softmax(scores, axis=1).max(axis=1)
    right = scores.argmax(axis=1) == truth
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=calibration.NUM_BINS)
    in_bin = np.histogram(confidence, np.linspace(0, 1, calibration.NUM_BINS + 1))[0]
    expected = np.average(np.abs(accuracy - mean_confidence), weights=in_bin[in_bin > 0])
    assert calibration.expected_calibration_error(scores, truth) == pytest.approx(expected)


def test_certain_answers_that_are_wrong_have_the_largest_calibration_error() -> None:
    certain = np.array([[0.0, -1000], [0, -1000]])
    assert calibration.expected_calibration_error(certain, np.array([1, 1])) == pytest.approx(1)
    assert calibration.expected_calibration_error(certain, np.array([0, 0])) == pytest.approx(0)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_is_that_from_which_the_labels_were_drawn(scale: float) -> None:
    scores, truth = made_up(1, rows=20_000, scale=scale)
    assert calibration.fit_temperature(scores, truth) == pytest.approx(scale, rel=0.05)


def test_no_other_temperature_has_a_lower_cross_entropy() -> None:
    scores, truth = made_up(2, scale=2.0)

    def cross_entropy(temperature: float) -> float:
        probabilities = special.softmax(scores / temperature, axis=1)
        return float(sklearn_metrics.log_loss(truth, probabilities, labels=range(4)))

    expected = optimize.brute(lambda t: cross_entropy(t[0]), [(0.2, 8.0)], Ns=400)[0]
    assert calibration.fit_temperature(scores, truth) == pytest.approx(expected, rel=0.001)
    assert calibration.fit_temperature(scores - 3.0, truth) == pytest.approx(expected, rel=0.001)


def test_a_temperature_without_an_error_on_dev_ends_at_its_limit() -> None:
    scores = np.eye(3)
    assert calibration.fit_temperature(scores, np.arange(3)) < 0.05


def test_the_temperature_lowers_the_calibration_error_of_other_rows() -> None:
    (dev, dev_truth), (test, truth) = made_up(3, 5_000, scale=3.0), made_up(4, 5_000, scale=3.0)
    before = calibration.expected_calibration_error(test, truth)
    after = calibration.expected_calibration_error(test / calibration.fit_temperature(dev, dev_truth), truth)
    assert after < 0.03 < 0.2 < before


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_to_votes_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, votes = rng.standard_normal((50, 5)), rng.integers(0, 4, (50, 5)).astype(float)
    votes[:, 0] += 1
    expected = jensenshannon(special.softmax(scores, axis=1), votes, base=2, axis=1).mean()
    assert calibration.soft_label_distance(scores, votes) == pytest.approx(expected)


def test_equal_shares_have_no_distance_and_disjoint_ones_the_distance_one() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    assert calibration.soft_label_distance(np.log(shares), 7 * shares) == pytest.approx(0, abs=1e-7)
    assert calibration.soft_label_distance(np.array([[0.0, -1000]]), np.array([[0.0, 3]])) == pytest.approx(1)
