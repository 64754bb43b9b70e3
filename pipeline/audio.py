"""Audio in and out: any file that libsndfile reads becomes mono at 16 kHz, in training and in testing alike.

Resampling is soxr's HQ. A clip's content hash is taken over its samples as float32 before any mixing or
resampling: 16- and 24-bit samples are exact in float32, so WAV and FLAC of the same recording agree.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import xxhash
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
PCM16_STEPS = 32_768  # of full scale, on either side of zero

Samples = NDArray[np.float32]

# libsndfile's frame count for a file whose header does not tell its length
_UNKNOWN_LENGTH = 2**62
_LFS_POINTER = b"version https://git-lfs"


class UnreadableAudio(Exception):  # noqa: N818 - it names the clip's state
    """A clip without usable samples; the message is the reason alone, so that equal faults count together."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at all samples of a clip tells."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    content_hash: str
    peak: float
    """Largest absolute sample, of full scale 1."""


def read(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> Samples:
    """Read a clip, or a part of it, as mono at 16 kHz; raises UnreadableAudio."""
    return _to_mono_16k(*_decode(path, start_s, duration_s))


def probe(path: Path, start_s: float = 0.0, duration_s: float | None = None) -> Probe:
    """Decode a clip as published and describe it; raises UnreadableAudio."""
    samples, sample_rate_hz = _decode(path, start_s, duration_s)
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise UnreadableAudio("samples are not finite")
    return Probe(
        duration_s=len(samples) / sample_rate_hz,
        sample_rate_hz=sample_rate_hz,
        channels=samples.shape[1],
        content_hash=xxhash.xxh3_128_hexdigest(samples.astype("<f4").tobytes()),
        peak=peak,
    )


def decode(flac_bytes: bytes) -> Samples:
    """Read the audio bytes of a packed row as mono at 16 kHz."""
    return _to_mono_16k(*soundfile.read(io.BytesIO(flac_bytes), dtype="float32", always_2d=True))


def encode_flac(samples: Samples) -> bytes:
    """Encode 16 kHz mono as 16-bit FLAC; equal samples give equal bytes, and 16-bit samples come back exactly."""
    # libsndfile would scale floats by 32767 when writing and by 32768 when reading
    pcm = np.clip(np.rint(samples * PCM16_STEPS), -PCM16_STEPS, PCM16_STEPS - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _decode(path: Path, start_s: float, duration_s: float | None) -> tuple[Samples, int]:
    """Decode to (frames, channels) at the file's own rate."""
    if not path.is_file():
        raise UnreadableAudio("file is missing")
    if path.stat().st_size == 0:
        raise UnreadableAudio("file is empty")
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames >= _UNKNOWN_LENGTH:
                raise UnreadableAudio("header tells no length")
            start = round(start_s * file.samplerate)
            rest = max(file.frames - start, 0)
            wanted = rest if duration_s is None else min(round(duration_s * file.samplerate), rest)
            if wanted == 0:
                raise UnreadableAudio("no samples")
            file.seek(start)
            samples: Samples = file.read(wanted, dtype="float32", always_2d=True)
            sample_rate_hz = int(file.samplerate)
    except soundfile.LibsndfileError as error:
        with path.open("rb") as head:
            is_pointer = head.read(len(_LFS_POINTER)) == _LFS_POINTER
        reason = "git-lfs pointer, not audio" if is_pointer else f"not readable: {error.error_string.strip(' .')}"
        raise UnreadableAudio(reason) from None
    if len(samples) < wanted:
        raise UnreadableAudio("ends before the length in its header")
    return samples, sample_rate_hz


def _to_mono_16k(samples: Samples, sample_rate_hz: int) -> Samples:
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32, copy=False)
    return mono
