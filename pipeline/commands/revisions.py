"""Earlier versions of the graph's outputs: git keeps a table's hash in dvc.lock, and DVC's cache keeps the table."""

import os
from pathlib import Path

from pipeline.stage import UserError


def fetch(file: Path, revision: str, folder: Path) -> Path:
    """Write `file` as of a git revision to a new folder; raises UserError if that version is not available."""
    import dvc.api
    from dvc.exceptions import DvcException, PathMissingError
    from dvc.scm import SCM

    try:
        # relative to the checkout, not to the nearest DVC project: a recipe's project, under runs/, has no revisions
        inside = os.path.relpath(file.absolute(), SCM(os.curdir, search_parent_directories=True).root_dir)
        content = dvc.api.read(inside, rev=revision, mode="rb")
    except PathMissingError:
        found = "neither an output of the graph that DVC's cache still holds nor a file in git"
        raise UserError(f"{file} at {revision}: {found}") from None
    except DvcException as error:
        raise UserError(f"{file} at {revision}: {error}") from None
    folder.mkdir()
    place = folder / file.name
    place.write_bytes(content)
    return place
