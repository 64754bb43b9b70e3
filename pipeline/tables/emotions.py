"""The unified emotions, and how the published labels of a corpus map to them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline import params
from pipeline.stage import UserError

EMOTIONS = (
    "neutral", "happy", "sad", "angry", "surprise", "fear", "disgust", "calm", "contempt", "boredom", "frustration",
    "enthusiasm", "other",
)  # fmt: skip
"""The first five are the paper's classes; a run selects its own by `emotions` of params.yaml."""


def check_labels(corpus: str, known: Mapping[str, str | None], published: Iterable[str]) -> None:
    """Raise UserError, with the labels that a corpus holds, when one of them is not mapped."""
    found = sorted(set(published))
    unmapped = [label for label in found if label not in known]
    if unmapped:
        raise UserError(
            f"{corpus}: no unified emotion for {', '.join(unmapped)}; "
            f"found the labels {', '.join(found)}, expected {', '.join(known) or 'none'}"
        )


def soften(votes: Mapping[str, float], known: Mapping[str, str | None]) -> dict[str, float]:
    """Turn votes by published label into shares by unified emotion; labels that name no emotion are `other`."""
    total = sum(votes.values())
    shares: dict[str, float] = {}
    for label, count in votes.items():
        if count:
            emotion = known[label] or "other"
            shares[emotion] = shares.get(emotion, 0.0) + count / total
    return shares


def read_classes(params_file: Path) -> list[str]:
    """Read `emotions`, the classes of a run in prompt order; raises UserError on an unknown or double one."""
    classes = params.load(params_file, "emotions", list[str])
    for name in classes:
        if name not in EMOTIONS:
            raise UserError(f"{params_file}: emotions: found {name}, expected some of {', '.join(EMOTIONS)}")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"{params_file}: emotions: expected two or more different ones, found {', '.join(classes)}")
    return classes
