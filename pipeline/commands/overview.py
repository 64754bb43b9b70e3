"""The command lines `python -m pipeline`, `python -m train` and `python -m evaluate`: their stages and commands."""

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup


def overview(package: str, what: str, stages: Mapping[str, str]) -> str:
    """Return the help text of `python -m PACKAGE`: its purpose, and one line for each stage."""
    lines = (f"  python -m {package}.{name:<12}{does}" for name, does in stages.items())
    return f"{what}\n\n\b\nStages, each with its own --help:\n" + "\n".join(lines)


def command_line(
    package: str, what: str, stages: Mapping[str, str], commands: Mapping[str, str], elsewhere: Mapping[str, str] = {}
) -> typer.Typer:
    """Return the command line of a package with commands; `commands` says what each one does.

    A command is the `main` of PACKAGE.commands.NAME, or of the module that `elsewhere` names. The module is imported
    only when the command is called, so that --help prints at once.
    """
    options: Any = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}

    class Commands(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, _, rest = super().resolve_command(ctx, args)
            module_name = (name or "").replace("-", "_")
            module = importlib.import_module(elsewhere.get(name or "", f"{package}.commands.{module_name}"))
            called = typer.Typer(**options)
            called.command(name)(module.main)
            return name, typer.main.get_command(called), rest

    app = typer.Typer(cls=Commands, help=overview(package, what, stages), no_args_is_help=True, **options)
    app.callback()(lambda: None)  # otherwise typer makes a single command the whole command line
    for name, does in commands.items():
        app.command(name, help=does)(lambda: None)
    return app
