"""Compare the planned memory of training steps with the measured one, on a CPU: python -m benchmarks.plan

Three configurations with random weights run two steps of the product's own trainer in float32, each in its own process.
Measured is the growth of the largest resident memory (VmHWM) over the process before it makes the model. The plan
counts weights, optimizer and all that is alive in a step. It does not count what the allocator and the CPU's libraries
keep besides. Nothing is written but the results file; a configuration needs at most 8 GB and three minutes.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.results_file import ROOT, recorded
from pipeline.stage import UserError, say
from pipeline.tables.packed import PromptShell
from train.data.sampler import Layout
from train.fit.params import EmotionFitParams, FitParams, PloraParams, SemanticFitParams
from train.fit.run import make_objective, make_optimizer, make_schedule
from train.fit.trainer import Trainer
from train.model import Batch, SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.plora import lora_config
from train.plan.batches import make_batch
from train.plan.models import outline_of
from train.plan.rows import RowFacts
from train.step_facts import run_step

STEPS = 2  # the optimizer has its moments from the second step on
NUM_EMOTIONS = 5
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
"""Variables that make glibc give freed memory back at once, and keep to one thread: others may use the cores."""
PLORA = PloraParams(rank=16, alpha=16, dropout=0.05, targets="all-linear", positions="speech")
EMOTION = {"plora": PLORA.model_dump(), "train_encoder": True}
SEMANTIC = {"warm_start": None, "pad_to_30s": False}
"""What differs from params.yaml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A stage with its models and a batch of clips of several lengths."""

    is_emotion: bool
    layout: Layout
    encoder: WhisperConfig
    llm: Qwen2Config
    clips: int
    seconds: float
    """Mean length of the clips."""


QWEN_HALF_B = Qwen2Config(
    vocab_size=151_936, hidden_size=896, intermediate_size=4_864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
SMALL = Qwen2Config(
    vocab_size=49_152, hidden_size=576, intermediate_size=1_536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip
TINY_WHISPER = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1_536)
BASE_WHISPER = WhisperConfig(d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2_048)
CONFIGURATIONS = {
    "stage 1, 0.5B, packed": Configuration(
        is_emotion=False, layout="packed", encoder=TINY_WHISPER, llm=QWEN_HALF_B, clips=4, seconds=5.0
    ),
    "stage 2, 0.5B, padded": Configuration(
        is_emotion=True, layout="padded", encoder=BASE_WHISPER, llm=QWEN_HALF_B, clips=4, seconds=3.0
    ),
    "stage 2, 135M, packed": Configuration(
        is_emotion=True, layout="packed", encoder=BASE_WHISPER, llm=SMALL, clips=12, seconds=5.0
    ),
}


def settings_of(configuration: Configuration) -> FitParams:
    """Return the parameters of the stage."""
    kind, own = ("emotion", EMOTION) if configuration.is_emotion else ("semantic", SEMANTIC)
    usual = yaml.safe_load((ROOT / "params.yaml").read_text())["fit"][kind]
    limits = {"layout": configuration.layout, "max_frames": 10**6, "max_positions": 10**6, "per_step": 1}
    section = {**usual, **own, "precision": "float32", "batches": {**limits, "round_up": False}}
    fit: type[FitParams] = EmotionFitParams if configuration.is_emotion else SemanticFitParams
    return fit.model_validate(section)


def batch_of(configuration: Configuration) -> Batch:
    """Return the batch: clips of half to one and a half times the mean length, answers of 24 to 48 tokens."""
    count, generator = configuration.clips, np.random.default_rng(0)
    rows = RowFacts(
        num_rows=count,
        hours=count * configuration.seconds / 3600,
        seconds=configuration.seconds * np.linspace(0.5, 1.5, count),
        text=np.full(count, round(3.3 * configuration.seconds)),
        response=generator.integers(24, 49, count),
        shell=PromptShell(
            before_speech=[0] * 33, before_text=None if configuration.is_emotion else [0] * 33, after=[0] * 5
        ),
        source="made up",
    )
    settings = settings_of(configuration)
    return make_batch(rows, list(range(count)), settings, False, configuration.encoder.num_mel_bins, 0)


def build(configuration: Configuration) -> SpeechLLM:
    """Make the model with random weights in float32."""
    llm: Any = AutoModelForCausalLM.from_config(configuration.llm, dtype=torch.float32)
    model = SpeechLLM(SpeechEncoder(WhisperEncoder(configuration.encoder), False), llm, NUM_EMOTIONS)
    if configuration.is_emotion:
        model.add_plora(lora_config(PLORA.rank, PLORA.alpha, PLORA.dropout, PLORA.targets))
        model.encoder.train_weights()
    else:
        model.head.requires_grad_(False)
    return model


def train_steps(configuration: Configuration, batch: Batch) -> None:
    """Run the steps as training does."""
    model = build(configuration)
    settings = settings_of(configuration)
    optimizer, schedule = make_optimizer(model, settings), make_schedule(settings, num_steps=10)
    trainer = Trainer(model, make_objective(settings, model), optimizer, schedule, Accelerator(cpu=True))
    for step in range(STEPS):
        trainer.step(step, [batch]).read()


def measure(configuration: Configuration) -> dict[str, Any]:
    """Return the planned and the measured memory in GiB, and the time of the steps."""
    batch = batch_of(configuration)
    settings = settings_of(configuration)
    model = outline_of(configuration.encoder, configuration.llm, NUM_EMOTIONS, settings, False, torch.float32)
    facts = run_step(model, partial(make_objective, settings_of(configuration)), batch, "cpu")
    del model
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # from now on, the largest memory is that of what follows
    idle = largest_gib()
    started = time.monotonic()
    train_steps(configuration, batch)
    seconds = time.monotonic() - started
    measured = largest_gib() - idle
    parts = {name: value / 2**30 for name, value in asdict(facts).items() if name not in ("trained_weights", "flops")}
    planned = facts.peak / 2**30
    return {
        "planned_gib": planned,
        "measured_gib": measured,
        "planned_over_measured": planned / measured,
        "idle_gib": idle,
        "steps_s": seconds,
        "positions": batch.num_positions,
        "planned_parts_gib": parts,
    }


def warm_up() -> None:
    """Load what the first step of any model loads: the optimizer's code and the libraries of matrix products."""
    layer = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters())
    Accelerator(cpu=True).backward(layer(torch.ones(2, 8)).sum())
    optimizer.step()


def largest_gib() -> float:
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def run(name: str) -> dict[str, Any]:
    """Measure a configuration in its own process; raises UserError if it fails."""
    command = [sys.executable, "-m", "benchmarks.plan", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **ENVIRONMENT}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = ["no message", *done.stderr.splitlines()][-1]
        raise UserError(f"{name}: exit status {done.returncode}: {last}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    say(
        f"{name:<24} planned {figures['planned_gib']:.2f} GiB, measured {figures['measured_gib']:.2f} GiB, ratio "
        f"{figures['planned_over_measured']:.3f}, {figures['steps_s']:.0f} s"
    )
    return figures


def main() -> None:
    """Measure all configurations, or the one that the command line names."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(CONFIGURATIONS[sys.argv[1]])))
        return
    with recorded("plan") as figures:
        figures |= {name: run(name) for name in CONFIGURATIONS}


if __name__ == "__main__":
    main()
