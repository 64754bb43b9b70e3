"""Signs that a file was cut, or that it holds more audio than its decoder returns."""

import mmap
import re
from pathlib import Path

LONGEST_REST_S = 0.1  # if the bytes after the samples were samples, they may last this long

# the beginning of a file within another one; only in Ogg do decoders go on to the second file
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
_OWN_BEGINNING = 32  # a file's own beginning is found before this byte

# Ogg: RFC 3533, section 6
_PAGE_BYTES = 65_307  # the largest page
_PAGE_HEADER_BYTES = 27
_IS_LAST = 4

# MPEG audio: kbit/s by the code in a frame's header; layers II and III of version 1, and both of versions 2 and 2.5
_RATES_1_II = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_RATES_1_III = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_RATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLE_RATES_HZ = (44_100, 48_000, 32_000)  # of version 1; half of them in version 2, a quarter in version 2.5
_VERSIONS, _LAYERS = {0: 4, 2: 2, 3: 1}, {1: 3, 2: 2}  # code: divisor of the sample rate; code: layer

_ID3_HEADER_BYTES = 10
_MP3_FRAME_BYTES = 1_441  # the largest frame
_HAS_NUM_FRAMES = 1


def has_second_flac(path: Path) -> bool:
    """Return whether a FLAC file holds another one; to search backwards takes half as long as other searches."""
    return holds_second_flac(path.read_bytes())


def holds_second_flac(content: bytes) -> bool:
    """Return whether the content of a FLAC file holds another FLAC file."""
    return content.rfind(b"fLaC\x00\x00\x00\x22") > 0


def has_second_file(path: Path, form: str) -> bool:
    """Return whether a file of FFmpeg's format `form` holds another one; of the formats that are not listed, False."""
    if form not in _BEGINNINGS:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.compile(_BEGINNINGS[form], re.DOTALL).search(content, _OWN_BEGINNING) is not None


def has_last_page(path: Path) -> bool:
    """Return whether an Ogg file ends with a complete page that is marked as the last one."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _PAGE_BYTES, 0))
        tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < _PAGE_HEADER_BYTES or not page[5] & _IS_LAST:
        return False
    sizes = page[_PAGE_HEADER_BYTES : _PAGE_HEADER_BYTES + page[26]]
    return len(page) >= _PAGE_HEADER_BYTES + page[26] + sum(sizes)


def has_mp3_length(path: Path) -> bool:
    """Return whether the first frame of an MP3 file contains the number of frames, as Xing, Info or VBRI."""
    with path.open("rb") as file:
        head = file.read(_ID3_HEADER_BYTES)
        if head[:3] == b"ID3":  # the size has 7 bits of each byte
            size = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:])))
            file.seek(_ID3_HEADER_BYTES + size)
        else:
            file.seek(0)
        frame = file.read(_MP3_FRAME_BYTES)
    found = re.search(rb"(?:Xing|Info)...(.)", frame, re.DOTALL)
    return bool(found[1][0] & _HAS_NUM_FRAMES) if found else b"VBRI" in frame


def is_cut_mpeg_frame(frame: bytes) -> bool:
    """Return whether a frame of MPEG audio, layer II or III, has fewer bytes than its header says."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] < 0xE0:
        return False
    version, layer = _VERSIONS.get(frame[1] >> 3 & 3), _LAYERS.get(frame[1] >> 1 & 3)
    rate_code, sample_rate_code = frame[2] >> 4, frame[2] >> 2 & 3
    if version is None or layer is None or rate_code in (0, 15) or sample_rate_code == 3:  # 0: any bit rate
        return False
    rates = _RATES_2 if version > 1 else _RATES_1_III if layer == 3 else _RATES_1_II
    num_samples = 576 if version > 1 and layer == 3 else 1152
    num_bits = num_samples * 1000 * rates[rate_code] // (_SAMPLE_RATES_HZ[sample_rate_code] // version)
    return len(frame) < num_bits // 8 + (frame[2] >> 1 & 1)
