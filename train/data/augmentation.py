"""Change the clips of the train split: other speed, room, noise, telephone band, gain and polarity.

What a clip gets is drawn from (seed, epoch, id of the row) alone (train/data/draws.py). audiomentations draws from the
global generators and keeps its draw in the transform. So each call here makes its own transform, and freezes it with
the drawn parameters: threads do not meet, and no global generator moves.

Room and noise are not those of audiomentations. Its impulse response sets the peak to 0.5, its coloured noise uses the
global generator even when frozen, and its background noise leaves out silent noises with no more than a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples
from train.data.draws import hash_id, uniform
from train.data.effects import AugmentParams
from train.data.sounds import (
    ColouredNoises,
    DecayingNoises,
    Folder,
    NoiseFolder,
    Noises,
    Response,
    ResponseFolder,
    Responses,
)
from train.data.speed import Speeds, resample

if TYPE_CHECKING:
    from audiomentations.core.transforms_interface import BaseWaveformTransform

TELEPHONE_HZ = (300.0, 3400.0)
TELEPHONE_DB_PER_OCTAVE = 48


class Drawn(Protocol):
    """An effect with its drawn values; str() describes it, and a call applies it."""

    @property
    def name(self) -> str:
        """Return the effect's key in the parameters."""

    def __call__(self, samples: Samples) -> Samples:
        """Return the changed samples; the given ones stay as they are."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Resamples a clip to another length."""

    length: int
    factor: float
    name: str = "speed"

    def __call__(self, samples: Samples) -> Samples:
        """Return the clip with its new number of samples."""
        return resample(samples, self.length)

    def __str__(self) -> str:
        return f"{self.factor:.3f}, which makes it {self.length / SAMPLE_RATE_HZ:.2f} s long"


@dataclass(frozen=True, slots=True)
class Room:
    """Adds the reverberation of a room."""

    response: Response
    name: str = "room"

    def __call__(self, samples: Samples) -> Samples:
        """Return the clip with reverberation, at its own length and level (RMS)."""
        from scipy.signal import oaconvolve

        changed: Samples = oaconvolve(samples, self.response.samples)[: len(samples)].astype(np.float32)
        level = _rms(changed)
        return changed * np.float32(_rms(samples) / level) if level else changed

    def __str__(self) -> str:
        return self.response.name


@dataclass(frozen=True, slots=True)
class Noise:
    """Adds background noise."""

    noises: Noises
    sound: str
    start: float
    snr_db: float
    name: str = "noise"

    def __call__(self, samples: Samples) -> Samples:
        """Return the clip with noise; a silent cut of a noise adds nothing."""
        noise = self.noises.read(self.sound, self.start, len(samples))
        level = _rms(noise)
        return samples + noise * np.float32(_rms(samples) / level * 10 ** (-self.snr_db / 20)) if level else samples

    def __str__(self) -> str:
        return f"{self.sound}, {self.snr_db:.1f} dB below the speech"


@dataclass(frozen=True, slots=True)
class Telephone:
    """Keeps the band of a telephone."""

    name: str = "telephone"

    def __call__(self, samples: Samples) -> Samples:
        """Return the band of 300 to 3,400 Hz."""
        from audiomentations import BandPassFilter

        low, high = TELEPHONE_HZ
        band = {"center_freq": (low + high) / 2, "bandwidth": high - low, "rolloff": TELEPHONE_DB_PER_OCTAVE}
        return _apply(BandPassFilter(p=1.0), samples, band)

    def __str__(self) -> str:
        return "band of {:,.0f} to {:,.0f} Hz".format(*TELEPHONE_HZ)


@dataclass(frozen=True, slots=True)
class Gain:
    """Makes a clip louder or quieter."""

    db: float
    name: str = "gain"

    def __call__(self, samples: Samples) -> Samples:
        """Return the scaled samples."""
        import audiomentations

        return _apply(audiomentations.Gain(p=1.0), samples, {"amplitude_ratio": 10 ** (self.db / 20)})

    def __str__(self) -> str:
        return f"{self.db:+.1f} dB"


@dataclass(frozen=True, slots=True)
class Polarity:
    """Inverts the sign."""

    name: str = "polarity"

    def __call__(self, samples: Samples) -> Samples:
        """Return the inverted samples."""
        from audiomentations import PolarityInversion

        return _apply(PolarityInversion(p=1.0), samples, {})

    def __str__(self) -> str:
        return "inverted"


class Augmentation:
    """Draws and applies the effects of a run."""

    def __init__(self, params: AugmentParams, seed: int, speeds: Speeds | None) -> None:
        """Open the folders of sounds; raises UserError if one cannot be used. `speeds` is None without speed."""
        import audiomentations  # noqa: F401 - takes a second, which workers need not spend again

        self.params, self.seed, self.speeds = params, seed, speeds
        noise, room = params.noise, params.room
        self.noises: Noises = ColouredNoises()
        if noise is not None and noise.folder is not None:
            self.noises = NoiseFolder(Folder.open("fit.*.augment.noise.folder", Path(noise.folder)))
        self.responses: Responses = DecayingNoises()
        if room is not None and room.folder is not None:
            self.responses = ResponseFolder(Folder.open("fit.*.augment.room.folder", Path(room.folder)))

    def __call__(self, row: int, row_id: str, samples: Samples, epoch: int) -> Samples:
        """Return the samples of a row as it is read in an epoch."""
        return apply(self.draw(row, row_id, len(samples), epoch), samples)

    def draw(self, row: int, row_id: str, num_samples: int, epoch: int) -> list[Drawn]:
        """Return the effects of a row in an epoch, in the order in which they are applied."""
        params, hashed = self.params, hash_id(row_id)

        def draw(name: str) -> float:
            return float(uniform(hashed, self.seed, epoch, name)[0])

        drawn: list[Drawn] = []
        if self.speeds is not None and (length := self.speeds.length(row, epoch)) != num_samples:
            drawn.append(Speed(length, num_samples / length))
        if params.room is not None and draw("room") < params.room.probability:
            drawn.append(Room(self.responses.choose(draw)))
        if params.noise is not None and draw("noise") < params.noise.probability:
            snr_db = _between(params.noise.min_snr_db, params.noise.max_snr_db, draw("snr"))
            drawn.append(Noise(self.noises, *self.noises.choose(draw), snr_db))
        if params.telephone is not None and draw("telephone") < params.telephone.probability:
            drawn.append(Telephone())
        if params.gain is not None and draw("gain") < params.gain.probability:
            drawn.append(Gain(_between(params.gain.min_db, params.gain.max_db, draw("db"))))
        if params.polarity is not None and draw("polarity") < params.polarity.probability:
            drawn.append(Polarity())
        return drawn


def apply(drawn: Sequence[Drawn], samples: Samples) -> Samples:
    """Apply effects in their order; the level of the whole clip is lowered if a sample would be over full scale."""
    changed = unlimited(drawn, samples)
    over_db = excess_db(changed)
    return changed * np.float32(10 ** (-over_db / 20)) if over_db > 0 else changed


def unlimited(drawn: Sequence[Drawn], samples: Samples) -> Samples:
    """Apply effects in their order; samples may be over full scale."""
    for effect in drawn:
        samples = effect(samples)
    return samples


def excess_db(samples: Samples) -> float:
    """Return by how much the peak is over full scale; negative if it is below."""
    peak = float(np.abs(samples).max(initial=0.0))
    return 20 * float(np.log10(peak)) if peak else -np.inf


def _apply(transform: "BaseWaveformTransform", samples: Samples, parameters: dict[str, Any]) -> Samples:
    """Apply a transform of audiomentations with these parameters, without a draw."""
    transform.parameters = {"should_apply": True, **parameters}
    transform.freeze_parameters()
    changed: Samples = transform(samples, SAMPLE_RATE_HZ)
    return changed


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
