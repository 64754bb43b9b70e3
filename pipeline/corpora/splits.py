"""Official splits by their published names, such as `train.100`, `validation` or `test_clean`."""

import re
from collections.abc import Sequence

_WORDS = {
    "train": "train", "training": "train",
    "dev": "dev", "devel": "dev", "development": "dev", "val": "dev", "valid": "dev", "validation": "dev",
    "test": "test", "testing": "test",
}  # fmt: skip
_EVALUATION = {"eval", "evaluation", "heldout", "holdout"}

EXPECTED = "one of train, dev, test, or a name with one of them such as train.100"


def official(name: str) -> str | None:
    """Return train, dev or test for a published name; None if the name contains none of them, or several.

    >>> official("train.100"), official("validated")
    ('train', None)
    """
    found = {_WORDS[word] for word in _words(name) if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def official_of_all(names: Sequence[str]) -> dict[str, str | None]:
    """Return the official split of each name in a corpus; `evaluation` is test if no other name is."""
    splits = {name: official(name) for name in names}
    evaluation = "dev" if "test" in splits.values() else "test"
    return {name: evaluation if _EVALUATION & set(_words(name)) else split for name, split in splits.items()}


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())
