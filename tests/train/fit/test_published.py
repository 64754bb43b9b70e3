"""The recipe of the paper trains as published (arXiv 2406.03872, and the official code where the paper is silent).

Where paper and code differ, the paper counts: the encoder is trained in stage 2. Three things differ from both: the
warm-up does not start at a rate of zero, the weights of biases and norms do not decay, and a step has about as many
clips as published (tests/train/commands/test_plan.py), not exactly as many.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import params
from train.fit.params import EmotionFitParams, FitParams, HeadParams, PloraParams, SemanticFitParams
from train.fit.run import make_optimizer, make_schedule

STAGES: dict[str, tuple[type[FitParams], float, int, int]] = {  # peak rate, steps of the warm-up, epochs
    "semantic": (SemanticFitParams, 1e-4, 1000, 1),
    "emotion": (EmotionFitParams, 2e-5, 200, 3),
}


def published(root: Path, stage: str) -> FitParams:
    return params.load(root / "recipes" / "paper.yaml", f"fit.{stage}", STAGES[stage][0])


@pytest.mark.parametrize("stage", STAGES)
def test_the_papers_recipe_has_the_published_optimisation(root: Path, stage: str) -> None:
    settings = published(root, stage)
    _, rate, warmup_steps, epochs = STAGES[stage]
    assert (settings.learning_rate, settings.warmup_steps, settings.epochs) == (rate, warmup_steps, epochs)
    assert (settings.schedule, settings.max_grad_norm, settings.weight_decay) == ("as-published", 1.0, 0.05)
    assert (settings.precision, settings.seed, settings.max_steps) == ("bfloat16", 1, None)
    assert (settings.augment, settings.mixture, settings.stop_after, settings.keep) == (None, None, None, "last")


def test_the_papers_recipe_has_the_published_losses_and_plora(root: Path) -> None:
    first, second = published(root, "semantic"), published(root, "emotion")
    assert isinstance(first, SemanticFitParams)
    assert isinstance(second, EmotionFitParams)
    assert (first.temperature, first.teacher, first.warm_start) == (2.0, "exact", None)
    assert (second.emotion_weight, second.train_encoder) == (1.0, True)
    assert (second.encoder_learning_rate, second.response_loss, second.labels) == (None, "ce", "hard")
    assert second.head == HeadParams(pooling="mean", layers="last")
    plora = PloraParams(rank=16, alpha=16, dropout=0.05, targets="all-linear", positions="speech")
    assert second.plora == plora


@pytest.mark.parametrize(("stage", "num_steps"), [("semantic", 4950), ("emotion", 1640)])
def test_the_rate_is_that_of_deepspeeds_schedule_but_for_the_first_steps(
    root: Path, stage: str, num_steps: int
) -> None:
    settings = published(root, stage)
    schedule, warmup_steps = make_schedule(settings, num_steps), settings.warmup_steps

    def deepspeed(step: int) -> float:  # WarmupDecayLR of DeepSpeed 0.10, whose first step has the rate 0
        if step < warmup_steps:
            return math.log(step + 1) / math.log(warmup_steps)
        return (num_steps - step) / (num_steps - warmup_steps)

    off = [abs(schedule.rate(step) - deepspeed(step)) for step in range(num_steps)]
    assert max(off) == off[0] < 0.14
    assert max(off[50:]) < 5e-3
    assert max(off[warmup_steps:]) < 1e-12


def test_adamw_is_as_published_but_biases_and_norms_do_not_decay(root: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer = make_optimizer(model, published(root, "semantic"))  # type: ignore[arg-type]
    assert isinstance(optimizer, torch.optim.AdamW)
    matrices, others = optimizer.param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert all((group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8) for group in optimizer.param_groups)
    assert [p.ndim for p in matrices["params"]] == [2]
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 2 * 3 + 3 + 3 + 3
