"""Judge: let an LLM mark the empathy of written answers, if it passes an exam first.

The exam has answers that were written to be better or worse. A judge that does not tell them apart judges nothing:
its figures would be noise, or its taste for long answers.
"""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import typer

from evaluate.judge import exam
from evaluate.judge.answers import answered_clips, ask_about, draw, told_answers
from evaluate.judge.params import JudgeParams
from evaluate.judge.replies import Judge
from evaluate.judge_tables import (
    EXAM_MARKS,
    EXAM_PAIRS,
    MARKS,
    MARKS_SCHEMA,
    PAIRS,
    PAIRS_SCHEMA,
)
from evaluate.judgements import grade
from evaluate.predictions import WRITTEN_SCHEMA, read_own_answers, read_written
from pipeline import params
from pipeline.params import ParamsFile, read_processes
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import parquet
from pipeline.tables.continuations import TOLD_SCHEMA
from pipeline.tables.emotions import read_classes

TOLD = pa.schema([TOLD_SCHEMA.field(name) for name in ("text", "emotion", "continuation", "finish_reason")])
OWN_SYSTEM = "voice"  # of the table of own answers, whose rows are the test clips that have told continuations


def main(
    told: Annotated[Path, typer.Option(help="Told continuations, written by generate --told.")],
    own_answers: Annotated[Path, typer.Option(help="Scores of told continuations, written by respond.")],
    output: Annotated[Path, typer.Option(help="Folder to write: marks and choices, of the exam and of the answers.")],
    written: Annotated[Path | None, typer.Option(help="Written answers of the run; the file may be missing.")] = None,
    answers: Annotated[Path | None, typer.Option(help="Written answers of other systems, in the same form.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Let an LLM mark the empathy of written answers, if it passes an exam first."""
    settings = params.load(params_file, "judge", JudgeParams | None)  # type: ignore[arg-type]
    emotions = read_classes(params_file)
    tables = {
        EXAM_MARKS: MARKS_SCHEMA.empty_table(), EXAM_PAIRS: PAIRS_SCHEMA.empty_table(),
        MARKS: MARKS_SCHEMA.empty_table(), PAIRS: PAIRS_SCHEMA.empty_table(),
    }  # fmt: skip
    if settings is None:
        _write(tables, output)
        say("judge: judge is null in the parameters, so no answer was judged; the tables are empty")
        return
    to_judge = _read_answers(told, own_answers, written, answers, emotions, settings)
    judge = Judge(settings, read_processes(params_file))
    marks, pairs = exam.ask_exam(exam.load(), settings.repeats)
    tables[EXAM_MARKS] = parquet.from_rows(judge.ask(marks, "marks of the exam"), MARKS_SCHEMA)
    tables[EXAM_PAIRS] = parquet.from_rows(judge.ask(pairs, "pairs of the exam"), PAIRS_SCHEMA)
    result = grade(tables[EXAM_MARKS], tables[EXAM_PAIRS])
    say(f"judge: {judge.name}: {result}")
    if result.has_passed:
        marks, pairs = ask_about(to_judge, settings.repeats)
        tables[MARKS] = parquet.from_rows(judge.ask(marks, "marks"), MARKS_SCHEMA)
        tables[PAIRS] = parquet.from_rows(judge.ask(pairs, "pairs"), PAIRS_SCHEMA)
        num_clips, systems = len(to_judge["id"].unique()), to_judge["system"].unique().to_pylist()
        say(f"judge: judged {len(to_judge):,} answers of {len(systems)} systems to {num_clips:,} clips")
    _write(tables, output)


def _read_answers(
    told: Path,
    own_answers: Path,
    written: Path | None,
    answers: Path | None,
    emotions: list[str],
    settings: JudgeParams,
) -> pa.Table:
    """Return the answers to judge, of WRITTEN_SCHEMA, all systems to the same clips."""
    own = read_own_answers(own_answers, emotions)
    own = own.filter(pc.equal(own["system"], OWN_SYSTEM))
    others = _read_others(written, answers)
    clips = answered_clips(own, others)
    if left_out := len(own) - len(clips):
        say(f"judge: left out {left_out:,} of {len(own):,} test clips, which not all systems have answered")
    clips = draw(clips, settings.rows, settings.seed)
    bounds = told_answers(clips, parquet.read(told, TOLD, allow_empty=True), emotions, settings.seed)
    return pa.concat_tables([bounds, others.filter(pc.is_in(others["id"], value_set=clips["id"]))])


def _read_others(written: Path | None, answers: Path | None) -> pa.Table:
    """Return the written answers of the run, if its file is there, and of other systems."""
    of_run = others = WRITTEN_SCHEMA.empty_table()
    if written is not None and written.is_file():
        of_run = read_written(written)
    elif written is not None:
        say(f"judge: {written}: no such file, so no answers of the trained model are judged; --answers takes others")
    if answers is not None:
        others = read_written(answers)
    for system in set(of_run["system"].to_pylist()) & set(others["system"].to_pylist()):
        raise UserError(f"{answers}: found the system {system}, expected another name: {written} has this one, too")
    return pa.concat_tables([of_run, others])


def _write(tables: dict[str, pa.Table], output: Path) -> None:
    for name, table in tables.items():
        parquet.write(table, output / name)


if __name__ == "__main__":
    run_stage(main)
