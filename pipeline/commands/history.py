"""All answers that the store has to an utterance, of every prompt and model, and the choice among them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands import selection
from pipeline.commands.options import Json
from pipeline.generate import choices, run, store
from pipeline.generate.run import Job
from pipeline.params import Alignment, ParamsFile
from pipeline.stage import UserError, say
from pipeline.terminal import lay_out_record

_SHOWN = ("generation", "continuation", "finish_reason", "seed", "logprob", "engine", "hardware")


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer that the store has to a row's transcript and emotion."""

    recipe: str
    is_current: bool
    """Whether the recipe is the one of the parameters."""
    is_used: bool
    """Whether the graph takes this answer."""
    generation: int
    continuation: str
    finish_reason: str
    seed: int | None
    """None where decoding was greedy."""
    logprob: float | None
    engine: str
    hardware: str
    written_at: str
    model: str
    system: str
    text: str


def read(utterance: dict[str, str | None], work: Job, choices_file: Path) -> list[Entry]:
    """Return all answers to an utterance, of all recipes; those of the current one come last."""
    entries = []
    shelves = [shelf for shelf in store.shelves() if shelf.recipe != work.recipe]
    for shelf in (*shelves, work.shelf):
        recipe = shelf.recipe
        key = recipe.key(utterance["text"] or "", utterance["emotion"])
        used = choices.read(choices_file, recipe.name).get(key, shelf.first(key))
        is_current = shelf is work.shelf
        for row in shelf.history(key):
            entry = Entry(
                recipe=recipe.name,
                is_current=is_current,
                is_used=is_current and row["generation"] == used,
                written_at=f"{row['written_at']:%Y-%m-%d %H:%M} UTC",
                model=recipe.model,
                system=recipe.system,
                text=recipe.text,
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
        use = "in use" if entry.is_used else "not in use" if entry.is_current else "of other parameters"
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
        records.append(lay_out_record(f"generation {entry.generation}, {use}", facts))
    return "\n\n".join([key, *records])


def choose(utterance: dict[str, str | None], work: Job, generation: int, choices_file: Path) -> None:
    """Choose a generation of an utterance's answer; raises UserError where there is none of that number."""
    key = work.recipe.key(utterance["text"] or "", utterance["emotion"])
    found = [row["generation"] for row in work.shelf.history(key)]
    if generation not in found:
        expected = ", ".join(map(str, found)) or "none, for the store has no answer"
        raise UserError(f"--use: found {generation}, expected one of {expected}")
    choices.add(choices_file, work.recipe.name, {key: generation})


def main(
    key: Annotated[str, typer.Argument(metavar="ID", help="The row's id.", show_default=False)],
    kind: Annotated[Alignment | None, typer.Option(help="Which one, where both manifests have the row.")] = None,
    use: Annotated[int | None, typer.Option(help="Take this generation from now on.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Print all answers that a row ever had, and choose one.

    Every generation, of other prompts and models, too.

    \b
    JSON: a list of recipe, is_current, is_used, generation, continuation, finish_reason,
    seed (null where greedy), logprob, engine, hardware, written_at, model, system, text.
    """
    found = selection.find(key, [kind] if kind else ["semantic", "emotion"])
    work = run.open_job(found.kind, params_file)
    if use is not None:
        choose(found.utterance, work, use, choices.FILE)
    entries = read(found.utterance, work, choices.FILE)
    if as_json:
        say(json.dumps([asdict(entry) for entry in entries], indent=2, ensure_ascii=False))
    else:
        say(describe(key, entries))
