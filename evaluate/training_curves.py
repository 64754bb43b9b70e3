"""The losses that fit logs in models/<kind>/losses.jsonl, one JSON object per line.

A line of a training step has `step`, `lr`, `loss` and the terms of the loss. A line of the dev split has `step` and the
terms with the prefix `dev_`.
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
"""Terms of a loss: continuation KL (stage 1), continuation cross-entropy and emotion cross-entropy (stage 2)."""

Curves = dict[str, list[float]]
"""name -> values, one per logged step; `step` has the numbers of these steps."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Curves on the train split (step, lr, loss, terms) and on the dev split (step, terms; may be empty)."""

    train: Curves
    dev: Curves


def read(models: Path, kind: str) -> Losses:
    """Read the losses of a training stage; raises UserError if the file is missing, malformed or empty."""
    path = models / kind / "losses.jsonl"
    if not path.is_file():
        raise UserError(f"{path}: no such file; train.fit --kind {kind} has not run")
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        TypeAdapter(list[dict[str, float]]).validate_python(records)
    except (ValueError, ValidationError):
        raise UserError(f"{path}: expected one JSON object of numbers per line") from None
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
