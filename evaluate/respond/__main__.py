"""Run the model and the baselines on the test split.

This computes the KL of stage 1, or the emotions and answers of stage 2.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from evaluate.respond.params import RespondParams
from pipeline import params
from pipeline.params import Alignment, ParamsFile
from pipeline.prompts import PromptsParams
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import packed, parquet
from train import launch


@dataclass(frozen=True, slots=True)
class OwnAnswersInputs:
    """What own answers need beside the model and the data of stage 2."""

    told: Path
    stage1: Path
    stage1_data: Path


def main(
    kind: Annotated[Alignment, typer.Option(help="Training stage to evaluate on its test split.")],
    data: Annotated[Path, typer.Option(help="Folder of the packed data of this alignment.")],
    model: Annotated[Path, typer.Option(help="Model folder of this alignment.")],
    output: Annotated[Path, typer.Option(help="Folder of predictions to write.")],
    told: Annotated[Path | None, typer.Option(help="Told continuations; with them, own answers are scored.")] = None,
    stage1: Annotated[Path | None, typer.Option(help="Model folder of stage 1, for own answers.")] = None,
    stage1_data: Annotated[Path | None, typer.Option(help="Packed data of stage 1, for own answers.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Run the model and the baselines on the test split and write their predictions."""
    settings = params.load(params_file, "respond", RespondParams)
    prompts = params.load(params_file, "prompts", PromptsParams) if kind == "emotion" else None
    rows = packed.load(data, "test")
    own = None if told is stage1 is stage1_data is None else _own_inputs(kind, told, stage1, stage1_data)
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "evaluate.respond", sys.argv[1:]))
    from evaluate.respond.processes import join  # torch loads only after the parameters are checked
    from train.precision import avoid_shape_plans

    avoid_shape_plans()
    writes = join()
    if prompts is None:
        from evaluate.respond.divergence import measure

        table = measure(model, rows, packed.load_shell(data), settings)
        if not writes:
            return
        parquet.write(table, output / "divergence.parquet")
        say(f"respond: semantic: continuation KL of {len(rows):,} clips under three conditions")
    else:
        from evaluate.respond import own_answers
        from evaluate.respond.recognition import Respondent

        respondent = Respondent(model, rows, prompts, settings)
        recognised = respondent.recognise()
        examples = respondent.examples() if writes else None
        del respondent  # and its model: one is in memory at a time
        answers = None
        if own is not None:
            trained = [packed.load(folder, "train") for folder in (own.stage1_data, data)]
            answers = own_answers.measure(own.stage1, model, rows, own.told, trained, prompts.emotion, settings)
        if examples is None:
            return
        parquet.write(recognised, output / "recognition.parquet")
        parquet.write(examples, output / "examples.parquet")
        say(f"respond: emotion: {recognised.num_rows:,} answers to {len(rows):,} clips")
        if answers is not None:
            parquet.write(answers, output / "own_answers.parquet")
            say(f"respond: own answers: scored after {answers.num_rows:,} clips and controls")


def _own_inputs(kind: Alignment, told: Path | None, stage1: Path | None, stage1_data: Path | None) -> OwnAnswersInputs:
    if kind != "emotion" or told is None or stage1 is None or stage1_data is None:
        raise UserError(
            "--told, --stage1, --stage1-data: found some of them, expected all with --kind emotion, or none"
        )
    return OwnAnswersInputs(told, stage1, stage1_data)


if __name__ == "__main__":
    run_stage(main)
