"""The code uses the nouns of the field: none of the old names comes back (docs/decisions.md, Names)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dvc_graph import PACKAGES

OLD_WORDS = {
    "recipe": "signature",
    "job": "run",
    "work": "plan",
    "shelf": "store",
    "shelves": "stores",
    "generation": "attempt",
    "part": "split, archive, segment, shard, subset",
    "parts": "splits, archives, segments, shards, subsets",
    "circle": "speaker_groups",
    "circles": "speaker_groups",
    "hands": "speaker_groups",
    "deal": "assign",
    "dealt": "assigned",
    "examine": "inspect",
    "glance": "inspect_header",
    "hear": "encode_speech",
    "heard": "is_main_process",
    "predicting": "response_states",
    "speller": "CTCHead",
    "matrix": "output_embeddings",
}
"""A word of an identifier: what to say instead."""

OLD_NAMES = {
    "Frame": "PromptShell",
    "load_frame": "load_shell",
    "FRAME_FILE": "SHELL_FILE",
    "Look": "AudioFacts",
    "spelling_loss": "ctc_loss",
    "TeacherSignals": "TopKTeacher",
    "Places": "RunFolders",
    "held_out": "log_dev",
    "Kind": "Alignment, LeakKind",
}
"""A whole identifier: what to say instead."""

OLD_METHODS = {"at": "speech_mask.applied", "limit": "speech_mask"}

ALLOWED = {
    "rows_per_part",  # a parameter that users have in their files
    "generation_config", "GenerationConfig", "WhisperForConditionalGeneration",  # transformers' own
}  # fmt: skip

COMMANDS = {"hear"}
"""The files of commands are named as users call them."""


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the identifier of each definition, argument, assignment and import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias):
            yield node.lineno, node.asname or node.name.rpartition(".")[2]


def methods_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for function in (each for node in classes for each in node.body if isinstance(each, ast.FunctionDef)):
        yield function.lineno, function.name


def words_of(name: str) -> list[str]:
    """Split an identifier at underscores and capitals: LLMFolder_of is llm, folder, of."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def old_names(source: str) -> list[str]:
    """Return a line for each old name in Python code."""
    tree = ast.parse(source)
    found = []
    for line, name in names_in(tree):
        better = [OLD_WORDS[word] for word in words_of(name) if word in OLD_WORDS and name.strip("_") not in ALLOWED]
        better += [OLD_NAMES[name]] if name in OLD_NAMES else []
        found += [f"{line}: {name}: expected {', '.join(better)}"] if better else []
    found += [f"{line}: {name}: expected {OLD_METHODS[name]}" for line, name in methods_in(tree) if name in OLD_METHODS]
    return found


def test_no_identifier_says_an_old_word(root: Path) -> None:
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    assert len(files) > 100
    found = [f"{file.relative_to(root)}:{line}" for file in files for line in old_names(file.read_text())]
    found += [f"{file.relative_to(root)}" for file in files if set(words_of(file.stem)) & OLD_WORDS.keys() - COMMANDS]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "def examine_all(rows): ...", "class FirstShelf: ...", "def f(*, parts): ...", "RECIPE_FILE = 1",
        "job.generation = 1", "import numpy as hands", "from pipeline import work", "for circle in circles: ...",
        "[dealt for dealt in range(3)]", "with open(x) as matrix: ...", "class Kind: ...", "Kind = str",
        "class Positions:\n    def limit(self): ...", "held_out = 1", "async def hear(clip): ...", "FRAME_FILE = ''",
        "(heard := 1)", "lambda part: 1", "def f():\n    def load_frame(): ...",
    ],
)  # fmt: skip
def test_an_old_word_that_comes_back_is_found(source: str) -> None:
    assert old_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "rows_per_part: int", "llm.generation_config = 1", "from transformers import GenerationConfig", "partial = 1",
        "def _generation_config(): ...", "counterpart = network = 1", "frame = row['generation']", "def f(kind): ...",
        "limit = 1", "path.parts", "judged(parts=1)", "class LeakKind: ...", "handshake = 1",
    ],
)  # fmt: skip
def test_a_word_that_only_resembles_an_old_one_is_none(source: str) -> None:
    assert old_names(source) == []
