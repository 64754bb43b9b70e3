"""Write a training clip before and after augmentation, and print what was drawn for it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.compute as pc
import typer

from pipeline import params
from pipeline.audio.mono_16k import PCM16_STEPS, SAMPLE_RATE_HZ, Samples
from pipeline.commands.options import Json, print_found
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError
from pipeline.tables import packed
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams


@dataclass(frozen=True, slots=True)
class AugmentedClip:
    """A clip, and its augmentation in an epoch."""

    id: str
    epoch: int
    seed: int
    duration_s: float
    augmented_duration_s: float
    drawn: dict[str, str]
    """The effects in the order in which they are applied, each with its drawn values."""
    before: str
    after: str


def write_clips(
    folder: Path, row_id: str | None, epoch: int, to: Path, settings: FitParams, params_file: Path
) -> AugmentedClip:
    """Write the clip of a train row (None: the first one) as two WAV files.

    Raises UserError if there is no such row, or no augmentation.
    """
    from train.data.augmentation import apply, excess_db, unlimited
    from train.data.dataset import decode
    from train.fit.augmented_rows import make_augmentation
    from train.fit.told_prompt import read_told_prompt, training_shell

    rows = packed.load(folder, "train")
    number = 0 if row_id is None else pc.index(rows.column("id"), row_id).as_py()
    if number < 0:
        raise UserError(f"{folder}: found no train row {row_id}; expected the id of one, as only these are augmented")
    kind: Alignment = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    shell = training_shell(folder, [rows], read_told_prompt(params_file, kind, settings))
    augmentation = make_augmentation(settings, rows, shell)
    if augmentation is None:
        raise UserError(
            f"{params_file}: fit.{kind}.augment: found none, expected a preset such as emotion-safe, or effects"
        )
    row_id = rows[number]["id"]
    samples = decode(rows, rows[number], number)
    effects = augmentation.draw(number, row_id, len(samples), epoch)
    drawn = {effect.name: str(effect) for effect in effects}
    if (over_db := excess_db(unlimited(effects, samples))) > 0:
        drawn["level"] = f"lowered by {over_db:.1f} dB, so that no sample is over full scale"
    changed = apply(effects, samples)
    name = re.sub(r"[^\w.-]", "_", row_id)
    return AugmentedClip(
        id=row_id,
        epoch=epoch,
        seed=settings.seed,
        duration_s=len(samples) / SAMPLE_RATE_HZ,
        augmented_duration_s=len(changed) / SAMPLE_RATE_HZ,
        drawn=drawn,
        before=_write(to / f"{name}.before.wav", samples),
        after=_write(to / f"{name}.epoch-{epoch}.wav", changed),
    )


def describe(clip: AugmentedClip) -> str:
    """Lay out what was drawn, a line for each effect."""
    lines = [f"{clip.id} (epoch {clip.epoch}, seed {clip.seed}, {clip.duration_s:.2f} s)"]
    lines += [f"  {name:<9}  {values}" for name, values in clip.drawn.items()]
    lines += [] if clip.drawn else ["  no effect was drawn in this epoch"]
    return "\n".join([*lines, f"before     {clip.before}", f"after      {clip.after}"])


def _write(path: Path, samples: Samples) -> str:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    pcm = np.clip(np.rint(samples * PCM16_STEPS), -PCM16_STEPS, PCM16_STEPS - 1).astype(np.int16)
    soundfile.write(path, pcm, SAMPLE_RATE_HZ)
    return str(path)


def main(
    folder: Annotated[Path, typer.Argument(help="A packed folder, such as data/packed/emotion.", show_default=False)],
    row: Annotated[str | None, typer.Option(help="Id of a row of the train split; by default the first one.")] = None,
    epoch: Annotated[int, typer.Option(min=0, help="The epoch, counted from 0.")] = 0,
    to: Annotated[Path, typer.Option(help="Folder of the two WAV files.")] = Path("heard"),
    as_json: Json = False,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write a training clip before and after augmentation as WAV, and print what was drawn for it.

    The augmentation is that of fit.semantic or fit.emotion in the parameter file, and exactly that of training.

    \b
    JSON: id; epoch; seed; duration_s; augmented_duration_s; drawn (effect:
    its values, in the order of application); before and after (the files).
    """
    kind = "emotion" if packed.load_shell(folder).before_text is None else "semantic"
    settings = params.load(params_file, f"fit.{kind}", EmotionFitParams if kind == "emotion" else SemanticFitParams)
    clip = write_clips(folder, row, epoch, to, settings, params_file)
    print_found(clip, describe(clip), as_json)
