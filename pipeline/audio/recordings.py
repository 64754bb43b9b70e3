"""Read published audio files, or segments of them, in all formats of libsndfile and FFmpeg.

libsndfile reads WAV, FLAC, MP3, Ogg and Opus. Other formats, such as the MP4 and M4A of MELD and MEAD, are decoded by
PyAV, which includes FFmpeg.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio import wav_header
from pipeline.audio.mono_16k import Samples, to_mono_16k
from pipeline.tables.quarantine import Fault

# libsndfile's frame count for a file whose header does not contain its length
_UNKNOWN_LENGTH = 2**62
_LFS_POINTER = b"version https://git-lfs"
_FFMPEG_SUFFIXES = {".mp4", ".m4a", ".mkv", ".mov", ".avi", ".webm", ".aac", ".wma"}


class UnreadableAudio(Exception):  # noqa: N818 - it names the clip's state
    """A clip without usable samples."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.reason}: {fault.detail}" if fault.detail else fault.reason)
        self.fault = fault


class Recording(Protocol):
    """An open audio file; libsndfile's SoundFile is one."""

    samplerate: int
    channels: int
    frames: int
    subtype: str

    def tell(self) -> int:
        """Return the frame that is read next."""

    def seek(self, frames: int) -> int:
        """Go to a frame."""

    def read(self, frames: int, dtype: str, always_2d: bool) -> NDArray[Any]:
        """Read up to `frames` frames as an array of (frames, channels)."""


@contextmanager
def opened(path: Path) -> Iterator[Recording]:
    """Open a file; raises UnreadableAudio if the file cannot be opened, or if a later read fails."""
    try:
        if path.suffix.lower() in _FFMPEG_SUFFIXES:
            yield _FfmpegRecording(path)
        else:
            with soundfile.SoundFile(path) as file:
                if file.frames >= _UNKNOWN_LENGTH:
                    raise UnreadableAudio(Fault("unreadable", "the header contains no length"))
                if path.suffix.lower() == ".wav" and wav_header.is_cut(path):
                    raise UnreadableAudio(Fault("truncated", "the file ends before the length in its header"))
                yield file
    except soundfile.LibsndfileError as error:
        raise UnreadableAudio(_describe(path, error.error_string.strip(" ."))) from None


def read_segment(file: Recording, start_s: float, duration_s: float | None, dtype: str) -> NDArray[Any]:
    """Read a segment of an open file as (frames, channels); raises UnreadableAudio if the file ends before it."""
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise UnreadableAudio(Fault("too-short", f"starts at {start_s} s and lasts {duration_s} s"))
    start = round(start_s * file.samplerate)
    rest = max(file.frames - start, 0)
    wanted = rest if duration_s is None else round(duration_s * file.samplerate)
    if wanted > rest + file.samplerate // 10:  # published times are rounded
        raise UnreadableAudio(Fault("truncated", f"the file ends at {file.frames / file.samplerate:.2f} s"))
    wanted = min(wanted, rest)
    if wanted == 0:
        raise UnreadableAudio(Fault("truncated", "no samples"))
    try:
        if file.tell() != start:  # seeking in FLAC is slow
            file.seek(start)
        samples = file.read(wanted, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UnreadableAudio(Fault("unreadable", error.error_string.strip(" ."))) from None
    if len(samples) < wanted:
        raise UnreadableAudio(Fault("truncated", "the file ends before the length in its header"))
    return samples


def read(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> Samples:
    """Read a file, or a segment of it, as mono at 16 kHz; raises UnreadableAudio if that fails."""
    with opened(path) as file:
        return to_mono_16k(read_segment(file, start_s, duration_s, "float32"), file.samplerate)


class _FfmpegRecording:
    """The first audio stream of a file, decoded as a whole: such files are seldom long, and FFmpeg seeks inexactly."""

    subtype = "FLOAT"

    def __init__(self, path: Path) -> None:
        import av

        try:
            with av.open(str(path)) as container:
                if not container.streams.audio:
                    raise UnreadableAudio(Fault("unreadable", "no audio stream"))
                resampler = av.AudioResampler(format="fltp")  # same rate and channels, one sample format
                frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
                frames += resampler.resample(None)
        except (av.FFmpegError, FileNotFoundError) as error:
            raise UnreadableAudio(_describe(path, (error.strerror or "not decodable").lower())) from None
        if not frames:
            raise UnreadableAudio(Fault("truncated", "no samples"))
        self.samplerate = int(frames[0].sample_rate)
        self.samples: Samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T
        self.frames, self.channels = self.samples.shape
        self.position = 0

    def tell(self) -> int:
        return self.position

    def seek(self, frames: int) -> int:
        self.position = frames
        return frames

    def read(self, frames: int, dtype: str, always_2d: bool) -> NDArray[Any]:
        assert dtype == "float32"
        assert always_2d
        self.position += frames
        return self.samples[self.position - frames : self.position]


def _describe(path: Path, error: str) -> Fault:
    """Return why a file did not open. Only failed files are examined: a check beforehand would slow down all others."""
    if not path.is_file():
        return Fault("no-file")
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as denied:
        return Fault("unreadable", (denied.strerror or error).lower())
    if not head:
        return Fault("empty-file")
    return Fault("lfs-pointer") if head == _LFS_POINTER else Fault("unreadable", error)
