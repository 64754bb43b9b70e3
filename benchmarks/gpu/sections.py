"""Measure the time of each section of a training step, on the host and on the GPU.

A hook sets a mark when a module starts or ends. In the backward pass, it sets a mark when the gradient of a module's
output, or of a module's first weight, is ready. A section lasts from the mark before it to its own mark. The marks do
not wait for the GPU, so a section's time on the GPU includes time in which the GPU is idle.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.gpu.card import DEVICE, wait
from train.model import SpeechLLM

T = TypeVar("T")


@dataclass(slots=True)
class Sections:
    """Collects the marks of a step."""

    marks: list[tuple[str, float, Any]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        """End section `name` here."""
        event = torch.cuda.Event(enable_timing=True) if DEVICE.type == "cuda" else None
        if event is not None:
            event.record()
        self.marks.append((name, time.perf_counter(), event))

    def step(self, run: Callable[[], object]) -> tuple[float, dict[str, dict[str, float]]]:
        """Run a step; return its seconds and those of each section, on the host and on the GPU."""
        wait()
        self.marks.clear()
        self.mark("start")
        started = time.perf_counter()
        run()
        self.mark("optimizer")
        wait()
        total = time.perf_counter() - started
        sections: dict[str, dict[str, float]] = {}
        for (_, host, event), (name, next_host, next_event) in pairwise(self.marks):
            section = sections.setdefault(name, {"host": 0.0, "card": 0.0})
            section["host"] += next_host - host
            section["card"] += next_host - host if event is None else event.elapsed_time(next_event) / 1000
        return total, sections

    def watch(self, model: SpeechLLM) -> None:
        """Set the hooks on a model that runs in our layout."""
        whisper = model.encoder.whisper
        self._ends(whisper.conv1, "copies and counts", before=True)
        self._ends(whisper.conv2, "encoder convolutions")
        self._ends(model.encoder, "encoder layers")
        self._ends(model.adapter, "adapter")
        self._ends(model.llm.base_model, lambda: "student" if torch.is_grad_enabled() else "teacher, start")
        self._ends_backward(model.adapter.convolutions[0], "adapter, backward")
        self._ends_backward(whisper.conv1, "encoder convolutions, backward")

    def _ends_backward(self, first: nn.Module, name: str) -> None:
        """Mark the end of a section's backward pass at the gradient of its first weight, if this weight is trained."""
        weight = first.weight
        assert isinstance(weight, Tensor)
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(lambda _weight: self.mark(name))

    def _ends(self, module: nn.Module, name: str | Callable[[], str], before: bool = False) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object = None) -> None:
            called = name if isinstance(name, str) else name()
            self.mark(called)
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda _gradient, ended=_BACKWARD[called]: self.mark(ended))

        if before:
            module.register_forward_pre_hook(hook)
        else:
            module.register_forward_hook(hook)


# section -> section of the backward pass that has ended when the gradient of the first one's output is ready
_BACKWARD: Mapping[str, str] = {
    "student": "loss",
    "adapter": "student, backward",
    "encoder layers": "adapter, backward",
    "encoder convolutions": "encoder layers, backward",
}


def _tensors(output: object) -> list[Tensor]:
    """Return the output's first tensor, which is the input of the next section."""
    first = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
    return [first] if isinstance(first, Tensor) else []
