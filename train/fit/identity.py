"""The identity of a run: all inputs that affect its result, each under a name that a user knows.

A checkpoint is continued only by a run of the same identity. If there is none, the user is told what differs from the
checkpoints of other runs.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.weights.source import fetch, name_weights
from train.fit.params import FitParams, SemanticFitParams
from train.saved_model import ModelConfig

Identity = dict[str, Any]
"""name of an input -> its value, as JSON has it"""

_WITHOUT_EFFECT = {"workers", "log_every", "evaluate_every", "save_every", "keep_checkpoints", "stall"}  # on weights
_SHOWN = 5  # of the inputs that differ


def identify(settings: FitParams, config: ModelConfig, folders: Iterable[Path], dtype: torch.dtype) -> Identity:
    """Return the identity of a run that reads `folders`; it includes the training code and torch's version."""
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    uses_dev = settings.stop_after is not None or settings.keep == "best"
    values = {
        f"fit.{kind}": settings.model_dump(exclude=_WITHOUT_EFFECT - ({"evaluate_every"} if uses_dev else set())),
        "model": config.model_dump(),
        "weights of the encoder": name_weights(config.models.encoder, fetch(config.models.encoder)),
        "weights of the LLM": name_weights(config.models.llm, fetch(config.models.llm)),
        "precision of the LLM": str(dtype).removeprefix("torch."),
        "version of torch": torch.__version__,
    }
    code = Path(__file__).parents[1]
    files = {str(file): file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()}
    files |= {str(file.relative_to(code.parent)): file for file in sorted(code.rglob("*.py"))}
    values |= {f"file {name}": _digest(file) for name, file in files.items()}
    return json.loads(json.dumps(_flat(values), default=str))  # type: ignore[no-any-return]


def fingerprint(identity: Identity) -> str:
    """Return a short hash of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Identity, new: Identity) -> str:
    """Name the inputs that differ, with both values, or only the name of a file."""
    names = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    shown = [
        name if name.startswith("file ") else f"{name} {_shown(old, name)}, now {_shown(new, name)}"
        for name in names[:_SHOWN]
    ]
    return "; ".join(shown) + (f"; {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _shown(identity: Identity, name: str) -> str:
    return json.dumps(identity[name], ensure_ascii=False) if name in identity else "absent"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested mappings with dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _digest(file: Path) -> str:
    """Return the xxh3 hash of a file's content (about 4 GB/s)."""
    hasher = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            hasher.update(block)
    return hasher.hexdigest()
