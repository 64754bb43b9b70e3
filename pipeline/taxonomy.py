"""The unified emotions, and how each corpus' published labels map to them."""

from collections.abc import Iterable
from pathlib import Path

from pipeline import params
from pipeline.stage import UserError

EMOTIONS = ("neutral", "happy", "sad", "angry", "surprise", "fear", "disgust", "calm")

# reader of pipeline/corpora: published label: unified emotion
LABELS = {
    "cremad": {
        "NEU": "neutral",
        "HAP": "happy",
        "SAD": "sad",
        "ANG": "angry",
        "FEA": "fear",
        "DIS": "disgust",
    },
    "ravdess": {
        "neutral": "neutral",
        "calm": "calm",
        "happy": "happy",
        "sad": "sad",
        "angry": "angry",
        "fearful": "fear",
        "disgust": "disgust",
        "surprised": "surprise",
    },
}


def mapping(reader: str, published: Iterable[str]) -> dict[str, str]:
    """Map the published labels that a corpus holds; raises UserError when one has no unified emotion."""
    known = LABELS.get(reader, {})
    found = sorted(set(published))
    unmapped = [label for label in found if label not in known]
    if unmapped:
        raise UserError(
            f"{reader}: no unified emotion for {', '.join(unmapped)}; "
            f"found the labels {', '.join(found)}, expected {', '.join(known) or 'none'} (pipeline/taxonomy.py)"
        )
    return {label: known[label] for label in found}


def read_classes(params_file: Path) -> list[str]:
    """Read `emotions`, the classes of a run in prompt order; raises UserError on an unknown or double one."""
    classes = params.load(params_file, "emotions", list[str])
    for name in classes:
        if name not in EMOTIONS:
            raise UserError(f"{params_file}: emotions: found {name}, expected some of {', '.join(EMOTIONS)}")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"{params_file}: emotions: expected two or more different ones, found {', '.join(classes)}")
    return classes
