"""The answers of batch output files, on their way to the store.

Each is held to what it should answer: the recipe, an utterance, the model and the prompt. What cannot be taken is
named; the rest goes to the store, where nothing is replaced.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from openai.types.chat import ChatCompletion

from pipeline.commands import export, selection
from pipeline.commands import export as batch_files
from pipeline.commands import generate as regeneration
from pipeline.commands.export import NO_ANSWER, NotTakenError, Output
from pipeline.commands.options import Json, KindArgument, print_found
from pipeline.generate import answers, choices, run
from pipeline.generate.engines.interface import Answer
from pipeline.generate.engines.openai_protocol import Reader
from pipeline.generate.run import Job, Request, keys_of, make_request
from pipeline.params import ParamsFile
from pipeline.stage import UserError
from pipeline.terminal import lay_out

OTHER_RECIPE = "other recipe"
"""Asked with another prompt, model or sampling than the parameters have."""
NO_UTTERANCE = "no such utterance"
OTHER_MODEL = "other model"
OTHER_PROMPT = "other prompt"
"""The service made other token ids of it."""
NO_SIGNALS = "no likeliest tokens"
"""Fewer than generate.store_logprobs at some position."""
TWICE = "answered twice"


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not taken."""

    file: str
    line: int
    id: str | None
    """Of the first utterance with this prompt."""
    reason: str
    found: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the lines."""

    lines: int
    written: int
    known: int
    """Answered in the store before."""
    reasons: dict[str, int]
    """Lines not taken, the most frequent reason first."""
    refused: list[Refused]


@dataclass(slots=True)
class Importer:
    """Takes answers to the utterances of a manifest; with `anew` as further generations, which are then chosen."""

    utterances: pa.Table
    job: Job
    model: str
    """As the service calls it."""
    hardware: str
    """What the answers were made on, as the user says."""
    anew: bool
    reader: Reader = field(init=False)
    places: dict[bytes, int] = field(init=False)
    """Key: the first row that has it."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Answers that no part holds yet."""
    taken: dict[bytes, None] = field(default_factory=dict)
    """Keys in the order of their lines."""
    written: int = 0

    def __post_init__(self) -> None:
        end_ids = frozenset(export.end_ids(self.job))
        self.reader = Reader(self._encode, end_ids, self.job.settings.store_logprobs)
        keys = keys_of(self.utterances, self.job).to_pylist()
        self.places = {key: i for i, key in reversed(list(enumerate(keys))) if key is not None}

    def read(self, files: Sequence[Path], choices_file: Path) -> Imported:
        """Put what can be taken into the store; raises UserError where a file is missing or empty."""
        for file in files:
            if not file.is_file() or not file.stat().st_size:
                found = "no lines" if file.is_file() else "no such file"
                raise UserError(f"{file}: {found}; expected the output or error file of a batch")
        refused, lines = [], 0
        try:
            for file, number, line in _lines(files):
                lines += 1
                key: bytes | None = None
                try:
                    output = export.parse(line)
                    key = output.key
                    self._take(output)
                except NotTakenError as error:
                    refused.append(Refused(str(file), number, self._id(key), *error.args))
                if len(self.rows) == self.job.settings.rows_per_part:
                    self._put()
        finally:  # of a run that is stopped, too
            self._put()
        if self.anew and self.taken:
            regeneration.choose_newest(self.job, list(self.taken), choices_file)
        reasons = Counter(each.reason for each in refused)
        return Imported(lines, self.written, len(self.taken) - self.written, dict(reasons.most_common()), refused)

    def _take(self, output: Output) -> None:
        if output.recipe != self.job.recipe.name:
            raise NotTakenError(OTHER_RECIPE, f"{output.recipe}, expected {self.job.recipe.name}")
        if output.key not in self.places:
            raise NotTakenError(NO_UTTERANCE, output.key.hex())
        completion = output.completion()
        if completion.model != self.model:
            raise NotTakenError(OTHER_MODEL, f"{completion.model}, expected {self.model}")
        (row,) = self.utterances.slice(self.places[output.key], 1).to_pylist()
        request = make_request(output.key, row, self.job)
        if output.seed is not None:
            request = replace(request, seed=output.seed)
        if isinstance(completion, ChatCompletion):
            request = replace(request, prompt_ids=export.chat_ids(request, self.job))
            answer = self.reader.chat(completion.choices[0])
        else:
            answer = self.reader.completion(completion.choices[0])
        for each in (completion, completion.choices[0]):  # vLLM tells them here of messages, there of token ids
            told = getattr(each, "prompt_token_ids", None)
            if told is not None and tuple(told) != request.prompt_ids:
                raise NotTakenError(OTHER_PROMPT, f"{len(told)} token ids, expected {len(request.prompt_ids)} others")
        if (highest := max(answer.token_ids, default=0)) >= len(self.job.prompter.tokenizer):
            raise NotTakenError(NO_ANSWER, f"token id {highest}, expected ids below {len(self.job.prompter.tokenizer)}")
        if output.key in self.taken:
            raise NotTakenError(TWICE, output.key.hex())
        self.rows.append(self._row(request, answer))
        self.taken[output.key] = None

    def _row(self, request: Request, answer: Answer) -> dict[str, Any]:
        name = f"batch {self.job.llm.source if self.model == str(self.job.model) else self.model}"
        num_top = self.job.settings.store_logprobs
        try:
            return answers.store_row(request, answer, self.job.prompter, name, self.hardware, num_top)
        except UserError as error:
            raise NotTakenError(NO_SIGNALS, str(error)) from None

    def _put(self) -> None:
        if self.rows:
            self.written += self.job.shelf.append(self.rows, anew=self.anew)
        self.rows = []

    def _encode(self, text: str) -> list[int]:
        return list(self.job.prompter.content_ids(text))

    def _id(self, key: bytes | None) -> str | None:
        if key is None or key not in self.places:
            return None
        found: str = self.utterances["id"][self.places[key]].as_py()
        return found


def describe(imported: Imported, number: int) -> str:
    """Lay out what became of the lines, and the first that were not taken."""
    counts = [["written", f"{imported.written:,}"], ["in the store before", f"{imported.known:,}"]]
    counts.append(["not taken", f"{len(imported.refused):,}"])
    blocks = [lay_out([["what", "lines"], *counts, ["all", f"{imported.lines:,}"]])]
    if imported.reasons:
        reasons = [[reason, f"{lines:,}"] for reason, lines in imported.reasons.items()]
        blocks.append(lay_out([["not taken for", "lines"], *reasons]))
    if first := imported.refused[:number]:
        rows = [
            [f"{Path(each.file).name}:{each.line}", each.id or "", f"{each.reason}: {each.found}"] for each in first
        ]
        blocks.append(lay_out([["line", "id", "found"], *rows]))
    if len(first) < len(imported.refused):
        blocks.append(f"{len(first):,} of {len(imported.refused):,} lines that were not taken; -n shows more")
    return "\n\n".join(blocks)


def _lines(files: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for file in files:
        with file.open("rb") as content:
            yield from ((file, number, line) for number, line in enumerate(content, start=1) if line.strip())


def main(
    kind: KindArgument,
    files: Annotated[list[Path], typer.Argument(help="Output and error files of batches.", show_default=False)],
    hardware: Annotated[str, typer.Option(help="What the answers were made on; history tells it.")] = "not told",
    model: Annotated[str | None, typer.Option(help="What the service calls the LLM, as for export.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Add to answers that are there, and take the new ones.")
    ] = False,
    number: Annotated[int, typer.Option("-n", help="How many lines to name that are not taken.", min=0)] = 10,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Take the answers to an exported batch into the store.

    Only answers to prompts of these parameters are taken, and none twice. Fails where there is none to take.

    \b
    JSON: lines; written; known (answered before); reasons {reason: lines};
    refused: a list of file, line, id, reason, found.
    """
    opened = run.open_job(kind, params_file)
    utterances = run.read_utterances(selection.manifest_of(kind))
    name = model or batch_files.model_name(opened)
    found = Importer(utterances, opened, name, hardware, force).read(files, choices.FILE)
    print_found(found, describe(found, number), as_json)
    if not found.written + found.known:
        raise UserError(f"import: none of {found.lines:,} lines is an answer to what the parameters ask")
