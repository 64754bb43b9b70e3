"""Generate answers without running the DVC pipeline: preview some, write the missing ones, or answer rows again.

Answers go to the store, and choices to manifests/choices.csv. The next `dvc repro` uses both.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipeline.commands import selection
from pipeline.commands.options import Ids, Json, KindArgument, Reason, Where
from pipeline.commands.text_tables import lay_out_record
from pipeline.generate import choices
from pipeline.generate.answers import answer_requests, carry_out
from pipeline.generate.plan import Plan, make_plan
from pipeline.generate.run import Run, keys_of, open_run
from pipeline.generate.store import KEY, AnswerStore, StoredAnswer
from pipeline.params import ParamsFile
from pipeline.stage import say


@dataclass(frozen=True, slots=True)
class Preview:
    """A prompt and its answer, which is not stored."""

    transcript: str
    prompt: str
    answer: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Written:
    """The number of written answers."""

    written: int
    unchanged: int
    """Written answers that equal the ones in use, which stay in use."""


def answer_some(plan: Plan, number: int) -> list[Preview]:
    """Answer the first requests of a plan without writing anything."""
    prompter, requests = plan.run.prompter, plan.requests[:number]
    if not requests:
        return []
    given = dict(plan.run.start_engine().generate(requests))
    return [
        Preview(
            request.transcript,
            str(prompter.tokenizer.decode(list(request.prompt_ids))),
            prompter.decode(given[position].token_ids),
            given[position].finish_reason,
        )
        for position, request in enumerate(requests)
    ]


def carry_out_anew(plan: Plan, choices_file: Path) -> Written:
    """Answer all requests of a plan. After each shard, choose its new answers that differ from those in use."""
    run = plan.run
    chosen = choices.read(choices_file, run.signature.name)
    keys = [request.key for request in plan.requests]
    store = AnswerStore(run.signature)  # accepts answers with any number of stored likeliest tokens
    lacking = store.lacking(chosen)
    stored = {key: attempt for key, attempt in chosen.items() if key not in lacking}
    before = store.read(pa.array(keys, KEY), stored, ["token_ids"])["token_ids"].to_pylist()
    in_use = dict(zip(keys, before, strict=True))
    done = Counter[str]()

    def choose_changed(answers: Sequence[StoredAnswer]) -> None:
        changed = [answer.key for answer in answers if list(answer.token_ids) != in_use[answer.key]]
        done.update(written=len(answers), unchanged=len(answers) - len(changed))
        if changed:
            choose_newest(run, changed, choices_file)

    answer_requests(plan.requests, run, run.start_engine(), anew=True, on_shard=choose_changed)
    return Written(done["written"], done["unchanged"])


def choose_newest(run: Run, keys: Sequence[bytes], choices_file: Path) -> None:
    """Choose the newest attempt of each key."""
    choices.add(choices_file, run.signature.name, dict(zip(keys, run.store.newest(keys), strict=True)))


def describe_plan(plan: Plan) -> str:
    """Lay out a plan as plain text."""
    counts = plan.counts
    facts = {
        "rows": f"{counts.rows:,}" + (f", {counts.left_out:,} of them cannot be answered" if counts.left_out else ""),
        "prompts": f"{counts.prompts:,} distinct, {counts.stored:,} have an answer in the store",
        "to answer": f"{len(plan.requests):,}: {counts.prompt_tokens:,} tokens, at most {counts.new_tokens:,} new ones",
        "time": "unknown before the first answers" if counts.minutes is None else f"at most {counts.minutes:.1f} min",
        "store": str(plan.run.store.folder),
    }
    return lay_out_record(f"generate {plan.run.kind}", facts)


def describe_previews(previews: Sequence[Preview]) -> str:
    """Lay out prompts and answers as plain text."""
    if not previews:
        return "nothing to answer; --force also previews prompts that have an answer in the store"
    records = []
    for each in previews:
        facts = {"prompt": json.dumps(each.prompt, ensure_ascii=False), "answer": each.answer}
        records.append(lay_out_record(each.transcript, {**facts, "ended": each.finish_reason}))
    return "\n\n".join(records)


def describe_written(done: Written, run: Run) -> str:
    """Return a line with the number of written answers."""
    line = f"generate: {done.written:,} answers written; the next dvc repro uses them"
    if done.unchanged:
        greedy = " (at temperature 0 the LLM always gives the same answer; change the prompt or the temperature)"
        why = greedy if run.signature.seed is None else ""
        line += f"; {done.unchanged:,} are the same as before and change nothing{why}"
    return line


def main(
    kind: KindArgument,
    where: Where = None,
    ids: Ids = None,
    reason: Reason = None,
    preview: Annotated[int, typer.Option(help="Print this many prompts with answers; write nothing.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Answer all rows again, and choose the new answers.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Generate the missing answers, or answer all rows again.

    Prints the plan first. Answers go to the store, which keeps earlier answers. The next dvc repro uses the new ones.

    \b
    python -m pipeline generate emotion --where "corpus == 'meld'" --preview 5
    python -m pipeline generate emotion --reason refusal --force

    \b
    JSON: rows, left_out, prompts, stored, prompt_tokens, new_tokens, minutes;
    previews: with --preview a list of transcript, prompt, answer, finish_reason;
    written, unchanged (equal to the answers in use): if answers were written.
    """
    selected = selection.select(selection.manifest_of(kind), where, ids or [], reason, selection.dropped_of(kind))
    run = open_run(kind, params_file)
    plan = make_plan(selected, keys_of(selected, run), run, anew=force)
    result = asdict(plan.counts)
    if not as_json:
        say(describe_plan(plan))
    if preview:
        previews = answer_some(plan, preview)
        result["previews"] = [asdict(each) for each in previews]
        if not as_json:
            say(f"\n{describe_previews(previews)}")
    elif not dry_run and plan.requests:
        done = carry_out_anew(plan, choices.FILE) if force else Written(carry_out(plan, run.start_engine).total(), 0)
        result |= asdict(done)
        if not as_json:
            say(describe_written(done, run))
    if as_json:
        say(json.dumps(result, indent=2, ensure_ascii=False))
