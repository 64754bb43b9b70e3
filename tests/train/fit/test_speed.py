"""The step line says what a step holds, how fast it is, and its share of the GPU's FLOP/s where there is one."""

import re
from typing import Any

import pytest

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, semantic_fit_section
from train.fit import run
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders
from train.fit.speed import Speed

LINE = re.compile(
    r"semantic (\d+)/\d+  loss .+  (\d+) clips and (\d+) positions a step  [\d,]+ positions/s  [\d.,e+]+ clips/s  "
    r"useful [\d.e-]+ TFLOP/s  waits for data \d+%  ETA \d+m\d\ds"
)


class Counted:
    """Stands for a batch and for the counter of FLOPs."""

    num_positions = 100

    def step(self, batches: list[Any]) -> float:
        return 5e12 * len(batches)


def test_the_speed_is_that_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("train.fit.speed.time.monotonic", lambda: now)
    measured = Speed(Counted(), num_processes=2, peak=20e12)  # type: ignore[arg-type]
    for _ in range(2):
        measured.add([Counted()] * 2, num_clips=12, waited_s=0.5)  # type: ignore[list-item]
    now = 16.0
    measured.leave_out(2.0)
    numbers, line = measured.report()
    assert numbers == {
        "tokens_per_s": 200.0, "clips_per_s": 6.0, "useful_tflops": 5.0, "waited": 0.25, "useful_share": 0.25,
    }  # fmt: skip
    assert line == (
        "12 clips and 400 positions a step  200 positions/s  6 clips/s  useful 5 TFLOP/s (25.0% of the GPU's)  "
        "waits for data 25%"
    )
    measured.add([Counted()], num_clips=3, waited_s=0.0)  # type: ignore[list-item]
    now = 17.0
    assert measured.report()[0]["clips_per_s"] == 3.0


def test_a_step_of_several_batches_tells_the_clips_of_all_and_no_share_on_a_cpu(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section(batches=batch_section(per_step=3)))
    run.fit(settings, tiny_models, ["sad", "happy"], folders, resume=False)
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines() if "positions/s" in line]
    assert [line and line[2] for line in lines] == ["12", "12"]
