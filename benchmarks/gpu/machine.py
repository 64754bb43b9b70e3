"""Part 1: the machine, its versions, and its measured upper limits of speed."""

import platform
import statistics
import subprocess

import torch

from benchmarks.gpu import card
from benchmarks.gpu.card import DEVICE, Figures, Out, Tiny
from benchmarks.results_file import versions
from pipeline.stage import run_stage
from train.useful_flops import product_flops

PACKAGES = ("torch", "transformers", "accelerate", "peft", "pyarrow", "pandas", "datasets")
ROUNDS = 15


def copy_bytes(num_bytes: int) -> float:
    """Return the bytes per second, read plus written, of a copy within the device's memory."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * num_bytes / statistics.median(card.seconds(lambda: target.copy_(source)) for _ in range(ROUNDS))


def main(out: Out, tiny: Tiny = False) -> None:
    """Describe the machine and measure its upper limits of speed."""
    figures = Figures(out, "machine")
    figures.add(python=platform.python_version(), versions=versions(PACKAGES))
    figures.add(cuda=torch.version.cuda, cudnn=card.on_card(torch.backends.cudnn.version), driver=_driver())
    figures.add(memory_gib=card.on_card(lambda: torch.cuda.mem_get_info()[1] / 2**30))
    figures.add(matrix_product_tflops=product_flops(256 if tiny else 8192, DEVICE) / 1e12)
    figures.add(copy_gb_per_s=copy_bytes(2**20 if tiny else 2**32) / 1e9)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return card.on_card(lambda: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


if __name__ == "__main__":
    run_stage(main)
