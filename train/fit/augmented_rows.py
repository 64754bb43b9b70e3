"""The augmentation of a run's train rows."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from pipeline.audio.speech_tokens import HOP_SAMPLES, MAX_MEL_FRAMES, NUM_HALVINGS, num_speech_tokens
from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from train.data.augmentation import Augmentation
from train.data.dataset import row_costs
from train.data.draws import hash_ids
from train.data.sampler import Budget
from train.data.speed import Speeds
from train.fit.params import FitParams


def make_augmentation(settings: FitParams, rows: packed.Rows, shell: PromptShell) -> Augmentation | None:
    """Return the augmentation of these rows; None if there is none.

    Raises UserError if a folder of sounds cannot be used.
    """
    if (params := settings.augment) is None:
        return None
    speeds = None
    if params.speed is not None:
        speeds = Speeds(
            params=params.speed,
            seed=settings.seed,
            hashes=hash_ids(rows.column("id")),
            num_samples=rows.column("num_samples").to_numpy(),
            longest=longest_clips(rows, shell, make_budget(settings), settings.runs_teacher),
        )
    return Augmentation(params, settings.seed, speeds)


def longest_clips(rows: packed.Rows, shell: PromptShell, budget: Budget, with_teacher: bool) -> Int[np.ndarray, " n"]:
    """Return the number of samples to which each clip may be slowed down; at least its own.

    The row stays within 30 s and within the budget of a batch, as if the batch held it alone and shared no start. So
    the length does not depend on the model.
    """
    num_samples = rows.column("num_samples").to_numpy().astype(np.int64)
    costs = row_costs(rows, shell, False, with_teacher, shares_start=False)
    speech = num_speech_tokens(np.minimum(num_samples // HOP_SAMPLES, MAX_MEL_FRAMES))
    for_speech = budget.max_positions - (costs[:, 1] + costs[:, 2] - speech)
    by_budget = np.minimum(2 * budget.max_frames, 2**NUM_HALVINGS * for_speech)
    longest: Int[np.ndarray, " n"] = np.maximum(num_samples, np.minimum(by_budget, MAX_MEL_FRAMES) * HOP_SAMPLES)
    return longest


def make_budget(settings: FitParams) -> Budget:
    """Return the budget of a batch."""
    limits = settings.batches
    return Budget(max_frames=limits.max_frames, max_positions=limits.max_positions, layout=limits.layout)


def sound_folders(settings: FitParams) -> list[Path]:
    """Return the folders of noises and impulse responses that a run reads."""
    if (params := settings.augment) is None:
        return []
    return [Path(effect.folder) for effect in (params.noise, params.room) if effect is not None and effect.folder]
