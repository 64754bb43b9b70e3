"""Whether a WAV file is whole, by its header: libsndfile reads what is left of a cut one as if it were all."""

import os
import struct
from pathlib import Path

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # which programs leave that write into a pipe


def is_cut(path: Path) -> bool:
    """Tell whether a file ends before the samples that its header counts; false for what is no RIFF file."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return False
        end, place = os.fstat(file.fileno()).st_size, 12
        while len(head := os.pread(file.fileno(), 8, place)) == 8:
            chunk, size = struct.unpack("<4sI", head)
            place += 8 + size
            if chunk == b"data":
                return size not in _UNKNOWN_SIZES and place > end
            place += size % 2  # chunks begin at even places
    return False
