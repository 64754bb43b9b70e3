"""Where the numbers of a training go: JSONL always, trackers by name, and tables that DVC plots while it runs."""

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import semantic_fit_section
from train.fit import run, trackers
from train.fit.live_plots import LivePlots
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders


def fit(models: ModelsParams, folders: RunFolders, names: list[str]) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section(trackers=names))
    run.fit(settings, models, ["sad", "happy"], folders, resume=False)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_tracker_that_is_not_installed_is_one_line(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "wandb" else name)
    message = r"^fit\.\*\.trackers: found wandb, which is not installed; expected pip install wandb first$"
    with pytest.raises(UserError, match=message):
        fit(tiny_models, folders, ["tensorboard", "wandb"])


def test_a_tracker_by_name_gets_the_parameters_and_each_record(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, sorted(values)))

        def finish(self) -> None:
            told.append("finished")

    class Config:
        def update(self, values: dict[str, Any], **_: Any) -> None:
            told.append(values["seed"])

    module = ModuleType("wandb")
    module.init, module.config = lambda **_: Run(), Config()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    fit(tiny_models, folders, ["wandb"])
    speed = ["clips_per_s", "tokens_per_s", "useful_tflops", "waited"]
    assert told[:3] == [1, (0, ["dev_kl"]), (1, sorted(["kl", "loss", "lr", *speed]))]
    assert told[-1] == "finished"
    assert not list(folders.logs.glob("*/events*"))
    (lines,) = folders.logs.glob("*/steps.jsonl")
    assert len(lines.read_text().splitlines()) == len(told) - 2


def test_the_tables_for_dvc_have_the_losses_of_the_run_and_a_stable_name(
    tiny_models: ModelsParams, folders: RunFolders
) -> None:
    fit(tiny_models, folders, ["tensorboard"])
    records = [json.loads(line) for line in (folders.output / "losses.jsonl").read_text().splitlines()]
    train, dev = table(folders.logs / "semantic.csv"), table(folders.logs / "semantic.dev.csv")
    assert [float(row["kl"]) for row in train] == [record["kl"] for record in records if "kl" in record]
    assert [int(row["step"]) for row in dev] == [0, 3, 6]
    assert list(train[0]) == ["step", "loss", "kl", "lr"]
    assert list(folders.logs.glob("*/events*"))


def test_a_resumed_table_begins_with_the_records_before(tmp_path: Path) -> None:
    (tmp_path / "semantic.dev.csv").write_text("of an earlier run\n")
    first = LivePlots(tmp_path, "semantic", [])
    first.add({"step": 1, "loss": 2.0})
    assert table(tmp_path / "semantic.csv") == [{"step": "1", "loss": "2.0"}]  # while it runs
    first.close()
    resumed = LivePlots(tmp_path, "semantic", [{"step": 1, "loss": 2.0}])
    resumed.add({"step": 2, "loss": 1.0})
    resumed.close()
    assert [row["step"] for row in table(tmp_path / "semantic.csv")] == ["1", "2"]
    assert not (tmp_path / "semantic.dev.csv").exists()
