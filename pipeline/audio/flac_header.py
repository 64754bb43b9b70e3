"""Read FLAC's header without decoding: https://www.rfc-editor.org/rfc/rfc9639.html, section 8.2 (STREAMINFO).

The header contains the length, the sample rate and the MD5 of the samples. A file is complete if its last frame has the
expected number. A file is opened once and read twice. This is 20 times as fast as opening it with libsndfile.
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
    """The content of STREAMINFO; `md5` is that of the interleaved little-endian samples, None if it is not given."""

    num_samples: int
    sample_rate_hz: int
    channels: int
    md5: str | None


def read_header(path: str | Path) -> Header | Fault | None:
    """Read the header; None if the file is not FLAC, or if its header does not contain the length."""
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
    """Return whether the last frame is there; true also if block sizes vary, because its number is unknown then."""
    block, largest = int.from_bytes(head[8:10]), int.from_bytes(head[10:12])
    max_frame_bytes = int.from_bytes(head[15:18])
    if block != largest or max_frame_bytes == 0:
        return True
    tail = os.pread(file, max_frame_bytes + _FRAME_HEADER_BYTES, max(0, size - max_frame_bytes - _FRAME_HEADER_BYTES))
    number = _coded((num_samples - 1) // block)
    return re.search(rb"\xff\xf8.." + re.escape(number), tail, re.DOTALL) is not None


def _coded(number: int) -> bytes:
    """Encode a frame's number as FLAC does: like a character in UTF-8 (RFC 9639, 9.1.5)."""
    if number < 0x80:
        return bytes([number])
    tail = []
    room = 0x3F
    while number > room:
        tail.append(0x80 | number & 0x3F)
        number >>= 6
        room >>= 1
    return bytes([~(room * 2 + 1) & 0xFF | number, *reversed(tail)])
