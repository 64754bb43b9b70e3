"""Audio for training and testing: mono at 16 kHz, stored as FLAC. soxr resamples it with quality HQ."""

import io
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
PCM16_STEPS = 32_768  # steps from zero to full scale

Samples = NDArray[np.float32]


def decode(flac_bytes: bytes) -> Samples:
    """Decode the audio bytes of a packed row to mono at 16 kHz."""
    return to_mono_16k(*soundfile.read(io.BytesIO(flac_bytes), dtype="float32", always_2d=True))


def encode_flac(samples: Samples) -> bytes:
    """Encode 16 kHz mono as 16-bit FLAC; equal samples give equal bytes, and 16-bit samples come back exactly."""
    # libsndfile would scale floats by 32767 when writing and by 32768 when reading
    pcm = np.clip(np.rint(samples * PCM16_STEPS), -PCM16_STEPS, PCM16_STEPS - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def mix(samples: NDArray[Any]) -> NDArray[Any]:
    """Mix samples of (frames, channels) to mono: their mean as float32, in the units of the samples.

    A single channel is returned as it is. Adding channels is 20 times as fast as numpy's mean over the short axis.
    """
    if samples.shape[1] == 1:
        return samples[:, 0]
    total = samples[:, 0].astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # a mix that is not finite is a reason of the quarantine
        for channel in samples.T[1:]:
            total += channel
    total /= samples.shape[1]
    return total


def to_mono_16k(samples: Samples, sample_rate_hz: int) -> Samples:
    """Mix samples of (frames, channels) to mono, and resample them to 16 kHz."""
    mono: Samples = mix(samples)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32, copy=False)
    return mono
