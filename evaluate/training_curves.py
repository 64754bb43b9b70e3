"""The losses that fit logs in models/<kind>/losses.jsonl, one JSON object a line.

A training line has `step`, `lr`, `loss` and the parts of the loss; a line for the dev part has `step`
and the parts with `dev_` before their names.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from pipeline.params import Alignment
from pipeline.stage import UserError

ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)
TERMS = ("kl", "ce", "emotion")
"""Parts of a loss: response KL (stage 1), continuation cross-entropy and emotion cross-entropy (stage 2)."""

Curves = dict[str, list[float]]
"""`step` and what was measured there, equally long."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Curves on the train part (step, lr, loss, parts) and on the dev part (step, parts; may be empty)."""

    train: Curves
    dev: Curves


def read(models: Path, kind: str) -> Losses:
    """Read the losses of a training stage; raises UserError when the file is missing, malformed or empty."""
    path = models / kind / "losses.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; train.fit --kind {kind} has not run")
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        TypeAdapter(list[dict[str, float]]).validate_python(records)
    except (ValueError, ValidationError):
        raise UserError(f"{path}: expected one JSON object of numbers a line") from None
    steps = [record for record in records if "loss" in record]
    if not steps:
        raise UserError(f"{path}: no step with a loss; expected at least one")
    terms = [term for term in TERMS if term in steps[0]]
    dev = [
        {"step": record["step"]} | {term: record[f"dev_{term}"] for term in terms}
        for record in records
        if all(f"dev_{term}" in record for term in terms)
    ]
    try:
        return Losses(_columns(steps, ["step", "lr", "loss", *terms]), _columns(dev, ["step", *terms]))
    except KeyError as error:
        raise UserError(f"{path}: a step lacks {error}; expected step, lr, loss, {', '.join(terms)}") from None


def _columns(records: list[dict[str, float]], names: list[str]) -> Curves:
    return {name: [record[name] for record in records] for name in names}
