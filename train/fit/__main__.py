"""Train one stage: semantic alignment from the base weights, or emotion alignment from a stage-1 model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline import params
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, printable, run_stage
from pipeline.tables.emotions import read_classes
from pipeline.weights.check import check_models, read_training_models
from pipeline.weights.source import ModelsParams, fetch
from train import launch
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.told_prompt import read_told_prompt


def main(
    kind: Annotated[Alignment, typer.Option(help="Alignment to train.")],
    data: Annotated[Path, typer.Option(help="Folder of the packed data of this alignment.")],
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    init: Annotated[
        Path | None,
        typer.Option(help="Folder of the stage-1 model, for emotion alignment; fit.emotion.init takes its place."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from this run's checkpoint, if any.")] = False,
    checkpoints: Annotated[Path, typer.Option(help="Folder of checkpoints during training.")] = Path("checkpoints"),
    logs: Annotated[Path, typer.Option(help="Folder of the JSONL and TensorBoard logs.")] = Path("logs"),
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train one stage: semantic alignment from the base weights, or emotion alignment from a stage-1 model."""
    settings = params.load(params_file, f"fit.{kind}", SemanticFitParams if kind == "semantic" else EmotionFitParams)
    models = params.load(params_file, "models", ModelsParams)
    emotions = read_classes(params_file)
    told = read_told_prompt(params_file, kind, settings)
    if kind == "emotion" and init is None and settings.init is None:
        raise UserError("--init: expected the stage-1 model folder, found nothing; or set fit.emotion.init")
    if kind == "semantic" and init is not None:
        raise UserError(f"--init: not allowed for semantic alignment, which starts from the base weights; found {init}")
    training = read_training_models(params_file)
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "train.fit", sys.argv[1:]))
    # torch loads only after the parameters are checked
    from train.fit.out_of_memory import EXIT_STATUS, NoMemoryLeftError
    from train.fit.run import RunFolders, fit

    if kind == "semantic":  # stage 2 must not fail after stage 1
        check_models(training, fetch(models.llm))

    folders = RunFolders(data=data, init=init, output=output, checkpoints=checkpoints, logs=logs)
    try:
        fit(settings, models, emotions, folders, resume, told)
    except NoMemoryLeftError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise typer.Exit(EXIT_STATUS) from None


if __name__ == "__main__":
    run_stage(main)
