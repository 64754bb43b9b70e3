"""Background noises and impulse responses of rooms: from folders, or synthesised.

Numbers of [0, 1) choose the sound, so a sound is a pure function of them. A synthesised sound is a cut of noise that
each process makes once, from a fixed seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.audio import recordings
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples, to_mono_16k
from pipeline.audio.recordings import UnreadableAudio
from pipeline.audio.speech_tokens import MAX_DURATION_S
from pipeline.stage import UserError

Draw = Callable[[str], float]
"""Returns the number of [0, 1) of this name."""

SUFFIXES = {".wav", ".flac"}
COLOURS = {"pink": 1.0, "brown": 2.0}  # power falls with frequency to this power
LOWEST_HZ = 60.0  # below, brown noise has most of its power, and speech has none
RT60_S = (0.2, 0.6)  # time in which a room's response falls by 60 dB: from a living room to a large office
DIRECT_DB = (0.0, 12.0)  # energy of the direct sound over that of the reverberation


class Noises(Protocol):
    """A source of background noises."""

    def choose(self, draw: Draw) -> tuple[str, float]:
        """Return the name of a noise, and the share of it at which to start."""

    def read(self, name: str, start: float, num_samples: int) -> Samples:
        """Return a cut of a noise; a shorter noise is repeated."""


@dataclass(frozen=True, slots=True)
class Response:
    """An impulse response; its first sample is the direct sound."""

    name: str
    samples: Samples


class Responses(Protocol):
    """A source of impulse responses."""

    def choose(self, draw: Draw) -> Response:
        """Return a response."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The WAV and FLAC files of a folder and of those below it, with their lengths."""

    files: tuple[Path, ...]
    lengths_s: tuple[float, ...]

    @staticmethod
    def open(name: str, path: Path) -> "Folder":
        """Read the headers of all files; raises UserError for the parameter `name` if one is damaged, or if none is."""
        if not path.is_dir():
            raise UserError(f"{name}: {path}: found no such folder, expected one with WAV or FLAC files")
        files = tuple(sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES))
        if not files:
            raise UserError(f"{name}: {path}: found no WAV or FLAC file, expected at least one")
        return Folder(files, tuple(_length_s(name, file) for file in files))

    def choose(self, number: float) -> int:
        """Return the number of a file."""
        return int(number * len(self.files))


@dataclass(frozen=True, slots=True)
class NoiseFolder:
    """Noises of a folder."""

    folder: Folder

    def choose(self, draw: Draw) -> tuple[str, float]:
        """Return the file of a noise, and the share of the possible starts."""
        return str(self.folder.files[self.folder.choose(draw("noise file"))]), draw("noise start")

    def read(self, name: str, start: float, num_samples: int) -> Samples:
        """Return a cut of a file as long as the clip; a shorter file is repeated.

        Raises UserError if the file is damaged.
        """
        file, duration_s = Path(name), num_samples / SAMPLE_RATE_HZ
        length_s = self.folder.lengths_s[self.folder.files.index(file)]
        if length_s <= duration_s:
            return np.resize(_read(file, 0.0, None), num_samples)
        return np.resize(_read(file, start * (length_s - duration_s), duration_s), num_samples)


class ColouredNoises:
    """Pink and brown noise, synthesised."""

    def choose(self, draw: Draw) -> tuple[str, float]:
        """Return the colour, and the share of the noise at which to start."""
        return list(COLOURS)[int(draw("noise file") * len(COLOURS))], draw("noise start")

    def read(self, name: str, start: float, num_samples: int) -> Samples:
        """Return a cut of the noise; it is periodic, so it goes on at its beginning without a step."""
        noise = _coloured(COLOURS[name])
        return np.take(noise, np.arange(num_samples) + int(start * len(noise)), mode="wrap")


@dataclass(frozen=True, slots=True)
class ResponseFolder:
    """Impulse responses of a folder."""

    folder: Folder

    def choose(self, draw: Draw) -> Response:
        """Return the response of a file from its highest peak on, so that the clip is not delayed.

        Raises UserError if the file is damaged or silent.
        """
        file = self.folder.files[self.folder.choose(draw("response file"))]
        samples = _read(file, 0.0, None)
        if not samples.any():
            raise UserError(f"{file}: found silence, expected an impulse response")
        return Response(str(file), samples[np.abs(samples).argmax() :])


class DecayingNoises:
    """Rooms whose reverberation is exponentially decaying noise."""

    def choose(self, draw: Draw) -> Response:
        """Return a response: the direct sound, and noise that falls by 60 dB in the reverberation time."""
        rt60_s = RT60_S[0] + draw("rt60") * (RT60_S[1] - RT60_S[0])
        direct_db = DIRECT_DB[0] + draw("direct") * (DIRECT_DB[1] - DIRECT_DB[0])
        noise, num_samples = _white(), int(rt60_s * SAMPLE_RATE_HZ)
        start = int(draw("response start") * (len(noise) - num_samples))
        decay = 10 ** (-3 * np.arange(num_samples, dtype=np.float32) / num_samples)
        tail = noise[start : start + num_samples] * decay
        tail *= 10 ** (-direct_db / 20) / np.sqrt(np.square(tail).sum())
        name = f"RT60 {rt60_s:.2f} s, direct sound {direct_db:.1f} dB over the reverberation"
        return Response(name, np.concatenate([np.ones(1, np.float32), tail]))


@cache
def _white() -> Samples:
    """Return 30 s of white noise, the same in each process."""
    generator = np.random.Generator(np.random.PCG64(1))
    return generator.standard_normal(MAX_DURATION_S * SAMPLE_RATE_HZ, dtype=np.float32)


@cache
def _coloured(exponent: float) -> Samples:
    """Return 30 s of noise without frequencies below LOWEST_HZ; the end fits to the beginning."""
    noise = _white()
    frequencies_hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE_HZ)
    weights = np.zeros(len(frequencies_hz), np.float32)
    kept = frequencies_hz >= LOWEST_HZ
    weights[kept] = frequencies_hz[kept] ** (-exponent / 2)
    coloured = np.fft.irfft(np.fft.rfft(noise) * weights, len(noise)).astype(np.float32)
    return coloured / np.sqrt(np.square(coloured).mean())  # type: ignore[no-any-return]


def _length_s(name: str, file: Path) -> float:
    try:
        with recordings.opened(file) as recording:
            length_s = recording.length_s
    except UnreadableAudio as error:
        raise UserError(f"{name}: {file}: found no usable audio ({error}), expected a WAV or FLAC file") from None
    if not length_s:
        raise UserError(f"{name}: {file}: found no length in its header, expected a WAV or FLAC file")
    return length_s


def _read(file: Path, start_s: float, duration_s: float | None) -> Samples:
    try:
        with recordings.opened(file) as recording:
            samples = recordings.read_segment(recording, start_s, duration_s, "float32")
            mono = to_mono_16k(samples, recording.samplerate)
    except UnreadableAudio as error:
        raise UserError(f"{file}: found no usable audio ({error}), expected a WAV or FLAC file") from None
    if not len(mono) or not np.isfinite(mono).all():
        raise UserError(f"{file}: found no samples or infinite ones, expected audio")
    return mono
