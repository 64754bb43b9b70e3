"""Answers asked for by hand: a look at some, and answers given anew.

What is done here goes to the store and to manifests/choices.csv; `dvc repro` takes it from there.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import choices, generate
from pipeline.job import Job
from pipeline.plans import Work
from pipeline.text_tables import lay_out_record


def preview(work: Work, number: int) -> str:
    """Answer the first requests without writing anything; return prompts and answers as plain text."""
    requests = work.requests[:number]
    if not requests:
        return "nothing to answer; --force previews answers that the store has"
    prompter = work.job.prompter
    answers = dict(work.job.start_engine().generate(request.prompt_ids for request in requests))
    records = []
    for i, request in enumerate(requests):
        prompt = prompter.tokenizer.decode(list(request.prompt_ids))
        facts = {"prompt": json.dumps(prompt, ensure_ascii=False), "answer": prompter.decode(answers[i].token_ids)}
        records.append(lay_out_record(request.transcript, {**facts, "ended": answers[i].finish_reason}))
    return "\n\n".join(records)


def carry_out(work: Work, choices_file: Path, *, anew: bool) -> int:
    """Answer the requests; answers given anew are chosen in place of those before. Return how many were written."""
    written = generate.carry_out(work, work.job.start_engine, anew=anew).total()
    if anew:
        choose_newest(work.job, [request.key for request in work.requests], choices_file)
    return written


def choose_newest(job: Job, keys: Sequence[bytes], choices_file: Path) -> None:
    """Choose the newest generation of each key."""
    choices.add(choices_file, job.recipe.name, dict(zip(keys, job.shelf.newest(keys), strict=True)))
