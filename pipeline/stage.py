"""Start and end of every stage, and the error for mistakes that a user can correct.

A mistake in the input prints one line on standard error, and the exit status is 1. typer reports a wrong command line
with exit status 2. A traceback means a mistake in our code.
"""

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import typer

# a full, read-only or broken disk, no permission, a file instead of a folder, a folder instead of a file, a name that
# is too long, or links in a circle
_USERS_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ESTALE,
)  # fmt: skip

# control characters but tabs and line feeds, signs that reverse the text, line separators, and halves of pairs
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake that the user can correct. Its message is one line: where, what was found, what was expected."""


def run_stage(main: Callable[..., None]) -> None:
    """Run a stage's `main` as a command whose options are the function's annotated parameters."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    run_app(app)


def run_app(app: Callable[[], object]) -> None:
    """Run a typer application; a mistake of the user becomes one line and exit status 1."""
    _hide_bars_in_logs()
    try:
        app()
    except UserError as error:
        _stop(str(error))
    except OSError as error:
        if error.errno not in _USERS_ERRNOS:
            raise
        _stop(f"{error.filename or 'output'}: {(error.strerror or 'cannot write').lower()}")


def say(line: str) -> None:
    """Print a line and flush it, so that a pipe gets it at once."""
    print(printable(line), flush=True)


def replace_folder(complete: Path, path: Path) -> None:
    """Move a complete folder to `path`, in place of an older one. A crash leaves no half folder at `path`."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(complete, path)
    shutil.rmtree(old, ignore_errors=True)


def printable(text: str) -> str:
    """Escape what a terminal would obey or could not show, as JSON does: published values may contain anything."""
    return _UNPRINTABLE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _hide_bars_in_logs() -> None:
    """Keep the progress bars of libraries out of a log; tqdm draws them into any file unless its caller forbids it."""
    if sys.stderr.isatty():
        return
    import tqdm.std

    os.environ["TQDM_DISABLE"] = "1"  # for child processes; tqdm has read it in this process already
    tqdm.std.tqdm.__init__ = partialmethod(tqdm.std.tqdm.__init__, disable=True)


def _stop(line: str) -> None:
    print(f"error: {printable(' '.join(line.split()))}", file=sys.stderr)
    raise SystemExit(1)
