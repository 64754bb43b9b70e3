"""The identity of a run: all inputs that affect its result, each under a name that a user knows.

A checkpoint is continued only by a run of the same identity. If there is none, the user is told what differs from the
checkpoints of other runs. The shards of packed data are not read for it: packing has stored their hashes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate.utils import broadcast_object_list

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import fetch, name_weights
from train.data.told_shell import ToldShell
from train.fit.augmented_rows import sound_folders
from train.fit.params import FitParams, SemanticFitParams
from train.fit.run_record import LOSSES_FILE, RUN_FILE
from train.model_config import ModelConfig

Identity = dict[str, Any]
"""name of an input -> its value, as JSON has it"""

_WITHOUT_EFFECT = {  # on the trained weights; of `init`, only the files have an effect
    "checkpoint_layers", "shard_llm", "init", "workers", "log_every", "evaluate_every", "save_every",
    "keep_checkpoints", "stall", "hang_minutes", "answers", "trackers",
}  # fmt: skip
_SHOWN = 5  # of the inputs that differ

CODE = (
    "pipeline/audio", "pipeline/tables/packed.py", "pipeline/weights", "train/data", "train/fit", "train/model",
    "train/losses.py", "train/model_config.py", "train/own_forward.py", "train/precision.py", "train/saved_model.py",
)  # fmt: skip
"""The code that a run executes, without what only checks parameters, prints or writes files (a test holds the list)."""

LIBRARIES = ("accelerate", "numpy", "peft", "transformers")
LIBRARIES_OF_AUGMENTATION = ("audiomentations", "scipy", "soundfile", "soxr")


def identify(
    settings: FitParams,
    config: ModelConfig,
    data: Path,
    init: Path | None,
    dtype: torch.dtype,
    is_main_process: bool,
    shell: PromptShell | None = None,
) -> Identity:
    """Return the identity of a run on packed `data`, from the model in the folder `init`.

    `shell` has the prompts of training, if they are not only those of the packed data.

    Only the main process reads files, and the others get the identity from it. Raises UserError, in all processes, if a
    shard of the data is missing or has another size than packing has written.
    """
    mine: Identity | UserError | None = None
    if is_main_process:
        try:
            mine = _identify(settings, config, data, init, dtype, shell)
        except UserError as error:
            mine = error  # the others must not wait for it
    found: Identity | UserError = broadcast_object_list([mine])[0]
    if isinstance(found, UserError):
        raise found
    return found


def _identify(
    settings: FitParams,
    config: ModelConfig,
    data: Path,
    init: Path | None,
    dtype: torch.dtype,
    shell: PromptShell | None,
) -> Identity:
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    values = {
        "kind": kind,
        f"fit.{kind}": shaping(settings),
        "model": config.model_dump(),
        "weights of the encoder": name_weights(config.models.encoder, fetch(config.models.encoder)),
        "weights of the LLM": name_weights(config.models.llm, fetch(config.models.llm)),
        "precision of the LLM": str(dtype).removeprefix("torch."),
        "version": versions(settings),
    }
    if isinstance(shell, ToldShell):
        tokens = json.dumps(asdict(shell), sort_keys=True).encode()
        values["prompts of the teacher"] = xxhash.xxh3_128_hexdigest(tokens)
    root = Path(__file__).parents[2]
    files = {str(file.relative_to(root)): file for place in CODE for file in _files(root / place, "*.py")}
    files |= {str(file): file for folder in sound_folders(settings) for file in _files(folder)}
    if init is not None:  # wherever the folder is; without what tells of its training, which has no effect
        in_init = [file for file in _files(init) if file.name not in (RUN_FILE, LOSSES_FILE)]
        files |= {f"{file.relative_to(init)} of the initial model": file for file in in_init}
    files[str(data / packed.SHELL_FILE)] = data / packed.SHELL_FILE
    values |= {f"file {data / name}": digest for name, digest in packed.hashes(data).items()}
    values |= {f"file {name}": _digest(file) for name, file in files.items()}
    return json.loads(json.dumps(_flat(values), default=str))  # type: ignore[no-any-return]


def shaping(settings: FitParams) -> dict[str, Any]:
    """Return the parameters that have an effect on the trained weights."""
    return settings.model_dump(exclude=_without_effect(settings))


def without_effect(settings: FitParams) -> dict[str, Any]:
    """Return the other parameters."""
    return settings.model_dump(include=_without_effect(settings))


def _without_effect(settings: FitParams) -> set[str]:
    uses_dev = settings.stop_after is not None or settings.keep == "best"  # so the evaluations choose the weights
    return _WITHOUT_EFFECT - {"evaluate_every"} if uses_dev else _WITHOUT_EFFECT


def versions(settings: FitParams) -> dict[str, str]:
    """Return the versions of the libraries that have an effect on the trained weights."""
    names = (*LIBRARIES, *(LIBRARIES_OF_AUGMENTATION if settings.augment is not None else ()))
    return {"torch": torch.__version__, **{name: version(name) for name in names}}


def fingerprint(identity: Identity) -> str:
    """Return a short hash of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def run_name(identity: Identity) -> str:
    """Return the name of a run, such as emotion-0123456789ab: that of its folders of checkpoints and logs."""
    return f"{identity['kind']}-{fingerprint(identity)}"


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


def _files(place: Path, pattern: str = "*") -> Iterator[Path]:
    """Yield a file itself, or the files below a folder in the order of their names."""
    yield from [place] if place.is_file() else sorted(file for file in place.rglob(pattern) if file.is_file())


def _digest(file: Path) -> str:
    """Return the xxh3 hash of a file's content (about 4 GB/s)."""
    hasher = xxhash.xxh3_128()
    with file.open("rb") as stream:
        while block := stream.read(1 << 24):
            hasher.update(block)
    return hasher.hexdigest()
