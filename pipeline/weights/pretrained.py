"""Load a model of transformers from a folder so that every weight is from the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.stage import UserError
from pipeline.weights.source import loading


def load_pretrained(kind: Any, folder: Path, *, needed: str = "", **options: Any) -> Any:
    """Return `kind.from_pretrained(folder, **options)` in evaluation mode.

    transformers gives a weight that the files lack a random value. Raises UserError with the name of the first such
    weight whose name starts with `needed`.
    """
    with quiet(), loading(folder):
        model, info = kind.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    if lacking := sorted(name for name in info["missing_keys"] if name.startswith(needed)):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"models: {folder}: lacks the weight {lacking[0]}{more}; expected every weight of the model")
    for name, found, expected in sorted(info["mismatched_keys"]):
        if name.startswith(needed):
            shapes = f"found the shape {list(found)}, expected {list(expected)} as config.json says"
            raise UserError(f"models: {folder}: weight {name}: {shapes}")
    model.eval()
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing: `load_pretrained` names the first missing weight itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
