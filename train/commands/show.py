"""Print a packed row as the model gets it: the pieces of its sequences, and which tokens are trained."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow.compute as pc
import typer

from pipeline import params
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.commands.options import Json, print_found
from pipeline.params import ParamsFile
from pipeline.stage import UserError, printable
from pipeline.tables import manifest, packed
from pipeline.weights.source import Weights, fetch

if TYPE_CHECKING:
    from pipeline.prompts import Prompter

_COLOURS = {"speech": typer.colors.CYAN, "transcript": typer.colors.CYAN, "response": typer.colors.GREEN}


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of a sequence."""

    role: str
    """prompt, speech, transcript or response."""
    num_tokens: int
    text: str
    trained: bool
    """Whether the loss is taken at these tokens."""


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A packed row and its sequences."""

    id: str
    split: str
    corpus: str
    speaker: str | None
    emotion: str | None
    duration_s: float
    student: list[Piece]
    """The prompt with the speech, and the response."""
    teacher: list[Piece]
    """The prompt with the transcript, and the same response; empty in stage 2."""


def show_row(folder: Path, key: str | None, prompter: "Prompter") -> ShownRow:
    """Return the row with the id `key`, or the first one; raises UserError if there is none."""
    shell = packed.load_shell(folder)
    split, row = _find(folder, key)
    response = _piece("response", row["response_ids"], prompter, trained=True)
    after = _piece("prompt", shell.after, prompter)
    duration_s = row["num_samples"] / SAMPLE_RATE_HZ
    speech = Piece("speech", row["num_speech_tokens"], f"{duration_s:.2f} s of speech", trained=False)
    teacher = []
    if shell.before_text is not None:
        transcript = _piece("transcript", row["text_ids"], prompter)
        teacher = [_piece("prompt", shell.before_text, prompter), transcript, after, response]
    return ShownRow(
        **{name: row[name] for name in ("id", "corpus", "speaker", "emotion")},
        split=split,
        duration_s=duration_s,
        student=[_piece("prompt", shell.before_speech, prompter), speech, after, response],
        teacher=teacher,
    )


def _find(folder: Path, key: str | None) -> tuple[str, dict[str, Any]]:
    for split in manifest.SPLITS:
        if not (folder / split).is_dir():
            continue
        rows = packed.load(folder, split, allow_empty=True)
        if key is None and len(rows):
            return split, rows[0]
        if key is not None and (place := pc.index(rows.column("id"), key).as_py()) >= 0:
            return split, rows[place]
    raise UserError(f"{folder}: found no row {key or ''}; expected the id of a packed row")


def _piece(role: str, ids: list[int], prompter: "Prompter", *, trained: bool = False) -> Piece:
    text = prompter.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return Piece(role, len(ids), text, trained)


def describe(shown: ShownRow) -> str:
    """Lay out a row; the colours are for a terminal."""
    facts = [shown.split, shown.corpus, shown.speaker or "no speaker", shown.emotion or "no emotion"]
    lines = [f"{shown.id} ({', '.join(facts)})"]
    both = {"student: the model gets speech": shown.student, "teacher: the LLM gets the transcript": shown.teacher}
    for name, pieces in both.items():
        if not pieces:
            continue
        lines += ["", f"{name}, {sum(piece.num_tokens for piece in pieces):,} tokens"]
        for piece in pieces:
            label = "trained" if piece.trained and pieces is shown.student else ""
            written = printable(json.dumps(piece.text, ensure_ascii=False))
            text = typer.style(written, fg=_COLOURS.get(piece.role), bold=bool(label))
            lines.append(f"  {piece.role:<10}  {piece.num_tokens:>5,}  {label:<7}  {text}")
    return "\n".join(lines)


def main(
    folder: Annotated[Path, typer.Argument(help="A packed folder, such as data/packed/emotion.", show_default=False)],
    row: Annotated[str | None, typer.Option(help="Id of the row; by default the first one.")] = None,
    as_json: Json = False,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Print a packed row as the model gets it.

    Prints the pieces of each sequence with their number of tokens: the prompt, the place of the speech, and the
    response, whose tokens are trained. Colours on a terminal.

    \b
    JSON: id; split; corpus; speaker; emotion; duration_s; student and teacher:
    lists of role, num_tokens, text, trained (teacher is empty in stage 2).
    """
    from pipeline.prompts import Prompter

    llm = params.load(params_file, "models.llm", Weights)
    found = show_row(folder, row, Prompter.load(fetch(llm)))
    if as_json:
        print_found(found, "", as_json)
    else:
        typer.echo(describe(found))
