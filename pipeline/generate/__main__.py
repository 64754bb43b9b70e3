"""Generate: the LLM continues each transcript of a manifest. The speech model learns to give the same continuations.

Every answer is kept in the store (pipeline/generate/store.py). Only missing answers are generated; if none is missing,
the engine does not start. The output holds the manifest's continuations from the store, ordered by id.

With --told, it continues each transcript of dev and test for each emotion of the run, and with --sentences each
sentence of the stage sentences (pipeline/generate/told.py).
"""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipeline import params
from pipeline.generate import choices
from pipeline.generate.agreement import score_agreement
from pipeline.generate.answers import carry_out, read_continuations
from pipeline.generate.plan import Counts, make_plan
from pipeline.generate.run import keys_of, open_run, read_utterances
from pipeline.generate.told import read_sentences, read_transcripts, told_table
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import continuations, emotions, parquet


def main(
    kind: Annotated[Alignment, typer.Option(help="Which prompt: semantic for stage 1, emotion for stage 2.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="The utterances to continue.")],
    output: Annotated[Path, typer.Option(help="The table of continuations to write.")],
    choices_file: Annotated[
        Path,
        typer.Option(
            "--choices",
            help="CSV file that names, for some rows, a stored answer to use instead of the first one. "
            "The file may be missing.",
        ),
    ] = choices.FILE,
    params_file: ParamsFile = Path("params.yaml"),
    told: Annotated[
        bool,
        typer.Option(
            "--told",
            help="Continue each transcript of dev and test once for each emotion, whatever emotion the row has.",
        ),
    ] = False,
    sentences: Annotated[
        bool,
        typer.Option(
            "--sentences",
            help="Continue each sentence once for each emotion; --manifest is the table of the stage sentences.",
        ),
    ] = False,
) -> None:
    """Write a continuation for each utterance of a manifest. Only missing ones are generated."""
    run = open_run(kind, params_file)
    if sentences or told:
        read_told = read_sentences if sentences else read_transcripts
        utterances = read_told(manifest_file, kind, emotions.read_classes(params_file))
    else:
        utterances = read_utterances(manifest_file)
    keys = keys_of(utterances, run)
    choices.check(choices_file, run.store, keys)
    plan = make_plan(utterances, keys, run)
    if plan.requests:
        say(f"generate {kind}: {_describe_plan(plan.counts, len(plan.requests))}")
    start = cache(run.start_engine)
    generated = carry_out(plan, start)
    answers = read_continuations(utterances, keys, run, choices.read(choices_file, run.signature.name))
    has_limit = params.load(params_file, f"filter.{kind}.min_agreement", object) is not None
    is_told = told or sentences
    needs_scores = kind == "emotion" and has_limit and not is_told
    if needs_scores and run.settings.agreement is not None:
        answers = score_agreement(utterances, answers, run, run.settings.agreement, start)
    reasons = Counter(answers["finish_reason"].to_pylist())
    if not is_told and not reasons[continuations.STOP] + reasons[continuations.LENGTH]:
        found = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UserError(f"{manifest_file}: no utterance to answer; expected at least one, found {found}")
    parquet.write(told_table(utterances, answers) if is_told else answers, output)
    say(f"generate {kind}: {_describe(keys, generated, reasons)}")


def _describe_plan(counts: Counts, num_requests: int) -> str:
    unknown = "; the time is unknown, because nothing has been generated yet"
    time = unknown if counts.minutes is None else f" and {counts.minutes:.0f} min"
    return (
        f"{num_requests:,} prompts to answer ({counts.stored:,} are in the store), {counts.prompt_tokens:,} prompt "
        f"tokens, at most {counts.new_tokens:,} new tokens{time}"
    )


def _describe(keys: pa.Array, generated: Counter[str], reasons: Counter[str]) -> str:
    num_distinct = len(keys.drop_null().unique())
    new = ", ".join(f"{count:,} generated ({name})" for name, count in generated.items()) or "none generated"
    line = (
        f"{len(keys):,} rows, {num_distinct:,} distinct prompts, {new}; {reasons[continuations.LENGTH]:,} answers cut"
    )
    for reason in (continuations.PROMPT_TOO_LONG, continuations.NO_TRANSCRIPT, continuations.NO_EMOTION):
        if reasons[reason]:
            line += f", {reasons[reason]:,} left out ({reason})"
    return line


if __name__ == "__main__":
    run_stage(main)
