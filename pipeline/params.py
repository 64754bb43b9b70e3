"""Sections of params.yaml, checked when a stage reads them.

A section is a frozen pydantic model without defaults. DVC sees only the values in the file, so it would not notice that
a default in the code has changed.
"""

import difflib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter, ValidationError

from pipeline.stage import UserError

# All sections of params.yaml; a stage reads its own section and the shared ones.
SECTIONS = (
    "models", "emotions", "prompts",
    "synthesise", "ingest", "split", "leaks", "sentences", "generate", "filter", "pack", "fit", "fit_prompt", "probe",
    "transcribe", "respond", "semantics", "judge", "score", "report", "processes",
)  # fmt: skip

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameter file.")]

Alignment = Literal["semantic", "emotion"]
"""The two training stages: stage 1 is semantic alignment, stage 2 is emotion alignment."""

Precision = Literal["float32", "bfloat16", "auto"]
"""The type in which an LLM is held and run; trained weights are always float32.

The comment or docstring of each such parameter says what auto means there.
"""


Processes = Literal["auto"] | int
"""The parameter `processes`: how many processes of this machine a stage uses. auto: one for each GPU."""


class Section(BaseModel):
    """A section of params.yaml: every key is required, and other keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


T = TypeVar("T")


def load(path: Path, name: str, model: type[T]) -> T:
    """Read the section `name`, such as "filter" or "prompts.emotion", as a `model`.

    Raises UserError; its message names the file, the parameter, what was found and what was expected.
    """
    value: Any = _read(path)
    for i, key in enumerate(name.split(".")):
        if not isinstance(value, dict) or key not in value:
            where = ".".join(name.split(".")[: i + 1])
            raise UserError(f"{path}: section {where} is missing")
        value = value[key]
    return check(str(path), name, value, model)


def find(path: Path, name: str, model: Any) -> Any:
    """Read a value as `load` does; None if the file does not have it.

    This is for checks that change no output: DVC does not need to know what they read.
    """
    value: Any = _read(path)
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return check(str(path), name, value, model)


def read_processes(path: Path) -> Processes:
    """Read the parameter `processes`; auto if the file does not have it."""
    wanted: Processes = find(path, "processes", Literal["auto"] | PositiveInt) or "auto"
    return wanted


def count_processes(wanted: Processes, num_gpus: int) -> int:
    """Return the number of processes; raises UserError on a machine with GPUs if there are fewer than processes."""
    if wanted == "auto":
        return max(1, num_gpus)
    if 0 < num_gpus < wanted:
        raise UserError(f"processes: found {wanted}, expected at most {num_gpus}, the number of GPUs")
    return wanted


def check(place: str, name: str, value: Any, model: type[T]) -> T:
    """Read a value as a `model`; raises UserError as `load` does, with `place` instead of the file."""
    try:
        return TypeAdapter(model).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{place}: {_describe(name, error, model)}") from None


def load_yaml(path: Path, loader: type[Any]) -> Any:
    """Load a YAML file; raises UserError if it is not valid YAML, or if a key is given twice in one place.

    PyYAML itself uses the last one of equal keys. A FileNotFoundError is left to the caller.
    """

    class UniqueKeys(loader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for value, count in Counter(key.value for key in keys).items():
                if count > 1:
                    last = [key.start_mark.line + 1 for key in keys if key.value == value][-1]
                    raise UserError(f"{path}: line {last}: {value}: found this key {count} times, expected it once")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_bytes(), UniqueKeys)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: too many brackets within another") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path, yaml.SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such parameter file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections, found {type(content).__name__}")
    for section in content:
        if section not in SECTIONS:
            raise UserError(f"{path}: {section}: unknown section{_closest(str(section), list(SECTIONS))}")
    return content


def _describe(name: str, error: ValidationError, model: object) -> str:
    mistakes = []
    for mistake in error.errors():
        where = ".".join([name, *(str(key) for key in mistake["loc"])])
        if mistake["type"] == "extra_forbidden":
            known = list(getattr(model, "model_fields", {})) if len(mistake["loc"]) == 1 else []
            mistakes.append(f"{where}: unknown parameter{_closest(str(mistake['loc'][-1]), known)}")
        elif mistake["type"] == "missing":
            mistakes.append(f"{where}: missing")
        else:
            expected = mistake["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            mistakes.append(f"{where}: expected {expected}, found {mistake['input']!r}")
    return "; ".join(mistakes)


def _closest(word: str, known: list[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {match[0]}?" if match else (f"; expected one of {', '.join(known)}" if known else "")
