"""Compare the KL of training with one from full logits at all positions: python -m benchmarks.kd_loss

Student and teacher have 640 positions, of which 176 predict a response token; the vocabulary has 151,936 tokens, and
the hidden states have the width of Qwen2.5-0.5B. The plain way computes both logits at all positions, as the official
code does, and lets autograd find the gradient. Times are medians of five, in turn, of loss and gradient in float32.
Memory is the growth of the largest resident memory (VmHWM) of a process of its own over that before the loss, which
holds the output matrix. What is alive at once is also counted, on tensors without values. CPU times are those of the
process, which other work on the machine changes less.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from benchmarks.plan import ENVIRONMENT, largest_gib
from benchmarks.results_file import ROOT, median_and_runs, recorded
from pipeline.stage import UserError, say
from train.losses import response_kl
from train.model.output_head import OutputHead
from train.step_facts import LiveMemory

ROUNDS, TEMPERATURE = 5, 2.0
FASTER, MEMORY_SHARE = 3.0, 0.1  # the targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a comparison."""

    positions: int = 640
    responses: int = 176
    vocabulary: int = 151_936
    width: int = 896


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Hidden states at all positions, the numbers of those that predict a response token, and the output matrix."""

    student: Tensor
    teacher: Tensor
    predicts: Tensor
    matrix: Tensor


Way = Callable[[States, Tensor], Tensor]
"""Returns the mean KL, given the student's states as a leaf."""


def make_states(shape: Shape) -> States:
    """Make up states whose logits have a deviation of about 1; the responses are the last positions of 4 rows."""
    torch.manual_seed(0)
    row, own = shape.positions // 4, shape.responses // 4
    student, teacher = torch.randn(2, shape.positions, shape.width).unbind()
    predicts = torch.tensor([place for place in range(shape.positions) if place % row >= row - own])
    matrix = torch.empty(shape.vocabulary, shape.width).normal_(std=shape.width**-0.5)
    return States(student=student, teacher=teacher, predicts=predicts, matrix=matrix)


def ours(states: States, student: Tensor) -> Tensor:
    """Compute the KL at the responses, as training does."""
    rows = student[states.predicts], states.teacher[states.predicts]
    return response_kl(*rows, OutputHead(states.matrix), TEMPERATURE).mean()


def plain(states: States, student: Tensor) -> Tensor:
    """Compute the KL at the responses from logits at all positions."""
    with torch.no_grad():
        teacher_logits = states.teacher @ states.matrix.T
    logits = student @ states.matrix.T
    log_q = functional.log_softmax(logits / TEMPERATURE, dim=-1)
    p = functional.softmax(teacher_logits / TEMPERATURE, dim=-1)
    return functional.kl_div(log_q[states.predicts], p[states.predicts], reduction="batchmean")


WAYS: dict[str, Way] = {"ours": ours, "plain": plain}


def loss_and_gradient(way: Way, states: States) -> tuple[Tensor, Tensor]:
    """Return the loss of a way, and its gradient by the student's states."""
    student = states.student.clone().requires_grad_()
    loss = way(states, student)
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def growth_gib(name: str, shape: Shape) -> float:
    """Return the memory that a way needs besides the states, in this process."""
    small = Shape(positions=8, responses=4, vocabulary=16, width=8)
    loss_and_gradient(WAYS[name], make_states(small))  # loads the libraries
    states = make_states(shape)
    Path("/proc/self/clear_refs").write_text("5")  # from now on, the largest memory is that of what follows
    before = largest_gib()
    loss_and_gradient(WAYS[name], states)
    return largest_gib() - before


def counted_gib(name: str, shape: Shape) -> float:
    """Return the most that is alive at once besides the states: all storages, on tensors without values."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        states = make_states(shape)
        storages = [tensor.untyped_storage() for tensor in (states.student, states.teacher, states.matrix)]
        with LiveMemory({storage._cdata: storage.nbytes() for storage in storages}) as live:
            loss_and_gradient(WAYS[name], states)
    most: float = live.peak / 2**30
    return most


def memory_gib(name: str) -> float:
    """Return the memory of a way in a process of its own; raises UserError if it fails."""
    command = [sys.executable, "-m", "benchmarks.kd_loss", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"{name}: exit status {done.returncode}: {['no message', *done.stderr.splitlines()][-1]}")
    found: float = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(shape: Shape) -> dict[str, Any]:
    """Return times and differences of both ways, in turn."""
    states = make_states(shape)
    results = {name: loss_and_gradient(way, states) for name, way in WAYS.items()}  # also warms up
    (loss, gradient), (plain_loss, plain_gradient) = results["ours"], results["plain"]
    wall: dict[str, list[float]] = {name: [] for name in WAYS}
    cpu: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            loss_and_gradient(way, states)
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - started_cpu)
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    for name in WAYS:
        figures |= median_and_runs(f"{name}_s", wall[name]) | median_and_runs(f"{name}_cpu_s", cpu[name])
    figures["plain_over_ours"] = figures["plain_s"] / figures["ours_s"]
    figures["plain_over_ours_cpu"] = figures["plain_cpu_s"] / figures["ours_cpu_s"]
    figures["loss_off"] = float((loss - plain_loss).abs() / plain_loss)
    figures["gradient_off"] = float((gradient - plain_gradient).norm() / plain_gradient.norm())
    return figures


def main() -> None:
    """Measure both ways, or the memory of the one that the command line names."""
    if len(sys.argv) > 1:
        print(json.dumps(growth_gib(sys.argv[1], Shape())))
        return
    with recorded("kd_loss") as figures:
        memory = {f"{name}_gib": memory_gib(name) for name in WAYS}
        figures |= memory | {"ours_over_plain_memory": memory["ours_gib"] / memory["plain_gib"]}
        figures |= {f"{name}_counted_gib": counted_gib(name, Shape()) for name in WAYS}
        figures |= measure(Shape())
        say(
            f"KL at 176 of 640 positions, 151,936 tokens: {figures['plain_over_ours']:.1f} times as fast as from full "
            f"logits (expected at least {FASTER}; CPU time {figures['plain_over_ours_cpu']:.1f}), "
            f"{figures['ours_over_plain_memory']:.3f} of the memory (expected at most {MEMORY_SHARE})"
        )


if __name__ == "__main__":
    main()
