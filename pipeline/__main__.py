"""What a person can do with the pipeline: its stages, and the commands of pipeline/commands.

A command's module is imported when the command is called, so that --help is there at once.
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
    "split": "deal the speakers to train, dev and test",
    "leaks": "look for what train and test share",
    "generate": "let the LLM write the continuations",
    "filter": "keep continuations that are usable targets",
    "pack": "write token ids and audio to Arrow",
}
COMMANDS = {
    "show": "Print what a manifest holds, by corpus and split.",
    "sample": "Print rows drawn at random, or write clips to listen to.",
    "diff": "Compare two tables, or a table at two git revisions.",
    "quarantine": "Print what ingest refused, by reason and corpus.",
    "dropped": "Print which continuations filter dropped, by reason.",
    "generate": "Let the LLM answer rows: what is missing, or all anew.",
    "export": "Write the prompts that lack an answer to a batch file.",
    "import": "Take the answers to an exported batch into the store.",
    "compare": "Answer a sample with two prompts or two models.",
    "history": "Print all answers that a row ever had, and choose one.",
    "leaks": "Report what train and test share; fails on what is forbidden.",
    "download": "Download corpora, or tell where to ask for them.",
    "doctor": "Print what a bug report needs: versions, hardware, disk.",
}
ELSEWHERE = {
    "import": "pipeline.commands.import_",
    "download": "pipeline.commands.download.command",
}
"""The modules of commands that are not pipeline.commands.NAME."""


class Commands(TyperGroup):
    """Lists commands by their one line, and imports the one that is called."""

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
