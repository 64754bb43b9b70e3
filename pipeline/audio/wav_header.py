"""Find WAV files that are cut short: libsndfile reads such a file as if it were complete."""

import os
import struct
from pathlib import Path

_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # programs that write to a pipe leave these


def is_cut(path: Path) -> bool:
    """Return whether a file ends before the last sample that its header promises; false if it is not a RIFF file."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return False
        end, place = os.fstat(file.fileno()).st_size, 12
        while len(head := os.pread(file.fileno(), 8, place)) == 8:
            chunk, size = struct.unpack("<4sI", head)
            place += 8 + size
            if chunk == b"data":
                return size not in _UNKNOWN_SIZES and place > end
            place += size % 2  # chunks begin at even positions
    return False
