"""Batches that an interrupted run has answered, so that the next run answers only the others.

    results/predictions/.emotion.finished/KEY/clips-000012.json    a hash of the rest, then the answers of a batch

The key is a hash of all that has an effect on answers: model, rows, prompts, settings, code and versions. So answers of
another model or prompt are never found. The folder lies beside the output, because DVC deletes an output before its
stage runs. It is removed when the tables are written.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xxhash

from pipeline.stage import say
from pipeline.tables import packed, parquet
from pipeline.weights.source import digest_files, fetch, name_weights
from train.model_config import load_config

CODE = (
    "pipeline/audio", "pipeline/prompts.py", "pipeline/tables/continuations.py", "pipeline/tables/packed.py",
    "pipeline/weights", "train/data", "train/emotion_prompt.py", "train/inference.py", "train/losses.py",
    "train/model", "train/model_config.py", "train/own_forward.py", "train/precision.py", "train/saved_model.py",
    "train/side_by_side.py", "evaluate/asking", "evaluate/emotion_named.py", "evaluate/respond",
)  # fmt: skip
"""The code that has an effect on answers (a test compares it with the dependencies in dvc.yaml)."""

LIBRARIES = ("numpy", "peft", "tokenizers", "transformers")


def describe_run(
    model: Path, data: Path, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return all that has an effect on the answers; raises UserError if the model or the data are missing or damaged.

    `settings` are the parameters of the stage and of its prompts. The number of processes has no effect.
    """
    models, root = load_config(model).models, Path(__file__).parents[2]
    code = chain.from_iterable(
        [place] if place.is_file() else sorted(place.rglob("*.py")) for place in map(root.joinpath, CODE)
    )
    weights = {name: (each, fetch(each)) for name, each in (("encoder", models.encoder), ("llm", models.llm))}
    return {
        "model": digest_folder(model),
        "weights": {name: name_weights(*pair) for name, pair in weights.items()},
        "tokenizers": {name: digest_files(sorted(folder.glob("*.json"))) for name, (_, folder) in weights.items()},
        "data": packed.fingerprint(data),
        "settings": dict(settings),
        "precision": [device.type, str(dtype)],
        "code": digest_files(code),
        "versions": {"torch": torch.__version__, **{name: version(name) for name in LIBRARIES}},
    }


def digest_folder(folder: Path) -> str:
    """Return a hash of all files below a folder."""
    return digest_files(sorted(file for file in folder.rglob("*") if file.is_file()))


class FinishedBatches:
    """The answered batches of one run; answers are values that JSON can hold."""

    def __init__(self, output: Path, run: Mapping[str, Any]) -> None:
        """`output` is the folder that the stage writes, `run` all that has an effect on the answers."""
        self.folder = output.with_name(f".{output.name}.finished")
        self.key = xxhash.xxh3_128_hexdigest(json.dumps(run, sort_keys=True).encode())

    def read(self, task: str, sizes: list[int]) -> dict[int, list[Any]]:
        """Return the answers of the finished batches of a task, whose batches have these sizes.

        A damaged file is named and left out, so that its batch is answered again.
        """
        found = {}
        for number, size in enumerate(sizes):
            file = self._file(task, number)
            if not file.is_file():
                continue
            answers = self._answers(file)
            if answers is not None and len(answers) == size:
                found[number] = answers
            else:
                say(f"respond: {file}: found a damaged file, expected {size} answers; they are asked for again")
        return found

    def write(self, task: str, number: int, answers: list[Any]) -> None:
        """Keep the answers of a batch."""
        content = json.dumps(answers)
        with parquet.whole(self._file(task, number)) as partial:
            partial.write_text(f"{self._hash(self._file(task, number), content)}\n{content}\n", encoding="utf-8")

    def remove(self) -> None:
        """Remove the answers, and those of other runs with the same output."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, task: str, number: int) -> Path:
        return self.folder / self.key / f"{task}-{number:06d}.json"

    def _answers(self, file: Path) -> list[Any] | None:
        """Return the answers in a file; None if its content is not the one that was written under this name."""
        expected, _, content = file.read_text(encoding="utf-8", errors="replace").partition("\n")
        content = content.removesuffix("\n")
        return json.loads(content) if expected == self._hash(file, content) else None

    def _hash(self, file: Path, content: str) -> str:
        return xxhash.xxh3_128_hexdigest(f"{self.key} {file.name} {content}".encode())
