"""What every stage shares: the error that a user can mend, and the way a stage starts and ends.

A mistake in the input costs one line on standard error and exit status 1; a wrong command line is
typer's business and exits with 2. Tracebacks are left for our own mistakes.
"""

import errno
import sys
from collections.abc import Callable

import typer

# a full or read-only disk, or a file where a folder is expected and the other way round
_USERS_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
)  # fmt: skip


class UserError(Exception):
    """A mistake that the user can mend, told in one line: where, what was found, what was expected."""


def run_stage(main: Callable[..., None]) -> None:
    """Run a stage's `main` as a command whose options are the function's annotated parameters."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)


def run_app(app: Callable[[], object]) -> None:
    """Run a typer application, turning the user's mistakes into one line and exit status 1."""
    try:
        app()
    except UserError as error:
        _stop(str(error))
    except OSError as error:
        if error.errno not in _USERS_ERRNOS:
            raise
        _stop(f"{error.filename or 'output'}: {(error.strerror or 'cannot write').lower()}")


def say(line: str) -> None:
    """Print a stage's one-line result, at once even into a pipe."""
    print(line, flush=True)


def _stop(line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(1)
