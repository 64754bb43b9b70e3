"""The unified emotions, and how the published labels of a corpus map to them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline import params
from pipeline.stage import UserError

EMOTIONS = (
    "neutral", "happy", "sad", "angry", "surprise", "fear", "disgust", "calm", "contempt", "boredom", "frustration",
    "enthusiasm", "other",
)  # fmt: skip
"""The first five are the paper's classes. The section `emotions` of params.yaml selects the classes of a run."""


def check_labels(corpus: str, known: Mapping[str, str | None], published: Iterable[str]) -> None:
    """Raise UserError if a label of a corpus is not mapped; the message lists the labels of the corpus."""
    found = sorted(set(published))
    unmapped = [label for label in found if label not in known]
    if unmapped:
        raise UserError(
            f"{corpus}: no unified emotion for {', '.join(unmapped)}; "
            f"found the labels {', '.join(found)}, expected {', '.join(known) or 'none'}"
        )


def soften(votes: Mapping[str, float], known: Mapping[str, str | None]) -> dict[str, float]:
    """Turn votes by published label into shares by unified emotion; a label that names no emotion counts as `other`."""
    total = sum(votes.values())
    shares: dict[str, float] = {}
    for label, count in votes.items():
        if count:
            emotion = known[label] or "other"
            shares[emotion] = shares.get(emotion, 0.0) + count / total
    return shares


def read_classes(params_file: Path) -> list[str]:
    """Read `emotions`, the classes of a run in the order of the prompt; raises UserError if they are not valid."""
    classes = params.load(params_file, "emotions", list[str])
    for name in classes:
        if name not in EMOTIONS:
            raise UserError(f"{params_file}: emotions: found {name}, expected some of {', '.join(EMOTIONS)}")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"{params_file}: emotions: expected two or more different emotions, found {', '.join(classes)}")
    return classes
