"""Read published audio files, or segments of them, in all formats of FFmpeg.

The content of a file decides how it is read, not its name. libsndfile reads WAV and FLAC files whose header agrees with
the end of the file. All other files are decoded by FFmpeg: only then is it known how much audio they contain.
"""

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import soundfile
from numpy.typing import NDArray

from pipeline.audio import flac_header, wav_header, whole_file
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples, encode_flac, to_mono_16k
from pipeline.audio.unreadable import ROUNDED_S
from pipeline.audio.unreadable import UnreadableAudio as UnreadableAudio

if TYPE_CHECKING:
    from pipeline.audio.ffmpeg import FfmpegRecording

_LFS_POINTER = b"version https://git-lfs"
_NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_DTYPES = {"PCM_16": "int16", "PCM_24": "int32"}  # of libsndfile's subtypes that are not read as float32


class Recording(Protocol):
    """An open audio file; `dtype` is int16, int32 (24 bits in the upper ones) or float32, as the samples are stored."""

    samplerate: int
    channels: int
    dtype: str
    length_s: float | None
    """The length, if the file shows it without decoding."""
    length_is_checked: bool
    """Whether the structure of the file was checked, so that a whole file has this length."""

    def read(self, start_s: float, duration_s: float | None, longest_s: float, dtype: str) -> NDArray[Any]:
        """Read a segment as (frames, channels); `dtype` is float32 or that of the file."""


@contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """Open a file; raises UnreadableAudio if the file cannot be opened, or if a later read fails."""
    with closing(_open(path)) as recording:
        yield recording


def read_segment(
    file: Recording, start_s: float, duration_s: float | None, dtype: str, longest_s: float = math.inf
) -> NDArray[Any]:
    """Read a segment of an open file as (frames, channels); a duration of None means up to the end.

    Raises UnreadableAudio if the file ends before the segment, or if the segment is longer than `longest_s`.
    """
    if not (0 <= start_s < math.inf and (duration_s is None or 0 < duration_s < math.inf)):
        raise UnreadableAudio("too-short", f"starts at {start_s} s and lasts {duration_s} s")
    if duration_s is not None and duration_s > longest_s:
        raise UnreadableAudio("too-long", f"{duration_s:.1f} s")
    return file.read(start_s, duration_s, longest_s, dtype)


def read(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> Samples:
    """Read a file, or a segment of it, as mono at 16 kHz; raises UnreadableAudio if that fails."""
    with opened(path) as file:
        return to_mono_16k(read_segment(file, start_s, duration_s, "float32"), file.samplerate)


def read_flac(path: Path, start_s: float, duration_s: float) -> tuple[bytes, int]:
    """Read a segment as the bytes of a FLAC file, mono at 16 kHz, and its number of samples.

    A whole file that has this form already is returned as it is. Raises UnreadableAudio if reading fails.
    """
    header = flac_header.read_header(path)
    if (
        start_s == 0
        and isinstance(header, flac_header.Header)
        and (header.sample_rate_hz, header.channels) == (SAMPLE_RATE_HZ, 1)
        and header.bits <= 16
        and header.num_samples == round(duration_s * SAMPLE_RATE_HZ)
    ):
        content = path.read_bytes()
        if not whole_file.holds_second_flac(content):
            return content, header.num_samples
    samples = read(path, start_s, duration_s)
    return encode_flac(samples), len(samples)


def _open(path: Path) -> "_SndfileRecording | FfmpegRecording":
    is_wav, num_frames = _inspect(path)
    if num_frames is not None:
        with suppress(soundfile.LibsndfileError):
            file = soundfile.SoundFile(path)
            if file.frames == num_frames:
                return _SndfileRecording(path, file)
            file.close()
    from pipeline.audio.ffmpeg import FfmpegRecording  # loads slowly, and most corpora do not need it

    return FfmpegRecording(path, length_is_checked=is_wav)


def _inspect(path: Path) -> tuple[bool, int | None]:
    """Return whether a file is WAV, and its number of frames if its header agrees with its end.

    Raises UnreadableAudio if the file is missing, is not a regular file, is empty, is a pointer of git-lfs, or is a WAV
    file that is cut or joined.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a named pipe would wait for its writer
    except ValueError:  # a zero byte in the name
        raise UnreadableAudio("no-file") from None
    except OSError as error:
        if error.errno in _NO_FILE:
            raise UnreadableAudio("no-file") from None
        raise UnreadableAudio("unreadable", os.strerror(error.errno or 0).lower()) from None
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableAudio("no-file")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableAudio("unreadable", "found a pipe or a device, expected a regular file")
        head = os.pread(file, len(_LFS_POINTER), 0)
        if not head:
            raise UnreadableAudio("empty-file")
        if head == _LFS_POINTER:
            raise UnreadableAudio("lfs-pointer")
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            return True, wav_header.num_frames(file, status.st_size)
        header = flac_header.parse_header(file, status.st_size)
        return False, header.num_samples if isinstance(header, flac_header.Header) else None
    except OSError as error:
        raise UnreadableAudio("unreadable", os.strerror(error.errno or 0).lower()) from None
    finally:
        os.close(file)


class _SndfileRecording:
    """A WAV or FLAC file whose number of frames was checked."""

    length_is_checked = True

    def __init__(self, path: Path, file: soundfile.SoundFile) -> None:
        self.path, self.file = path, file
        self.samplerate: int = file.samplerate
        self.channels: int = file.channels
        self.dtype = _DTYPES.get(file.subtype, "float32")
        self.length_s: float | None = file.frames / file.samplerate

    def close(self) -> None:
        self.file.close()

    def read(self, start_s: float, duration_s: float | None, longest_s: float, dtype: str) -> NDArray[Any]:
        start = round(start_s * self.samplerate)
        rest = max(self.file.frames - start, 0)
        wanted = rest if duration_s is None else round(duration_s * self.samplerate)
        if wanted > longest_s * self.samplerate:
            raise UnreadableAudio("too-long", f"{wanted / self.samplerate:.1f} s")
        if wanted > rest + ROUNDED_S * self.samplerate:
            raise UnreadableAudio("truncated", f"the file ends at {self.length_s:.2f} s")
        wanted = min(wanted, rest)
        if wanted == 0:
            raise UnreadableAudio("truncated", "no samples")
        try:
            if self.file.tell() != start:  # seeking in FLAC is slow
                self.file.seek(start)
            samples: NDArray[Any] = self.file.read(wanted, dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UnreadableAudio("unreadable", error.error_string.strip(" .")) from None
        if len(samples) < wanted:
            raise UnreadableAudio("truncated", "the file ends before the length in its header")
        if wanted == rest and self.file.format == "FLAC" and whole_file.has_second_flac(self.path):
            raise UnreadableAudio("more-audio", "several files one after another")
        return samples
