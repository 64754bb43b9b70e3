"""Signs that a file was cut, or that it holds more audio than its decoder returns."""

import mmap
import re
from pathlib import Path

# the beginning of a second file; only in Ogg do decoders go on to it
_BEGINNINGS = {
    "flac": rb"fLaC\x00\x00\x00\x22",
    "mov": rb"\x00\x00\x00.ftyp",
    "matroska": rb"\x1a\x45\xdf\xa3.{1,8}\x42\x86",
    "aiff": rb"FORM....AIF[FC]",
    "avi": rb"RIFF....AVI ",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    "caf": rb"caff\x00\x01\x00\x00",
    "flv": rb"FLV\x01.\x00\x00\x00\x09",
    "ogg": rb"OggS\x00[\x02\x06]",
    "tta": rb"TTA1\x01\x00",
    "voc": rb"Creative Voice File\x1a",
    "w64": rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",
}
_PAGE_BYTES = 65_307  # the largest page of Ogg
_PAGE_HEADER_BYTES = 27
_LAST_PAGE = 4  # flag of the last page of an Ogg stream
_ID3_BYTES = 10
_MP3_FRAME_BYTES = 1_441  # the largest frame


def has_second_flac(path: Path) -> bool:
    """Return whether another FLAC file begins within one; the search backwards takes half as long as other searches."""
    with path.open("rb", buffering=0) as file:
        return file.read().rfind(b"fLaC\x00\x00\x00\x22") > 0


def has_second_file(path: Path, form: str) -> bool:
    """Return whether another file of the same format begins within a file, if the format is one of _BEGINNINGS."""
    if form not in _BEGINNINGS:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.compile(_BEGINNINGS[form], re.DOTALL).search(content, 32) is not None


def ends_ogg(path: Path) -> bool:
    """Return whether an Ogg file ends with a complete page that is marked as the last one."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _PAGE_BYTES, 0))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < _PAGE_HEADER_BYTES or not page[5] & _LAST_PAGE:
        return False
    num_segments = page[26]
    sizes = page[_PAGE_HEADER_BYTES : _PAGE_HEADER_BYTES + num_segments]
    return len(page) >= _PAGE_HEADER_BYTES + num_segments + sum(sizes)


def has_mp3_length(path: Path) -> bool:
    """Return whether an MP3 file has the frame Xing or Info, which holds the number of frames."""
    with path.open("rb") as file:
        head = file.read(_ID3_BYTES)
        start = 0
        if head[:3] == b"ID3":  # 4 x 7 bits of size
            start = _ID3_BYTES + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:])))
        file.seek(start)
        frame = file.read(_MP3_FRAME_BYTES)
    return b"Xing" in frame or b"Info" in frame
