"""The command line `python -m pipeline`: an overview of the stages, and the commands of pipeline/commands.

The module of a command is imported only when the command is called, so that --help prints at once.
"""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline.commands.overview import overview
from pipeline.stage import run_app

STAGES = {
    "synthesise": "make a synthetic corpus in a published layout",
    "ingest": "turn a corpus on disk into manifest rows",
    "split": "assign the speakers to train, dev and test",
    "leaks": "find data of test that is in train or dev",
    "generate": "let the LLM write the continuations",
    "filter": "keep continuations that are usable targets",
    "pack": "write token ids and audio to Arrow",
}
COMMANDS = {
    "show": "Print what a manifest contains, by corpus and split.",
    "sample": "Print rows drawn at random, or write clips to listen to.",
    "diff": "Compare two tables, or a table at two git revisions.",
    "quarantine": "Count the utterances that ingest refused, by reason.",
    "dropped": "Count the continuations that filter dropped, by reason.",
    "generate": "Generate the missing answers, or answer all rows again.",
    "export": "Write the prompts without an answer to a batch file.",
    "import": "Import the answers to an exported batch into the store.",
    "compare": "Compare the answers of two prompts or two models.",
    "history": "Print all stored answers to a row, and choose one.",
    "leaks": "Report the leaks from train and dev into test, by corpus.",
    "download": "Download corpora, or list them with their licences.",
    "doctor": "Print what a bug report needs: versions, hardware, disk.",
}
ELSEWHERE = {
    "import": "pipeline.commands.import_",
    "download": "pipeline.commands.download.command",
}
"""Commands whose module has another name than pipeline.commands.NAME."""


class Commands(TyperGroup):
    """Lists each command with one line, and imports only the command that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command's name, the command, and the rest of the arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        module = importlib.import_module(ELSEWHERE.get(name or "", f"pipeline.commands.{name}"))
        called = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        called.command(name)(module.main)
        return name, typer.main.get_command(called), rest


app = typer.Typer(
    cls=Commands,
    help=overview("pipeline", "Prepare data: from corpora on disk to packed training data.", STAGES),
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _name, _does in COMMANDS.items():
    app.command(_name, help=_does)(lambda: None)


if __name__ == "__main__":
    run_app(app)
