"""Programs that show the numbers of a training: those that accelerate knows, beside TensorBoard."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import DVCLiveTracker, GeneralTracker, WandBTracker

from pipeline.stage import UserError

PROJECT = "blsp-emo"


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"fit.*.trackers: found {name}, which is not installed; expected pip install {name} first")


def open_trackers(names: Sequence[str], logs: Path, run: str, parameters: dict[str, Any]) -> list[GeneralTracker]:
    """Start the trackers of a run but TensorBoard, and tell them its parameters; only the main process has any."""
    trackers: list[GeneralTracker] = []
    for name in names:
        if name == "dvclive":
            trackers.append(DVCLiveTracker(dir=str(logs / name), save_dvc_exp=False, dvcyaml=None))
        elif name == "wandb":
            trackers.append(WandBTracker(PROJECT, name=run, dir=str(logs)))
    for tracker in trackers:
        tracker.start()
        tracker.store_init_configuration(parameters)
    return trackers
