"""Print all stored answers to an utterance, of every prompt and model, and choose one of them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import selection
from pipeline.commands.options import Json
from pipeline.commands.text_tables import lay_out_record
from pipeline.generate import choices, store
from pipeline.generate.run import Run, open_run
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, say

_SHOWN = ("continuation", "finish_reason", "seed", "logprob", "engine", "hardware")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer to the transcript and emotion of a row."""

    signature: str
    is_current: bool
    """Whether the signature is that of the parameters."""
    is_used: bool
    """Whether the graph uses this answer."""
    attempt: int
    continuation: str
    finish_reason: str
    seed: int | None
    """None if decoding was greedy."""
    logprob: float | None
    engine: str
    hardware: str
    written_at: str
    model: str
    system: str
    text: str


def read(utterance: dict[str, str | None], run: Run, choices_file: Path) -> list[Entry]:
    """Return the answers of all signatures to an utterance; answers of the current parameters come last."""
    entries = []
    others = [each for each in store.open_all() if each.signature != run.signature]
    for answers in (*others, run.store):
        signature = answers.signature
        key = signature.key(utterance["text"] or "", utterance["emotion"])
        used = choices.read(choices_file, signature.name).get(key, answers.first(key))
        is_current = answers is run.store
        for row in answers.history(key):
            entry = Entry(
                signature=signature.name,
                is_current=is_current,
                is_used=is_current and row["generation"] == used,
                attempt=row["generation"],
                written_at=f"{row['written_at']:%Y-%m-%d %H:%M} UTC",
                model=signature.model,
                system=signature.system,
                text=signature.text,
                **{name: row[name] for name in _SHOWN},
            )
            entries.append(entry)
    return entries


def describe(key: str, entries: list[Entry]) -> str:
    """Lay out the answers to an utterance as plain text."""
    if not entries:
        return f"{key}: the store has no answer"
    records = []
    for entry in entries:
        use = "in use" if entry.is_used else "not in use" if entry.is_current else "made with other parameters"
        facts = {
            "answer": entry.continuation,
            "ended": entry.finish_reason,
            "seed": "none, greedy" if entry.seed is None else str(entry.seed),
            "logprob": "" if entry.logprob is None else f"{entry.logprob:.2f}",
            "prompt": entry.text,
            "system": entry.system,
            "model": entry.model,
            "by": f"{entry.engine} on {entry.hardware}, {entry.written_at}",
        }
        records.append(lay_out_record(f"attempt {entry.attempt}, {use}", facts))
    return "\n\n".join([key, *records])


def choose(utterance: dict[str, str | None], run: Run, attempt: int, choices_file: Path) -> None:
    """Choose an attempt at an utterance's answer; raises UserError if it does not exist."""
    key = run.signature.key(utterance["text"] or "", utterance["emotion"])
    found = [row["generation"] for row in run.store.history(key)]
    if attempt not in found:
        stored = ", ".join(map(str, found))
        expected = f"expected one of {stored}" if stored else "but the store has no answer to this row"
        raise UserError(f"--use: found {attempt}, {expected}")
    choices.add(choices_file, run.signature.name, {key: attempt})


def main(
    key: Annotated[str, typer.Argument(metavar="ID", help="The row's id.", show_default=False)],
    kind: Annotated[Alignment | None, typer.Option(help="The manifest to use, if both contain the row.")] = None,
    use: Annotated[int | None, typer.Option(help="Use this attempt from now on.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Print all stored answers to a row, and choose one.

    Prints every attempt, including those of other prompts and models.

    \b
    JSON: a list of signature, is_current, is_used, attempt, continuation,
    finish_reason, seed (null if greedy), logprob, engine, hardware, written_at,
    model, system, text.
    """
    found = selection.find(key, [kind] if kind else ["semantic", "emotion"])
    run = open_run(found.kind, params_file)
    if use is not None:
        choose(found.utterance, run, use, choices.FILE)
    entries = read(found.utterance, run, choices.FILE)
    if as_json:
        say(json.dumps([asdict(entry) for entry in entries], indent=2, ensure_ascii=False))
    else:
        say(describe(key, entries))
