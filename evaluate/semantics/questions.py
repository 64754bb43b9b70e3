"""The instructions on the form of answers (instructions.yaml), and their questions, spoken by espeak-ng."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import soxr
import yaml
from pydantic import Field, TypeAdapter

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples
from pipeline.params import Section
from pipeline.synthesise.espeak import Voice, synthesiser

FILE = Path(__file__).with_name("instructions.yaml")
VOICE = Voice(name="en-us+f2", rate_wpm=130, pitch=50, pitch_range=50)
GAIN = np.float32(10 ** (-10 / 20))  # the level of plain synthetic speech in pipeline.synthesise


class Instruction(Section):
    """An instruction, the rule that checks it, and the questions."""

    name: str
    instruction: str
    rule: str
    """The name of a function in rules.py."""
    arguments: dict[str, object] = Field(default={})
    """Arguments of the rule, apart from the answer."""
    questions: Annotated[list[str], Field(min_length=1)]


def read_instructions() -> list[Instruction]:
    """Read all instructions, in the order of the file."""
    return TypeAdapter(list[Instruction]).validate_python(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def speak(instructions: Sequence[Instruction]) -> list[list[Samples]]:
    """Say the questions of each instruction; equal instructions in equal order give equal samples."""
    with synthesiser() as engine:
        return [
            [
                GAIN * soxr.resample(engine.say(text, VOICE), engine.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
                for text in each.questions
            ]
            for each in instructions
        ]
