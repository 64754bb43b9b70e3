"""The rows whose emotion is a class of the run."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables import packed


def labelled(rows: packed.Rows, emotions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows whose label is a class, and these labels as numbers."""
    found = pc.index_in(rows.column("emotion"), value_set=pa.array(emotions, pa.string()))
    labels = pc.fill_null(found, -1).to_numpy()
    places = np.flatnonzero(labels >= 0)
    return places, labels[places]
