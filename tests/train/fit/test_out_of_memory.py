"""Memory that runs out ends training with what to change and a status of its own; the last checkpoint is whole."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

from pipeline.weights.source import ModelsParams
from tests.builders import semantic_fit_section
from train.fit import __main__ as command
from train.fit import checkpoint, out_of_memory
from train.fit.trainer import Trainer

ON_A_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "120000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB")


def train(folder: Path, models: ModelsParams, data: Path) -> None:
    sections = {
        "models": models.model_dump(), "emotions": ["sad", "happy"],
        "fit": {"semantic": semantic_fit_section(save_every=1)}, "processes": 1,
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    places = [folder / name for name in ("checkpoints", "logs", "params.yaml")]
    command.main("semantic", data, folder / "model", None, True, *places)


@pytest.mark.parametrize("error", [ON_A_CPU, ON_A_GPU, MemoryError()], ids=["cpu", "gpu", "python"])
def test_a_step_without_memory_ends_with_the_batch_and_what_to_change(
    tiny_models: ModelsParams,
    packed_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    run_step = Trainer.step

    def step(trainer: Trainer, number: int, *args: Any) -> Any:
        if number == 3:
            raise error
        return run_step(trainer, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(typer.Exit) as ended:
            train(tmp_path, tiny_models, packed_folder)
    assert ended.value.exit_code == out_of_memory.EXIT_STATUS == 71
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert re.fullmatch(
        r"error: fit: step 4: memory has run out \(.+\); the largest batch has \d+ clips, \d+ encoder frames and \d+ "
        r"LLM positions; clips of the batch: corpus/train-\d+(, corpus/train-\d+)*; lower max_frames and max_positions "
        r"in fit\.\*\.batches, or set fit\.\*\.checkpoint_layers: true; the last checkpoint is kept",
        line,
    )
    (folder,) = (tmp_path / "checkpoints").iterdir()
    state, damaged = checkpoint.load(folder)
    assert state is not None
    assert (state.step, damaged) == (3, [])
    train(tmp_path, tiny_models, packed_folder)  # continues from it
    assert "continues after step 3 of 6" in capsys.readouterr().out


def test_another_error_is_not_taken_for_it() -> None:
    with (
        pytest.raises(RuntimeError, match="mat1 and mat2"),
        out_of_memory.stops_without_memory("here", (), checkpoints_layers=False),
    ):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_layers_that_are_computed_again_are_not_advised_twice() -> None:
    with (
        pytest.raises(out_of_memory.NoMemoryLeftError) as found,
        out_of_memory.stops_without_memory("fit: dev split", (), checkpoints_layers=True),
    ):
        raise ON_A_GPU
    assert str(found.value) == (
        "fit: dev split: memory has run out (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB); lower "
        "max_frames and max_positions in fit.*.batches; the last checkpoint is kept"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux refuses an allocation that is larger than its addresses")
def test_an_allocation_that_is_really_refused_is_noticed() -> None:
    with (
        pytest.raises(out_of_memory.NoMemoryLeftError, match="DefaultCPUAllocator"),
        out_of_memory.stops_without_memory("here", (), checkpoints_layers=False),
    ):
        torch.empty(os.sysconf("SC_PAGE_SIZE") * 2**40, dtype=torch.uint8)
