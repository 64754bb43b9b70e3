"""Inspect the audio of utterances: all samples, or only the header of the file.

Both return length, sample rate and channels. The content hash is the MD5 of the samples as FLAC's header contains
it, so a recording has the same hash in WAV and in FLAC. The header of another format has no hash.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.audio import flac_header, mono_16k, recordings
from pipeline.audio.recordings import Recording
from pipeline.audio.unreadable import ROUNDED_S, UnreadableAudio
from pipeline.tables.quarantine import Fault

MIN_DURATION_S, MAX_DURATION_S = 0.1, 60.0
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
SILENT_PEAK = 1e-3  # -60 dB of full scale
CLIPPED_SHARE = 0.01

# by the type of stored samples; libsndfile puts 24 bits into the upper bits of 32
_FULL_SCALE = {"int16": 2**15 - 1, "int32": 2**31 - 2**8, "float32": 1.0}


class Segment(NamedTuple):
    """Position of an utterance in its file; a duration of None means up to the end."""

    start_s: float
    duration_s: float | None


class AudioFacts(NamedTuple):
    """Facts about the audio of an utterance."""

    duration_s: float
    sample_rate_hz: int
    channels: int
    content_hash: str | None


def inspect_samples(path: str | Path, segments: Sequence[Segment]) -> list[AudioFacts | Fault]:
    """Decode the segments of a file, in the order given; the file is opened once."""
    return _each(path, segments, _inspect_segment_samples)


def inspect_header(path: str | Path, segments: Sequence[Segment]) -> list[AudioFacts | Fault]:
    """Inspect the segments of a file by its header only; a file whose header cannot be checked is decoded."""
    header = flac_header.read_header(path)
    if isinstance(header, Fault):
        return [header] * len(segments)
    if header is not None and segments == [Segment(0.0, None)]:
        duration_s = header.num_samples / header.sample_rate_hz
        return [_checked(AudioFacts(duration_s, header.sample_rate_hz, header.channels, header.md5))]
    return _each(path, segments, _inspect_segment_header)


def _each(path: str | Path, segments: Sequence[Segment], inspect: Any) -> list[AudioFacts | Fault]:
    try:
        with recordings.opened(Path(path)) as file:
            return list(_inspect_each(file, segments, inspect))
    except UnreadableAudio as error:
        return [error.fault] * len(segments)


def _inspect_each(file: Recording, segments: Sequence[Segment], inspect: Any) -> Iterator[AudioFacts | Fault]:
    for segment in segments:
        try:
            yield inspect(file, segment)
        except UnreadableAudio as error:
            yield error.fault


def _inspect_segment_header(file: Recording, segment: Segment) -> AudioFacts | Fault:
    if file.length_s is None or (segment.duration_s is None and not file.length_is_checked):
        return _inspect_segment_samples(file, segment)
    length_s = file.length_s
    if segment.start_s < 0:
        return Fault("too-short", f"starts at {segment.start_s} s")
    duration_s = length_s - segment.start_s if segment.duration_s is None else segment.duration_s
    if segment.start_s + duration_s > length_s + ROUNDED_S:
        return Fault("truncated", f"the file ends at {length_s:.2f} s")
    return _checked(AudioFacts(duration_s, file.samplerate, file.channels, None))


def _inspect_segment_samples(file: Recording, segment: Segment) -> AudioFacts | Fault:
    samples = recordings.read_segment(file, segment.start_s, segment.duration_s, file.dtype, MAX_DURATION_S)
    facts = AudioFacts(len(samples) / file.samplerate, file.samplerate, file.channels, _hash(samples))
    checked = _checked(facts)
    if isinstance(checked, Fault):
        return checked
    return _fault_of(mono_16k.mix(samples), _FULL_SCALE[file.dtype]) or checked


def _fault_of(mono: NDArray[Any], full: float) -> Fault | None:
    """Return a fault if the mix that training uses is not finite, silent, constant or clipped; `full` is full scale."""
    low, high = float(mono.min()), float(mono.max())
    if not np.isfinite(low + high):
        return Fault("not-finite")
    peak, swing = max(-low, high) / full, (high - low) / full
    if peak < SILENT_PEAK:
        return Fault("silent", f"peak {20 * np.log10(peak):.0f} dB" if peak else "all zero")
    if swing < SILENT_PEAK:
        return Fault("silent", f"constant at {high / full:.3f} of full scale")
    if peak >= 1 and (share := float(np.mean((mono >= full) | (mono <= -full)))) > CLIPPED_SHARE:
        return Fault("clipped", f"{100 * share:.1f} % of the samples")
    return None


def _checked(facts: AudioFacts) -> AudioFacts | Fault:
    if not MIN_RATE_HZ <= facts.sample_rate_hz <= MAX_RATE_HZ:
        return Fault("sample-rate", f"{facts.sample_rate_hz} Hz")
    if facts.duration_s < MIN_DURATION_S:
        return Fault("too-short", f"{facts.duration_s:.3f} s")
    if facts.duration_s > MAX_DURATION_S:
        return Fault("too-long", f"{facts.duration_s:.1f} s")
    return facts


def _hash(samples: NDArray[Any]) -> str:
    """Hash the samples as FLAC does: little-endian and interleaved."""
    little = samples.astype(samples.dtype.newbyteorder("<"), copy=False)
    if samples.dtype == np.int32:  # libsndfile puts 24 bits into the upper bits of 32
        little = (little >> 8).view(np.uint8).reshape(-1, 4)[:, :3]
    return hashlib.md5(np.ascontiguousarray(little).data).hexdigest()
