"""Import the answers of batch output files into the store.

Each answer must match the current signature, model and prompt, and an utterance of the manifest. The command prints the
lines that do not match. It adds the other answers to the store, and replaces no stored answer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from openai.types.chat import ChatCompletion

from pipeline.commands import export, selection
from pipeline.commands.export import NO_ANSWER, NotTakenError, Output
from pipeline.commands.generate import choose_newest
from pipeline.commands.options import Json, KindArgument, print_found
from pipeline.commands.text_tables import lay_out
from pipeline.generate import answers, choices
from pipeline.generate.engines.interface import Answer, Request
from pipeline.generate.engines.openai_protocol import Reader
from pipeline.generate.run import Run, keys_of, make_request, open_run, read_utterances
from pipeline.generate.store import StoredAnswer
from pipeline.params import ParamsFile
from pipeline.stage import UserError

OTHER_SIGNATURE = "other signature"
"""The prompt, model or sampling differs from the parameters."""
NO_UTTERANCE = "no such utterance"
OTHER_MODEL = "other model"
OTHER_PROMPT = "other prompt"
"""The service tokenized the prompt differently."""
NO_SIGNALS = "no likeliest tokens"
"""A position has fewer likeliest tokens than generate.store_logprobs."""
TWICE = "answered twice"


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not imported."""

    file: str
    line: int
    id: str | None
    """Id of the first utterance with this prompt."""
    reason: str
    found: str


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import; all numbers count lines."""

    lines: int
    written: int
    known: int
    """Answers that were in the store before."""
    reasons: dict[str, int]
    """Number of lines that were not imported, for each reason; the most frequent reason is first."""
    refused: list[Refused]


@dataclass(slots=True)
class Importer:
    """Imports answers to the utterances of a manifest. With `anew`, they become further attempts and are chosen."""

    utterances: pa.Table
    run: Run
    model: str
    """The service's name for the LLM."""
    hardware: str
    """The hardware that wrote the answers, as the user names it."""
    anew: bool
    reader: Reader = field(init=False)
    first_rows: dict[bytes, int] = field(init=False)
    """Key: the first row with this key."""
    answers: list[StoredAnswer] = field(default_factory=list)
    """Answers that are not in a shard yet."""
    taken: dict[bytes, None] = field(default_factory=dict)
    """Keys of the imported answers in the order of their lines."""
    written: int = 0

    def __post_init__(self) -> None:
        end_ids = frozenset(export.end_ids(self.run))
        self.reader = Reader(self._encode, end_ids, self.run.settings.store_logprobs)
        keys = keys_of(self.utterances, self.run).to_pylist()
        self.first_rows = {key: i for i, key in reversed(list(enumerate(keys))) if key is not None}

    def read(self, files: Sequence[Path], choices_file: Path) -> Imported:
        """Write fitting answers to the store; raises UserError if a file is missing or empty."""
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
                if len(self.answers) == self.run.settings.rows_per_part:
                    self._write()
        finally:  # also if the import is stopped
            self._write()
        if self.anew and self.taken:
            choose_newest(self.run, list(self.taken), choices_file)
        reasons = Counter(each.reason for each in refused)
        return Imported(lines, self.written, len(self.taken) - self.written, dict(reasons.most_common()), refused)

    def _take(self, output: Output) -> None:
        if output.signature != self.run.signature.name:
            raise NotTakenError(OTHER_SIGNATURE, f"{output.signature}, expected {self.run.signature.name}")
        if output.key not in self.first_rows:
            raise NotTakenError(NO_UTTERANCE, output.key.hex())
        completion = output.completion()
        if completion.model != self.model:
            raise NotTakenError(OTHER_MODEL, f"{completion.model}, expected {self.model}")
        (row,) = self.utterances.slice(self.first_rows[output.key], 1).to_pylist()
        request = make_request(output.key, row, self.run.prompter.content_ids(row["text"]), self.run)
        if output.seed is not None:
            request = replace(request, seed=output.seed)
        if isinstance(completion, ChatCompletion):
            request = replace(request, prompt_ids=export.chat_ids(request, self.run))
            answer = self.reader.chat(completion.choices[0])
        else:
            answer = self.reader.completion(completion.choices[0])
        # vLLM adds the ids of the prompt to the completion for messages, and to the choice for token ids
        for each in (completion, completion.choices[0]):
            found = getattr(each, "prompt_token_ids", None)
            if found is not None and tuple(found) != request.prompt_ids:
                difference = f"{len(found)} token ids that differ from the expected {len(request.prompt_ids)}"
                raise NotTakenError(OTHER_PROMPT, f"the prompt has {difference}")
        if (highest := max(answer.token_ids, default=0)) >= len(self.run.prompter.tokenizer):
            raise NotTakenError(NO_ANSWER, f"token id {highest}, expected ids below {len(self.run.prompter.tokenizer)}")
        if output.key in self.taken:
            raise NotTakenError(TWICE, output.key.hex())
        self.answers.append(self._stored(request, answer))
        self.taken[output.key] = None

    def _stored(self, request: Request, answer: Answer) -> StoredAnswer:
        name = f"batch {self.run.llm.source if self.model == str(self.run.model) else self.model}"
        num_top = self.run.settings.store_logprobs
        try:
            return answers.stored_answer(request, answer, self.run.prompter, name, self.hardware, num_top)
        except UserError as error:
            raise NotTakenError(NO_SIGNALS, str(error)) from None

    def _write(self) -> None:
        if self.answers:
            self.written += self.run.store.append(self.answers, anew=self.anew)
        self.answers = []

    def _encode(self, text: str) -> list[int]:
        return list(self.run.prompter.answer_ids(text))

    def _id(self, key: bytes | None) -> str | None:
        if key is None or key not in self.first_rows:
            return None
        found: str = self.utterances["id"][self.first_rows[key]].as_py()
        return found


def describe(imported: Imported, number: int) -> str:
    """Lay out the counts, and the first lines that were not imported."""
    counts = [["written", f"{imported.written:,}"], ["in the store before", f"{imported.known:,}"]]
    counts.append(["not imported", f"{len(imported.refused):,}"])
    blocks = [lay_out([["what", "lines"], *counts, ["all", f"{imported.lines:,}"]])]
    if imported.reasons:
        reasons = [[reason, f"{lines:,}"] for reason, lines in imported.reasons.items()]
        blocks.append(lay_out([["reason", "lines"], *reasons]))
    if first := imported.refused[:number]:
        rows = [
            [f"{Path(each.file).name}:{each.line}", each.id or "", f"{each.reason}: {each.found}"] for each in first
        ]
        blocks.append(lay_out([["line", "id", "found"], *rows]))
    if len(first) < len(imported.refused):
        blocks.append(f"{len(first):,} of {len(imported.refused):,} lines that were not imported; -n shows more")
    return "\n\n".join(blocks)


def _lines(files: Sequence[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for file in files:
        with file.open("rb") as content:
            yield from ((file, number, line) for number, line in enumerate(content, start=1) if line.strip())


def main(
    kind: KindArgument,
    files: Annotated[list[Path], typer.Argument(help="Output and error files of batches.", show_default=False)],
    hardware: Annotated[str, typer.Option(help="The hardware that wrote the answers; history shows it.")] = "unknown",
    model: Annotated[str | None, typer.Option(help="The service's name for the LLM, as for export.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Add further attempts to stored answers, and choose them.")
    ] = False,
    number: Annotated[int, typer.Option("-n", help="Maximum number of refused lines to print.", min=0)] = 10,
    params_file: ParamsFile = Path("params.yaml"),
    as_json: Json = False,
) -> None:
    """Import the answers to an exported batch into the store.

    Imports only answers to prompts of these parameters, and each answer once. Fails if no answer fits.

    \b
    JSON: lines; written; known (in the store before); reasons {reason: lines};
    refused: a list of file, line, id, reason, found.
    """
    run = open_run(kind, params_file)
    utterances = read_utterances(selection.manifest_of(kind))
    name = model or export.model_name(run)
    found = Importer(utterances, run, name, hardware, force).read(files, choices.FILE)
    print_found(found, describe(found, number), as_json)
    if not found.written + found.known:
        raise UserError(
            f"import: none of the {found.lines:,} lines is an answer made with these parameters; expected at least one"
        )
