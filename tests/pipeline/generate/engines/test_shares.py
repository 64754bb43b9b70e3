"""Which GPUs or cores an engine gets."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.generate.engines import machine, shares
from pipeline.generate.engines.shares import divide_cores, divide_gpus
from pipeline.params import Processes
from pipeline.stage import UserError
from tests import builders

GPUS = [str(i) for i in range(8)]
GB = 10**9


def divided(wanted: Processes, tensor_parallel: Any, weights: int, gpus: list[str] = GPUS) -> list[str]:
    """Divide GPUs of 80 GB over engines with an LLM of `weights` GB."""
    given = divide_gpus(wanted, tensor_parallel, gpus, 80 * GB, weights * GB)
    return [",".join(share.gpus) for share in given]


def test_each_engine_gets_one_gpu_if_the_llm_fits_on_it() -> None:
    assert divided("auto", "auto", 15) == GPUS
    assert divided(3, "auto", 61) == ["0", "1", "2"]  # 1.2 times 61 is below 0.92 times 80


def test_an_llm_that_does_not_fit_gets_as_few_gpus_as_hold_it() -> None:
    assert divided("auto", "auto", 62) == ["0,1", "2,3", "4,5", "6,7"]
    assert divided("auto", "auto", 145) == ["0,1,2,3", "4,5,6,7"]
    assert divided(7, "auto", 62) == ["0,1", "2,3", "4,5"]  # one GPU is left over


def test_a_number_is_taken_as_it_is() -> None:
    assert divided("auto", 4, 1) == ["0,1,2,3", "4,5,6,7"]
    assert divided("auto", 1, 300, ["0"]) == ["0"]


def test_too_few_gpus_are_told() -> None:
    message = "generate.tensor_parallel: auto: found 2 GPUs of 80 GB, expected 4 or more for an LLM of 145.0 GB"
    with pytest.raises(UserError, match=message):
        divided("auto", "auto", 145, GPUS[:2])
    with pytest.raises(UserError, match="processes: found 9, expected at most 8, the number of GPUs"):
        divided(9, "auto", 1)


def test_cores_are_divided_and_shared_if_there_are_too_few() -> None:
    assert [sorted(share.cores) for share in divide_cores(2, [1, 3, 5])] == [[1, 5], [3]]
    assert [sorted(share.cores) for share in divide_cores(3, [0, 1])] == [[0], [1], [0]]


def test_only_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(shares, "gpu_memories", lambda: [80 * GB, 80 * GB])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f2a")
    given = machine.share(builders.generate_params(), "auto", tmp_path)
    assert [share.gpus for share in given] == [("3",), ("GPU-8f2a",)]
    assert str(given[1]) == "GPU GPU-8f2a"
    (alone,) = machine.share(builders.generate_params(engine="echo"), "auto", tmp_path)
    assert alone.gpus == ()


def test_without_a_gpu_auto_is_one_engine_and_an_llm_is_not_divided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert len(machine.share(builders.generate_params(), "auto", tmp_path)) == 1
    assert len(machine.share(builders.generate_params(), 3, tmp_path)) == 3
    monkeypatch.setattr("pipeline.generate.engines.vllm_engine.find", lambda: ("1", False))
    message = "generate.tensor_parallel: found 2, expected auto or 1 on a machine without GPUs"
    with pytest.raises(UserError, match=message):
        machine.share(builders.generate_params(engine="vllm", tensor_parallel=2), "auto", tmp_path)


def test_only_vllm_divides_an_llm() -> None:
    with pytest.raises(ValueError, match="tensor_parallel = auto for the engine transformers; only vllm divides"):
        builders.generate_params(tensor_parallel=2)
