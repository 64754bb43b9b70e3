"""The augmentation of a run's train rows."""

from pathlib import Path

from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from train.data.augmentation import Augmentation
from train.data.dataset import longest_clips
from train.data.draws import hash_ids
from train.data.sampler import Budget
from train.data.speed import Speeds
from train.fit.params import FitParams, SemanticFitParams


def make_augmentation(settings: FitParams, rows: packed.Rows, shell: PromptShell) -> Augmentation | None:
    """Return the augmentation of these rows; None if there is none.

    Raises UserError if a folder of sounds cannot be used.
    """
    if (params := settings.augment) is None:
        return None
    speeds = None
    if params.speed is not None:
        runs_teacher = isinstance(settings, SemanticFitParams) and settings.teacher == "exact"
        speeds = Speeds(
            params=params.speed,
            seed=settings.seed,
            hashes=hash_ids(rows.column("id")),
            num_samples=rows.column("num_samples").to_numpy(),
            longest=longest_clips(rows, shell, make_budget(settings), runs_teacher),
        )
    return Augmentation(params, settings.seed, speeds)


def make_budget(settings: FitParams) -> Budget:
    """Return the budget of a batch."""
    limits = settings.batches
    return Budget(max_frames=limits.max_frames, max_positions=limits.max_positions, layout=limits.layout)


def sound_folders(settings: FitParams) -> list[Path]:
    """Return the folders of noises and impulse responses that a run reads."""
    if (params := settings.augment) is None:
        return []
    return [Path(effect.folder) for effect in (params.noise, params.room) if effect is not None and effect.folder]
