"""Whether the probabilities of the emotion head hold: its accuracy by its confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import special

from evaluate.calibration import NUM_BINS
from evaluate.intervals import Floats, Ints
from evaluate.predictions import RECOGNITION_SCHEMA
from pipeline.tables import parquet

_COLUMNS = pa.schema([field for field in RECOGNITION_SCHEMA if field.name in ("corpus", "emotion", "system", "scores")])


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of the confidence that hold clips: mean confidence, accuracy and number of clips of each."""

    confidence: Floats
    accuracy: Floats
    clips: Ints


def read_reliability(path: Path, emotions: Sequence[str]) -> dict[str, Bins]:
    """Read the emotion head's bins on each corpus; {} without the table."""
    if not path.is_file():
        return {}
    table = parquet.read(path, _COLUMNS)
    table = table.filter((pc.field("system") == "head") & pc.is_valid(pc.field("scores")))
    found = {}
    for corpus in sorted(table["corpus"].unique().to_pylist()):
        rows = table.filter(pc.field("corpus") == corpus)
        scores = np.asarray(pc.list_flatten(rows["scores"])).reshape(-1, len(emotions))
        truth = pc.index_in(rows["emotion"], value_set=pa.array(emotions, pa.string())).to_numpy().astype(np.int64)
        found[corpus] = bin_confidences(scores, truth)
    return found


def bin_confidences(scores: Floats, truth: Ints) -> Bins:
    """Sort clips into bins of the confidence, as expected_calibration_error does; `scores` are (clips, classes)."""
    probabilities = special.softmax(scores, axis=1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    bins = np.searchsorted(np.linspace(0, 1, NUM_BINS + 1)[1:-1], confidence)
    clips = np.bincount(bins, minlength=NUM_BINS)
    used = clips > 0
    sums = (np.bincount(bins, values, NUM_BINS)[used] for values in (confidence, right))
    mean_confidence, accuracy = (of_bins / clips[used] for of_bins in sums)
    return Bins(mean_confidence, accuracy, clips[used])
