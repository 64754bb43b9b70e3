"""The git commit of code, for records of trainings and benchmarks. It loads no library."""

import subprocess
from pathlib import Path


def commit_of(folder: Path, *places: str, tracked: Path | None = None) -> str | None:
    """Return the commit that is checked out at `folder`; it ends in -dirty if a file differs from it.

    `places` limit the files that are compared: paths and git's patterns, relative to `folder`. Returns None without
    git, outside a repository, and if the repository does not have the file `tracked`: an installed package may lie
    within another repository.
    """
    try:
        if tracked is not None:
            _git(folder, "ls-files", "--error-unmatch", str(tracked))
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", *(places or (".",)))
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
