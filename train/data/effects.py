"""The parameters of augmentation (fit.KIND.augment): effects with their probabilities and ranges, and the presets.

Each effect is drawn on its own, with its probability. An effect that is null is never applied.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pipeline.params import Section

NONE = "none"
PRESETS: dict[str, dict[str, Any] | None] = {
    NONE: None,
    "emotion-safe": {
        "speed": None,
        "room": {"probability": 0.3, "folder": None},
        "noise": {"probability": 0.5, "folder": None, "min_snr_db": 15.0, "max_snr_db": 30.0},
        "telephone": {"probability": 0.1},
        "gain": {"probability": 0.5, "min_db": -6.0, "max_db": 6.0},
        "polarity": {"probability": 0.5},
    },
}
PRESETS["with-speed"] = {
    **(PRESETS["emotion-safe"] or {}),
    "speed": {"probability": 1.0, "min_factor": 0.9, "max_factor": 1.1},
}
_WHY = "speed changes pitch and tempo, which carry the emotion"


class Effect(Section):
    """An effect without a range."""

    probability: Annotated[float, Field(ge=0, le=1)]


class GainParams(Effect):
    """Multiplies the samples; the gain in dB is uniform."""

    min_db: Annotated[float, Field(ge=-60, le=60)]
    max_db: Annotated[float, Field(ge=-60, le=60)]

    @field_validator("max_db")
    @classmethod
    def _check_range(cls, largest: float, known: ValidationInfo) -> float:
        return _at_least("min_db", largest, known)


class RoomParams(Effect):
    """Convolves the clip with the response of a room, and keeps its level."""

    folder: str | None
    """Folder of impulse responses (WAV or FLAC, also in folders below); null: exponentially decaying noise."""


class NoiseParams(Effect):
    """Adds background noise; the signal-to-noise ratio in dB is uniform."""

    folder: str | None
    """Folder of noises (WAV or FLAC, also in folders below); null: pink and brown noise."""
    min_snr_db: Annotated[float, Field(ge=-60, le=100)]
    max_snr_db: Annotated[float, Field(ge=-60, le=100)]

    @field_validator("max_snr_db")
    @classmethod
    def _check_range(cls, largest: float, known: ValidationInfo) -> float:
        return _at_least("min_snr_db", largest, known)


class SpeedParams(Effect):
    """Resamples the clip as if it were played at another speed, so pitch and tempo change; the factor is uniform."""

    min_factor: Annotated[float, Field(ge=0.5, le=2)]
    """Below 1: slower, lower and longer."""
    max_factor: Annotated[float, Field(ge=0.5, le=2)]

    @field_validator("max_factor")
    @classmethod
    def _check_range(cls, largest: float, known: ValidationInfo) -> float:
        return _at_least("min_factor", largest, known)


class AugmentParams(Section):
    """The effects on the clips of the train split, in the order in which they are applied."""

    speed: SpeedParams | None
    room: RoomParams | None
    noise: NoiseParams | None
    telephone: Effect | None
    """Band-pass of 300 to 3,400 Hz."""
    gain: GainParams | None
    polarity: Effect | None
    """Inverts the sign of all samples."""


class EmotionAugmentParams(AugmentParams):
    """The effects of stage 2."""

    allow_pitch_and_tempo: bool
    """Allow effects that change pitch or tempo: speed."""

    @field_validator("allow_pitch_and_tempo")
    @classmethod
    def _check_speed(cls, allowed: bool, known: ValidationInfo) -> bool:
        if known.data.get("speed") is not None and not allowed:
            raise ValueError(f"speed: null, because {_WHY}; true allows it")
        return allowed


def _at_least(name: str, largest: float, known: ValidationInfo) -> float:
    smallest = known.data.get(name)
    if smallest is not None and largest < smallest:
        raise ValueError(f"at least {name}, which is {smallest:g}")
    return largest


def _named(value: Any) -> Any:
    """Return the effects of a preset that is given by its name; other values are returned as they are."""
    if isinstance(value, dict | AugmentParams):
        return value
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    raise ValueError(f"{', '.join(PRESETS)} or effects")


def _named_for_emotion(value: Any) -> Any:
    """Return what `_named` does, without the preset that stage 2 must not use."""
    if value == "with-speed":
        raise ValueError(f"none, emotion-safe or effects, because {_WHY}")
    effects = _named(value)
    return {**effects, "allow_pitch_and_tempo": False} if isinstance(value, str) and effects is not None else effects


Augment = Annotated[AugmentParams | None, BeforeValidator(_named)]
"""The effects of stage 1, or the name of a preset; None without augmentation."""
EmotionAugment = Annotated[EmotionAugmentParams | None, BeforeValidator(_named_for_emotion)]
"""The effects of stage 2, or the name of a preset; None without augmentation."""
