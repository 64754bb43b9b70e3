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
        # The path is relative to the checkout. The nearest DVC project can be that of a recipe, under runs/, which is
        # not in git.
        inside = os.path.relpath(file.absolute(), SCM(os.curdir, search_parent_directories=True).root_dir)
        content = dvc.api.read(inside, rev=revision, mode="rb")
    except PathMissingError:
        found = "not in git, and not in DVC's cache as an output of the pipeline"
        raise UserError(f"{file} at {revision}: {found}") from None
    except DvcException as error:
        raise UserError(f"{file} at {revision}: {error}") from None
    folder.mkdir()
    place = folder / file.name
    place.write_bytes(content)
    return place
