"""Options that several commands share, and the function that prints a result."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.params import Alignment
from pipeline.stage import say

Table = Annotated[Path, typer.Argument(help="A manifest, or another table of the pipeline.", show_default=False)]
KindArgument = Annotated[Alignment, typer.Argument(help="The manifest and its prompt.", show_default=False)]
Where = Annotated[str | None, typer.Option(help="Only rows for which this pandas expression is true.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Only this row; repeat the option for more rows.")]
Reason = Annotated[str | None, typer.Option(help="Only rows that filter dropped for this reason.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with the keys above.")]


def print_found(result: Any, text: str, as_json: bool) -> None:
    """Print a dataclass as JSON, or the text that describes it."""
    say(json.dumps(asdict(result), indent=2, ensure_ascii=False) if as_json else text)
