"""Find the metrics of a model: those that score has computed from the answers of this very model.

metrics.json does not name its models. dvc.lock does: it holds the hash of everything that a stage has read and written.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline.params import Alignment

LOCK_FILE = Path("dvc.lock")
PREFIXES = {"semantic": "continuation_kl_", "emotion": "emotion_"}
"""How the tasks of each alignment begin in metrics.json."""

Metrics = dict[str, dict[str, dict[str, float]]]
"""task -> system or condition -> name of a figure -> its value, as in metrics.json"""


def find_metrics(model: Path, kind: Alignment, metrics: Path) -> Metrics | None:
    """Return the metrics of a model; None if there are none, or if they are not known to be those of this model."""
    if not (LOCK_FILE.is_file() and metrics.is_file()):
        return None
    stages = yaml.load(LOCK_FILE.read_bytes(), yaml.CSafeLoader).get("stages", {})
    if not {f"respond-{kind}", "score"} <= stages.keys():
        return None
    respond, score = stages[f"respond-{kind}"], stages["score"]
    answers = [
        out["path"] for out in respond["outs"] if Path(out["path"]).is_dir() and _hash(Path(out["path"])) == out["md5"]
    ]
    read = [dep for dep in score["deps"] if any(Path(dep["path"]).is_relative_to(folder) for folder in answers)]
    is_of_model = (
        _hash(model) in _hashes(respond["deps"])
        and bool(read)
        and all(_hash(Path(dep["path"])) == dep["md5"] for dep in read)
        and _hash(metrics) in _hashes(score["outs"])
    )
    if not is_of_model:
        return None
    found: Metrics = json.loads(metrics.read_bytes())
    return {task: figures for task, figures in found.items() if task.startswith(PREFIXES[kind])}


def _hashes(files: list[dict[str, Any]]) -> set[str]:
    return {file["md5"] for file in files}


def _hash(path: Path) -> str:
    """Return DVC's hash of a file or of a folder."""
    from dvc_data.hashfile.hash import file_md5
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if path.is_file():
        return str(file_md5(str(path)))
    tree = Tree()  # type: ignore[no-untyped-call]
    for file in path.rglob("*"):
        if file.is_file():
            tree.add(file.relative_to(path).parts, None, HashInfo("md5", file_md5(str(file))))
    tree.digest()
    return str(tree.hash_info.value)
