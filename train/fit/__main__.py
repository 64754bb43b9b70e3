"""Train a stage: semantic alignment from the base weights, or emotion alignment from stage 1."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import params
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, run_stage
from pipeline.tables.emotions import read_classes
from pipeline.weights.source import ModelsParams
from train.fit.params import EmotionFitParams, SemanticFitParams


def main(
    kind: Annotated[Alignment, typer.Option(help="Which alignment to train.")],
    data: Annotated[Path, typer.Option(help="The packed folder of that kind.")],
    output: Annotated[Path, typer.Option(help="The model folder to write.")],
    init: Annotated[Path | None, typer.Option(help="The stage-1 model that emotion alignment starts from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from this run's checkpoint, if it has one.")] = False,
    checkpoints: Annotated[Path, typer.Option(help="Where checkpoints are kept while training.")] = Path("checkpoints"),
    logs: Annotated[Path, typer.Option(help="Where JSONL and TensorBoard logs go.")] = Path("logs"),
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train a stage: semantic alignment from the base weights, or emotion alignment from stage 1."""
    settings = params.load(params_file, f"fit.{kind}", SemanticFitParams if kind == "semantic" else EmotionFitParams)
    models = params.load(params_file, "models", ModelsParams)
    emotions = read_classes(params_file)
    if kind == "emotion" and init is None:
        raise UserError("--init: expected the stage-1 model folder, found nothing")
    if kind == "semantic" and init is not None:
        raise UserError(f"--init: stage 1 starts from the base weights, found {init}")
    from train.fit.run import RunFolders, fit  # torch is loaded once the parameters are known to be right

    folders = RunFolders(data=data, init=init, output=output, checkpoints=checkpoints, logs=logs)
    fit(settings, models, emotions, folders, resume)


if __name__ == "__main__":
    run_stage(main)
