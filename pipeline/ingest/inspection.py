"""A look at the audio of utterances: at all of its samples, or at the header alone.

Both give length, rate, channels and a hash of the samples: their MD5 as FLAC's header holds it, so that a
recording has the same in WAV and FLAC, whether it was decoded or not.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import flac_header, recordings
from pipeline.audio.recordings import Recording, UnreadableAudio
from pipeline.tables.quarantine import Fault

MIN_DURATION_S, MAX_DURATION_S = 0.1, 60.0
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
SILENT_PEAK = 1e-3  # -60 dB of full scale
CLIPPED_SHARE = 0.01

# how samples are read that are hashed as they are stored; all others are read and hashed as float32
_STORED = {"PCM_16": "int16", "PCM_24": "int32"}


class Part(NamedTuple):
    """Where an utterance lies in its file; no duration means to the end."""

    start_s: float
    duration_s: float | None


class Look(NamedTuple):
    """What the audio of an utterance tells."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    content_hash: str | None


def examine(path: str | Path, parts: Sequence[Part]) -> list[Look | Fault]:
    """Decode the parts of a file, opened once, in the order given."""
    return _each(path, parts, _examine_part)


def glance(path: str | Path, parts: Sequence[Part]) -> list[Look | Fault]:
    """Look at the header of a file alone."""
    header = flac_header.read_header(path)
    if isinstance(header, Fault):
        return [header] * len(parts)
    if header is not None and parts == [Part(0.0, None)]:
        duration_s = header.num_samples / header.sample_rate_hz
        return [_checked(Look(duration_s, header.sample_rate_hz, header.channels, header.md5))]
    return _each(path, parts, _glance_part)


def _each(path: str | Path, parts: Sequence[Part], look: Any) -> list[Look | Fault]:
    try:
        with recordings.opened(Path(path)) as file:
            return list(_look_at_each(file, parts, look))
    except UnreadableAudio as error:
        return [error.fault] * len(parts)


def _look_at_each(file: Recording, parts: Sequence[Part], look: Any) -> Iterator[Look | Fault]:
    for part in parts:
        try:
            yield look(file, part)
        except UnreadableAudio as error:
            yield error.fault


def _glance_part(file: Recording, part: Part) -> Look | Fault:
    length_s = file.frames / file.samplerate
    if part.start_s < 0:
        return Fault("too-short", f"starts at {part.start_s} s")
    duration_s = length_s - part.start_s if part.duration_s is None else part.duration_s
    if part.start_s + duration_s > length_s + 0.1:  # times are published rounded
        return Fault("truncated", f"the file ends at {length_s:.2f} s")
    return _checked(Look(duration_s, file.samplerate, file.channels, None))


def _examine_part(file: Recording, part: Part) -> Look | Fault:
    stored = _STORED.get(file.subtype, "float32")
    samples = recordings.read_part(file, part.start_s, part.duration_s, stored)
    look = Look(len(samples) / file.samplerate, file.samplerate, file.channels, _hash(samples, stored))
    return _fault_of(samples, stored) or _checked(look)


def _fault_of(samples: NDArray[Any], stored: str) -> Fault | None:
    """Judge by the loudest sample, and by the share of those at full scale."""
    full = {"int16": 2**15 - 1, "int32": 2**31 - 2**8, "float32": 1.0}[stored]
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite(low + high):
        return Fault("not-finite")
    peak = max(-low, high) / full
    if peak < SILENT_PEAK:
        return Fault("silent", f"peak {20 * np.log10(peak):.0f} dB" if peak else "all zero")
    if peak >= 1 and (share := float(np.mean((samples >= full) | (samples <= -full)))) > CLIPPED_SHARE:
        return Fault("clipped", f"{100 * share:.1f} % of the samples")
    return None


def _checked(look: Look) -> Look | Fault:
    if not MIN_RATE_HZ <= look.sample_rate_hz <= MAX_RATE_HZ:
        return Fault("sample-rate", f"{look.sample_rate_hz} Hz")
    if look.duration_s < MIN_DURATION_S:
        return Fault("too-short", f"{look.duration_s:.3f} s")
    if look.duration_s > MAX_DURATION_S:
        return Fault("too-long", f"{look.duration_s:.1f} s")
    return look


def _hash(samples: NDArray[Any], stored: str) -> str:
    """Hash the samples in FLAC's order, little-endian and interleaved; libsndfile reads 24 bits into the top of 32."""
    little = samples.astype(samples.dtype.newbyteorder("<"), copy=False)
    if stored == "int32":
        little = (little >> 8).view(np.uint8).reshape(-1, 4)[:, :3]
    return hashlib.md5(np.ascontiguousarray(little).data).hexdigest()
