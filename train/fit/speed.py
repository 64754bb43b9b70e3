"""The speed of a training: what its steps have computed since the last log line."""

import time
from collections.abc import Sequence

import torch

from train.fit.trainer import Trainer
from train.model import Batch
from train.useful_flops import UsefulFlops, product_flops

PRODUCT_SIZE = 8192  # of the product whose FLOP/s are those of the GPU; it takes 0.4 GB


class Speed:
    """Adds up the work of steps, and the time that they took."""

    def __init__(self, flops: UsefulFlops, num_processes: int, peak: float | None) -> None:
        """Take the counter of useful FLOPs, and the measured FLOP/s of this process's GPU; None on a CPU."""
        self.flops, self.num_processes, self.peak = flops, num_processes, peak
        self.last = time.monotonic()
        self._clear()

    def _clear(self) -> None:
        self.steps = self.clips = self.positions = 0
        self.useful = self.waited_s = 0.0

    def add(self, batches: Sequence[Batch], num_clips: int, waited_s: float) -> None:
        """Count a step: this process's batches that have an effect, and the clips of all processes."""
        self.steps += 1
        self.clips += num_clips
        self.positions += sum(batch.num_positions for batch in batches) * self.num_processes
        self.useful += self.flops.step(batches)
        self.waited_s += waited_s

    def leave_out(self, seconds: float) -> None:
        """Do not count so many seconds in which no step has run."""
        self.last += seconds

    def report(self) -> tuple[dict[str, float], str]:
        """Return the speed since the last report as numbers and as text, and begin anew.

        FLOP/s are those of this process; all else is that of all processes together.
        """
        now = time.monotonic()
        seconds = now - self.last
        flops = self.useful / seconds
        numbers = {
            "tokens_per_s": round(self.positions / seconds, 1),
            "clips_per_s": round(self.clips / seconds, 2),
            "useful_tflops": round(flops / 1e12, 4),
            "waited": round(self.waited_s / seconds, 3),
        }
        share = ""
        if self.peak is not None:
            numbers["useful_share"] = round(flops / self.peak, 4)
            share = f" ({flops / self.peak:.1%} of the GPU's)"
        text = (
            f"{self.clips / self.steps:,.0f} clips and {self.positions / self.steps:,.0f} positions a step  "
            f"{numbers['tokens_per_s']:,.0f} positions/s  {numbers['clips_per_s']:,.3g} clips/s  "
            f"useful {flops / 1e12:.3g} TFLOP/s{share}  waits for data {numbers['waited']:.0%}"
        )
        self.last = now
        self._clear()
        return numbers, text


def speed_of(trainer: Trainer) -> Speed:
    """Return the speed of a training that begins now; on a GPU, measure the FLOP/s with which it is compared."""
    accelerator = trainer.accelerator
    peak = None
    if accelerator.device.type == "cuda":
        peak = product_flops(PRODUCT_SIZE, accelerator.device)
        torch.cuda.empty_cache()
    return Speed(UsefulFlops(accelerator.unwrap_model(trainer.model)), accelerator.num_processes, peak)
