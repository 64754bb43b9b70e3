"""The backbone LLM answers each transcript of a manifest: the targets that the model of speech is to give.

An answer is written once, into the store (pipeline/generate/store.py). Only what is missing there goes to the engine,
which is not even loaded when nothing is. The output is what the store holds for the manifest, ordered by id.
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipeline.generate import agreement, choices, plan
from pipeline.generate.answers import carry_out, project
from pipeline.generate.run import keys_of, open_job, read_utterances
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import continuations, parquet


def main(
    kind: Annotated[Alignment, typer.Option(help="Which prompt: for stage 1 or for stage 2.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="Utterances to continue.")],
    output: Annotated[Path, typer.Option(help="Where the continuations go.")],
    choices_file: Annotated[
        Path, typer.Option("--choices", help="Generations that count in place of the first; may be missing.")
    ] = choices.FILE,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write a continuation for each utterance of a manifest; only those that the store lacks are generated."""
    work = open_job(kind, params_file)
    utterances = read_utterances(manifest_file)
    keys = keys_of(utterances, work)
    choices.check(choices_file, work.shelf, keys)
    todo = plan.make(utterances, keys, work)
    if todo.requests:
        say(plan.describe(todo))
    start = cache(work.start_engine)
    generated = carry_out(todo, start)
    answers = project(utterances, keys, work, choices.read(choices_file, work.recipe.name))
    if kind == "emotion" and work.settings.agreement is not None:
        answers = agreement.judge(utterances, answers, work, work.settings.agreement, start)
    reasons = Counter(answers["finish_reason"].to_pylist())
    if not reasons[continuations.STOP] + reasons[continuations.LENGTH]:
        found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UserError(f"{manifest_file}: no utterance to answer; expected at least one, found {found}")
    parquet.write(answers, output)
    say(f"generate {kind}: {_describe(keys, generated, reasons)}")


def _describe(keys: pa.Array, generated: Counter[str], reasons: Counter[str]) -> str:
    num_distinct = len(keys.drop_null().unique())
    new = ", ".join(f"{count:,} generated ({name})" for name, count in generated.items()) or "none generated"
    line = (
        f"{len(keys):,} rows, {num_distinct:,} distinct prompts, {new}; {reasons[continuations.LENGTH]:,} answers cut"
    )
    for reason in (continuations.PROMPT_TOO_LONG, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION):
        if reasons[reason]:
            line += f", {reasons[reason]:,} left out, {reason}"
    return line


if __name__ == "__main__":
    run_stage(main)
