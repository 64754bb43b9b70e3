"""Logistic regression on clip embeddings, with the layer and the regularisation chosen by leaving speakers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C: a smaller one regularises more
MIDDLE = 0.01
MAX_STEPS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A layer and a regularisation, and how they were chosen."""

    layer: int
    strength: float
    ua_by_layer: list[float]
    """Unweighted accuracy on speakers that are left out, for each layer, all at one regularisation."""
    ua_by_strength: list[float]
    """The same for each of STRENGTHS, at the chosen layer."""


def choose(x: Float[np.ndarray, "n layers e"], y: Int[np.ndarray, " n"], speakers: Sequence[str]) -> Choice:
    """Choose the layer, then the regularisation, that recognise emotion best in speakers left out of training.

    With a single speaker, clips are left out.
    """
    by_layer = [ua_left_out(x[:, layer], y, speakers, MIDDLE) for layer in range(x.shape[1])]
    layer = int(np.argmax(by_layer))
    by_strength = [ua_left_out(x[:, layer], y, speakers, strength) for strength in STRENGTHS]
    return Choice(
        layer=layer,
        strength=STRENGTHS[int(np.argmax(by_strength))],
        ua_by_layer=by_layer,
        ua_by_strength=by_strength,
    )


def fit(x: Float[np.ndarray, "n e"], y: Int[np.ndarray, " n"], strength: float) -> Pipeline:
    """Fit logistic regression to standardised features; classes have equal weight, as in the unweighted accuracy."""
    return _classifier(strength).fit(x, y)


def log_probabilities(fitted: Pipeline, x: Float[np.ndarray, "n e"], num_classes: int) -> Float[np.ndarray, "n k"]:
    """Return the log-probability of each class; that of a class without a training clip is very low, but finite."""
    least = float(np.log(np.finfo(np.float64).tiny))
    scores: Float[np.ndarray, "n k"] = np.full((len(x), num_classes), least)
    scores[:, fitted.classes_] = np.maximum(fitted.predict_log_proba(x), least)
    return scores


def ua_left_out(
    x: Float[np.ndarray, "n e"], y: Int[np.ndarray, " n"], speakers: Sequence[str], strength: float
) -> float:
    """Return the unweighted accuracy on speakers that are left out; with a single speaker, clips are left out."""
    groups = speakers if len(set(speakers)) > 1 else range(len(y))
    folds = GroupKFold(min(FOLDS, len(set(groups))))
    predicted = cross_val_predict(_classifier(strength), x, y, groups=groups, cv=folds)
    return float(balanced_accuracy_score(y, predicted))


def _classifier(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_STEPS))
