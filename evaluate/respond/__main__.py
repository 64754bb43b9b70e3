"""Run the model and the baselines on the test split.

This computes the KL of stage 1, or the emotions and answers of stage 2.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluate.respond.params import RespondParams
from pipeline import params
from pipeline.params import Alignment, ParamsFile
from pipeline.prompts import PromptsParams
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import packed, parquet
from pipeline.weights.source import digest_files
from train import launch

if TYPE_CHECKING:
    from evaluate.asking.finished import FinishedBatches


@dataclass(frozen=True, slots=True)
class OwnAnswersInputs:
    """What own answers need beside the model and the data of stage 2."""

    told: Path
    stage1: Path
    stage1_data: Path
    prompt: Path | None


def main(
    kind: Annotated[Alignment, typer.Option(help="Training stage to evaluate on its test split.")],
    data: Annotated[Path, typer.Option(help="Folder of the packed data of this alignment.")],
    model: Annotated[Path, typer.Option(help="Model folder of this alignment.")],
    output: Annotated[Path, typer.Option(help="Folder of predictions to write.")],
    told: Annotated[Path | None, typer.Option(help="Told continuations; with them, own answers are scored.")] = None,
    stage1: Annotated[Path | None, typer.Option(help="Model folder of stage 1, for own answers.")] = None,
    stage1_data: Annotated[Path | None, typer.Option(help="Packed data of stage 1, for own answers.")] = None,
    prompt: Annotated[Path | None, typer.Option(help="Folder of an emotion prompt, for own answers.")] = None,
    transcripts: Annotated[Path | None, typer.Option(help="Whisper's transcripts, for baselines.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Run the model and the baselines on the test split and write their predictions."""
    settings = params.load(params_file, "respond", RespondParams)
    prompts = params.load(params_file, "prompts", PromptsParams) if kind == "emotion" else None
    rows = packed.load(data, "test")
    if transcripts is not None and kind != "emotion":
        raise UserError(f"--transcripts: found it with --kind {kind}, expected --kind emotion")
    any_own = any(each is not None for each in (told, stage1, stage1_data, prompt))
    own = _own_inputs(kind, told, stage1, stage1_data, prompt) if any_own else None
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "evaluate.respond", sys.argv[1:]))
    from evaluate.asking.processes import join  # torch loads only after the parameters are checked
    from train.precision import avoid_shape_plans

    avoid_shape_plans()
    writes = join()
    inputs = [] if transcripts is None else [transcripts]
    finished = _finished_batches(kind, data, model, output, own, inputs, settings, prompts)
    if prompts is None:
        from evaluate.respond.divergence import measure

        tables = {"divergence": measure(model, rows, packed.load_shell(data), settings, finished)}
        done = f"semantic: continuation KL of {len(rows):,} clips under three conditions"
    else:
        from evaluate.respond import own_answers
        from evaluate.respond.recognition import Respondent
        from evaluate.respond.whisper_texts import read_whisper_texts

        whisper_texts = None if transcripts is None else read_whisper_texts(transcripts, rows.column("id").to_pylist())
        dev = packed.load(data, "dev", allow_empty=True)
        tables = Respondent(model, rows, dev, whisper_texts, prompts, settings, finished).answer()
        done = f"emotion: {tables['recognition'].num_rows:,} answers to {len(rows):,} clips"
        if own is not None:
            trained = [packed.load(folder, "train") for folder in (own.stage1_data, data)]
            given = (own.stage1, model, rows, own.told, trained, whisper_texts, prompts.emotion, settings, finished)
            answers = own_answers.measure(*given, own.prompt)
            tables |= {"own_answers": answers.scores, "written": answers.written}
            done += f"; own answers scored after {answers.scores.num_rows:,} clips and controls"
            done += f", {answers.written.num_rows:,} written out"
    if writes:
        for name, table in tables.items():
            parquet.write(table, output / f"{name}.parquet")
        finished.remove()
        say(f"respond: {done}")


def _finished_batches(
    kind: Alignment,
    data: Path,
    model: Path,
    output: Path,
    own: OwnAnswersInputs | None,
    others: list[Path],
    settings: RespondParams,
    prompts: PromptsParams | None,
) -> "FinishedBatches":
    from evaluate.asking.finished import FinishedBatches, describe_run, digest_folder
    from train.precision import answering_dtype, best_device

    asked = {
        "respond": settings.model_dump(),
        "prompts": None if prompts is None else prompts.model_dump(),
        "kind": kind,
        "own answers": None if own is None else [digest_files([own.told]), digest_folder(own.stage1)],
        "emotion prompt": None if own is None or own.prompt is None else digest_folder(own.prompt),
        "others": digest_files(others),
    }
    device = best_device()
    run = describe_run(model, data, asked, device, answering_dtype(settings.precision, device))
    return FinishedBatches(output, run)


def _own_inputs(
    kind: Alignment, told: Path | None, stage1: Path | None, stage1_data: Path | None, prompt: Path | None
) -> OwnAnswersInputs:
    if prompt is not None and told is stage1 is stage1_data is None:
        raise UserError("--prompt: found it without --told, --stage1 and --stage1-data, expected all of them")
    if kind != "emotion" or told is None or stage1 is None or stage1_data is None:
        raise UserError(
            "--told, --stage1, --stage1-data: found some of them, expected all with --kind emotion, or none"
        )
    return OwnAnswersInputs(told, stage1, stage1_data, prompt)


if __name__ == "__main__":
    run_stage(main)
