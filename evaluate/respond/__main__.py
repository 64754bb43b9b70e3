"""Run the model and the baselines on the test split.

This computes the KL of stage 1, or the emotions and answers of stage 2.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from evaluate.respond.params import RespondParams
from pipeline import params
from pipeline.params import Alignment, ParamsFile
from pipeline.prompts import PromptsParams
from pipeline.stage import run_stage, say
from pipeline.tables import packed, parquet
from train import launch


def main(
    kind: Annotated[Alignment, typer.Option(help="Training stage to evaluate on its test split.")],
    data: Annotated[Path, typer.Option(help="Folder of the packed data of this alignment.")],
    model: Annotated[Path, typer.Option(help="Model folder of this alignment.")],
    output: Annotated[Path, typer.Option(help="Folder of predictions to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Run the model and the baselines on the test split and write their predictions."""
    settings = params.load(params_file, "respond", RespondParams)
    prompts = params.load(params_file, "prompts", PromptsParams) if kind == "emotion" else None
    rows = packed.load(data, "test")
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "evaluate.respond", sys.argv[1:]))
    from evaluate.respond.finished import (
        FinishedBatches,
        describe_run,
    )  # torch loads only after the parameters are checked
    from evaluate.respond.processes import join
    from train.precision import answering_dtype, avoid_shape_plans, best_device

    avoid_shape_plans()
    writes = join()
    asked = {
        "respond": settings.model_dump(),
        "prompts": None if prompts is None else prompts.model_dump(),
        "kind": kind,
    }
    device = best_device()
    finished = FinishedBatches(
        output, describe_run(model, data, asked, device, answering_dtype(settings.precision, device))
    )
    if prompts is None:
        from evaluate.respond.divergence import measure

        tables = {"divergence": measure(model, rows, packed.load_shell(data), settings, finished)}
        done = f"semantic: continuation KL of {len(rows):,} clips under three conditions"
    else:
        from evaluate.respond.recognition import Respondent

        recognition, examples = Respondent(model, rows, prompts, settings, finished).answer()
        tables = {"recognition": recognition, "examples": examples}
        done = f"emotion: {recognition.num_rows:,} answers to {len(rows):,} clips"
    if writes:
        for name, table in tables.items():
            parquet.write(table, output / f"{name}.parquet")
        finished.remove()
        say(f"respond: {done}")


if __name__ == "__main__":
    run_stage(main)
