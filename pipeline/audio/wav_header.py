"""Check the structure of a WAV file: libsndfile reads a cut file, or the first of two joined ones, as if it were whole.

Programs that write into a pipe cannot go back to write the sizes, so a size may be a placeholder. Such a file is whole,
and its samples reach to the end of the file.
"""

import os
import struct
from dataclasses import dataclass
from operator import itemgetter

from pipeline.audio.unreadable import UnreadableAudio
from pipeline.audio.whole_file import LONGEST_REST_S

# if the file is shorter, a size from here on is a placeholder: 7FFFF000, 7FFFFFFF, 80000000, FFFFFFDB, FFFFFFFF ...
_PLACEHOLDER = 0x7FFF0000
_SURPLUS_BYTES = 80  # the longest header without other chunks; some programs count the header as samples
_PADDING_BYTES = 1 << 16  # some recorders fill the last cluster of the disk with zeros
_PLAIN = {1, 3, 6, 7}  # format tags of PCM, float, A-law, mu-law
_EXTENSIBLE = 0xFFFE  # the tag is the beginning of the GUID of the subformat


@dataclass(frozen=True, slots=True)
class _Format:
    tag: int
    channels: int
    sample_rate_hz: int
    bytes_per_s: int
    block: int
    bits: int

    def is_plain(self) -> bool:
        """Return whether each sample has its own bytes, and whether the numbers agree."""
        return (
            self.tag in _PLAIN
            and self.bits % 8 == 0
            and self.block == self.channels * self.bits // 8 > 0
            and self.bytes_per_s == self.block * self.sample_rate_hz
        )


def num_frames(file: int, size: int) -> int | None:
    """Return the number of frames of an open RIFF file of `size` bytes; None if only decoding can find it.

    Raises UnreadableAudio if the file is cut short, or contains more audio than its header says.
    """
    form, place = None, 12
    while (found := _chunk(file, place)) is not None:
        chunk, length = found
        place += 8
        if chunk == b"fmt " and length >= 16:
            form = _format(os.pread(file, 40, place))
        if chunk == b"data":
            return None if form is None else _num_frames(file, size, place, length, form)
        place += length + length % 2  # chunks begin at even positions
    return None


def _chunk(file: int, place: int) -> tuple[bytes, int] | None:
    """Return the name and the length of the chunk at `place`; None if there is none."""
    head = os.pread(file, 8, place)
    if len(head) < 8 or not all(0x20 <= letter < 0x7F for letter in head[:4]):
        return None
    return head[:4], int.from_bytes(head[4:], "little")


def _format(content: bytes) -> _Format | None:
    if len(content) < 16:
        return None
    tag, *numbers = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE and len(content) >= 26:
        tag = int.from_bytes(content[24:26], "little")
    return _Format(tag, *numbers)


def _num_frames(file: int, size: int, start: int, length: int, form: _Format) -> int | None:
    """Return the number of frames, if the samples begin at `start` and have `length` bytes by the header."""
    end = start + length
    if end > size:
        # a file that was cut mostly ends within a frame
        is_cut = end - size > _SURPLUS_BYTES or form.block == 0 or (size - start) % form.block != 0
        if is_cut and length < _PLACEHOLDER:
            raise UnreadableAudio("truncated", "the file ends before the length in its header")
        end = size
    # some programs forget the padding after an odd length
    names, rest = min((_walk(file, size, place) for place in (end + length % 2, end)), key=itemgetter(1))
    if length == 0 and rest:
        end = size
    elif b"RIFF" in names:
        raise UnreadableAudio("more-audio", "several WAV files one after another")
    elif b"data" in names:
        return None
    elif rest > LONGEST_REST_S * form.block * form.sample_rate_hz and any(os.pread(file, _PADDING_BYTES, size - rest)):
        raise UnreadableAudio("more-audio", f"{rest} bytes follow the length in the header")
    return (end - start) // form.block if form.is_plain() else None


def _walk(file: int, size: int, place: int) -> tuple[set[bytes], int]:
    """Return the names of the chunks from `place` on, and the number of bytes at the end that are no chunk."""
    names = set()
    while (found := _chunk(file, place)) is not None:
        name, length = found
        if name == b"RIFF":
            return {name}, 0
        if place + 8 + length > size:
            break
        names.add(name)
        place += 8 + length + length % 2
    return names, max(size - place, 0)
