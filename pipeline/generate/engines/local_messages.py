"""What the stage and its engines in other processes say to each other (local_engines.py, local_worker.py)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.generate.engines.shares import Share
from pipeline.generate.params import GenerateParams
from pipeline.weights.source import Weights

Numbered = tuple[int, Any]
"""A request, or a prompt and the answer to score, with its position."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the process needs to load the LLM."""

    params: GenerateParams
    llm: Weights
    model: Path
    share: Share


@dataclass(frozen=True, slots=True)
class Loaded:
    """The LLM is loaded."""

    name: str
    hardware: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot go on; the message is a line for the user."""

    message: str


@dataclass(frozen=True, slots=True)
class More:
    """The engine has room for prompts."""


@dataclass(frozen=True, slots=True)
class Done:
    """The engine has answered all its prompts."""


Task = Literal["generate", "score"]
