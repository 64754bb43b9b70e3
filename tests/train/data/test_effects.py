"""The parameters of augmentation: presets, ranges, and what stage 2 must not do."""

from typing import Any

import pytest

from pipeline import params
from pipeline.stage import UserError
from tests.builders import emotion_fit_section, semantic_fit_section
from train.data.effects import PRESETS
from train.fit.params import EmotionFitParams, SemanticFitParams

OFF = dict.fromkeys(("room", "noise", "telephone", "gain", "polarity", "speed"))
SPEED = {"probability": 1.0, "min_factor": 0.9, "max_factor": 1.1}


def semantic(augment: Any) -> SemanticFitParams:
    return params.check("params.yaml", "fit.semantic", semantic_fit_section(augment=augment), SemanticFitParams)


def emotion(augment: Any) -> EmotionFitParams:
    return params.check("params.yaml", "fit.emotion", emotion_fit_section(augment=augment), EmotionFitParams)


def test_a_preset_is_the_effects_of_its_table() -> None:
    assert semantic("none").augment is None
    assert emotion("none").augment is None
    for name in ("emotion-safe", "with-speed"):
        augment = semantic(name).augment
        assert augment is not None
        assert augment.model_dump() == PRESETS[name]
    safe = emotion("emotion-safe").augment
    assert safe is not None
    assert safe.model_dump() == {**(PRESETS["emotion-safe"] or {}), "allow_pitch_and_tempo": False}


def test_no_effect_of_the_emotion_safe_preset_changes_a_length() -> None:
    assert PRESETS["emotion-safe"] is not None
    assert PRESETS["emotion-safe"]["speed"] is None


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (None, r"fit\.semantic\.augment: expected none, emotion-safe, with-speed or effects, found None$"),
        ("loud", r"fit\.semantic\.augment: expected none, emotion-safe, with-speed or effects, found 'loud'$"),
        ({**OFF, "echo": None}, r"fit\.semantic\.augment\.echo: unknown parameter"),
        ({**OFF, "polarity": {"probability": 1.5}}, r"augment\.polarity\.probability: expected .+ 1, found 1\.5$"),
        (
            {**OFF, "noise": {"probability": 1.0, "folder": None, "min_snr_db": 30.0, "max_snr_db": 15.0}},
            r"augment\.noise\.max_snr_db: expected at least min_snr_db, which is 30, found 15\.0$",
        ),
        (
            {**OFF, "gain": {"probability": 1.0, "min_db": 3.0, "max_db": -3.0}},
            r"augment\.gain\.max_db: expected at least min_db, which is 3, found -3\.0$",
        ),
        (
            {**OFF, "speed": {"probability": 1.0, "min_factor": 1.1, "max_factor": 0.9}},
            r"augment\.speed\.max_factor: expected at least min_factor, which is 1\.1, found 0\.9$",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(augment: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        semantic(augment)


def test_stage_2_refuses_a_change_of_pitch_and_tempo_unless_it_is_allowed() -> None:
    reason = "because speed changes pitch and tempo, which carry the emotion"
    with pytest.raises(UserError, match=rf"fit\.emotion\.augment: expected none, .+, {reason}, found 'with-speed'$"):
        emotion("with-speed")
    effects = {**OFF, "speed": SPEED}
    message = rf"augment\.allow_pitch_and_tempo: expected speed: null, {reason}; true allows it, found False$"
    with pytest.raises(UserError, match=message):
        emotion({**effects, "allow_pitch_and_tempo": False})
    allowed = emotion({**effects, "allow_pitch_and_tempo": True}).augment
    assert allowed is not None
    assert allowed.speed is not None
