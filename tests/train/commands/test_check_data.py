"""The command that walks packed data as training does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from pipeline.tables import manifest, packed
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, semantic_fit_section
from train.__main__ import app
from train.commands.check_data import main

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def params_file(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    values = {
        "models": TypeAdapter(ModelsParams).dump_python(tiny_models),
        "emotions": ["sad", "happy"],
        "fit": {"semantic": semantic_fit_section(epochs=2.0), "emotion": emotion_fit_section()},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "params.yaml"


@pytest.fixture
def check(params_file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Check a folder and return the JSON; `status` is that of the command."""

    def run(folder: Path, status: int = 0, **options: Any) -> dict[str, Any]:
        if status:
            with pytest.raises(typer.Exit) as stopped:
                main(folder, as_json=True, params_file=params_file, **options)
            assert stopped.value.exit_code == status
        else:
            main(folder, as_json=True, params_file=params_file, **options)
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    return run


def rewrite(folder: Path, to: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    with packed.Writer(to, packed.load_shell(folder), shard_bytes=1) as writer:
        for split in manifest.SPLITS:
            writer.write(split, ({**row, **change(row)} for row in packed.load(folder, split)))
    return to


def test_a_healthy_folder_is_summed_up(packed_folder: Path, check: Run) -> None:
    found = check(packed_folder)
    assert found["kind"] == "semantic"
    train, dev, test = found["splits"]
    assert (train["rows"], train["without_continuation"], train["truncated"]) == (12, 0, 0)
    assert (dev["rows"], dev["without_continuation"], test["without_continuation"]) == (4, 1, 1)
    assert train["response_tokens"] == 36
    assert found["corpora"] == [{"corpus": "corpus", "rows": 12, "rows_per_epoch": 12, "share": 1.0}]
    assert found["epoch"]["rows"] == 12
    assert found["epoch"]["steps_of_training"] == 2 * found["epoch"]["steps"]
    assert 0.5 < found["epoch"]["real_frames_worst"] <= found["epoch"]["real_frames"] <= 1
    assert found["walk"]["rows"] == 22
    assert found["over_budget"] == found["damaged"] == []
    assert found["other_labels"] == {}


def test_a_sample_decodes_fewer_rows(packed_folder: Path, check: Run) -> None:
    assert check(packed_folder, sample=5)["walk"]["rows"] == 5


def test_damaged_rows_are_named_by_shard_and_id(packed_folder: Path, tmp_path: Path, check: Run) -> None:
    def damage(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == "corpus/train-3":
            return {"audio": {"bytes": row["audio"]["bytes"][:200], "path": None}}
        return {"num_samples": row["num_samples"] + 1} if row["id"] == "corpus/dev-1" else {}

    folder = rewrite(packed_folder, tmp_path / "damaged", damage)
    first, second = check(folder, status=1)["damaged"]
    assert "train/data-00003.arrow: corpus/train-3: found " in first
    assert "dev/data-00001.arrow: corpus/dev-1: found 9,000 samples, expected 9,001 samples" in second


def test_rows_over_the_budget_labels_that_are_no_class_and_missing_ends_are_told(
    packed_folder: Path, params_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return {"emotion": "fear", "response_ids": [40, 41, 42]} if row["id"] == "corpus/train-3" else {}

    values = yaml.safe_load(params_file.read_text())
    values["fit"]["semantic"]["batches"] = batch_section(max_frames=56)
    params_file.write_text(yaml.safe_dump(values))
    with pytest.raises(typer.Exit):
        main(rewrite(packed_folder, tmp_path / "changed", change), params_file=params_file)
    shown = capsys.readouterr().out
    assert "over the budget of a batch (fit.*.batches): 1 rows\n  corpus/train-11\n" in shown
    assert "the emotion head learns nothing from rows labelled fear 1; they are no class" in shown
    train = next(line.split() for line in shown.splitlines()[5:] if line.startswith("train"))
    assert train == ["train", "0", "1"]  # without continuation, without end
    assert shown.endswith("check-data: training would stop\n")


def test_the_command_is_called_by_its_name(packed_folder: Path, params_file: Path) -> None:
    result = CliRunner().invoke(app, ["check-data", str(packed_folder), "--params", str(params_file)])
    assert result.exit_code == 0, result.output
    assert result.output.endswith("check-data: nothing stops training\n")
