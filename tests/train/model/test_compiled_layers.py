"""One compiled graph serves all layers of a kind and all lengths, and gives the same loss and gradient."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from train.model.checkpointed_layers import checkpointed
from train.model.compiled_layers import compile_layers


def run_steps(root: Path, family: str, stage: int, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.compiled_steps", family, str(stage), str(count)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_three_layers_and_twenty_lengths_need_one_graph_with_a_gradient_and_one_without(root: Path, stage: int) -> None:
    found = run_steps(root, "Qwen2.5", stage, 21)
    assert found["sizes"] > 5
    assert found["first"] == found["last"] == {"encoder": 1, "llm": 2 if stage == 1 else 1}
    assert found["off"] < 1e-5
    assert found["least"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "Gemma 3", "Granite", "Phi"])
def test_layers_of_other_families_are_compiled_too(root: Path, family: str) -> None:
    found = run_steps(root, family, 2, 3)
    assert found["first"] == found["last"]
    assert found["off"] < 1e-5


class Layer(nn.Module):
    def forward(self, x: torch.Tensor, segments: object = None) -> torch.Tensor:
        return x.sin() if segments is None else x.sin().cos()


def test_only_calls_with_segments_are_compiled_and_checkpointing_leaves_the_layer_compiled() -> None:
    graphs: list[Any] = []

    def compiler(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    layer, x = Layer(), torch.ones(3, requires_grad=True)
    compile_layers([layer], compiler)
    assert torch.equal(layer(x), x.sin())
    assert not graphs
    compiled = layer.forward
    with checkpointed([layer], lambda _layer: torch.enable_grad()):
        assert torch.equal(layer(x, segments=3), x.sin().cos())
    assert len(graphs) == 1
    assert layer.forward is compiled
