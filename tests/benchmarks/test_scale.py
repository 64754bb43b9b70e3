"""The benchmark of a million rows runs on a thousand."""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.scale import __main__ as scale
from benchmarks.scale.data import make_inputs
from benchmarks.scale.stages import STAGES
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams

ROWS = 1_000


@pytest.fixture
def params_file(root: Path, tmp_path: Path, tiny_models: ModelsParams) -> Path:
    values = yaml.safe_load((root / "params.yaml").read_text()) | {"models": tiny_models.model_dump()}
    path = tmp_path / "own-params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_stage_runs_on_the_made_up_rows(tmp_path: Path, params_file: Path) -> None:
    make_inputs(tmp_path, ROWS, params_file)
    for name, stage in STAGES.items():
        stage(tmp_path)()
        assert (tmp_path / "semantic.parquet").exists(), name
    counts = json.loads((tmp_path / "filter.json").read_text())["rows"]
    assert counts == {"read": {"none": {"before": ROWS, "after": ROWS}}}
    assert (tmp_path / "packed" / "train").is_dir()
    assert json.loads((tmp_path / "metrics.json").read_text()).keys() >= {"emotion_acted0", "continuation_kl_acted3"}


def test_a_stage_runs_in_its_own_process_and_tells_its_time_and_memory(
    tmp_path: Path, params_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_inputs(tmp_path, ROWS, params_file)
    figures = scale.run("split", tmp_path)
    assert 0 < figures["wall_s"] < 60
    assert 0.05 < figures["peak_gib"] < 2
    assert capsys.readouterr().out.startswith("split ")


def test_a_stage_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leaks: exit status 1: .*no such parameter file"):
        scale.run("leaks", tmp_path)


def test_the_times_of_a_tenth_and_of_all_rows_are_compared() -> None:
    few, many = ({"split": {"wall_s": 20.0, "cpu_s": seconds, "peak_gib": 1.0}} for seconds in (2.0, 18.0))
    assert scale.compare(few, many)["split"]["time_ratio"] == 9
