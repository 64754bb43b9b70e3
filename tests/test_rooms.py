"""The house stays a house: no import runs in a cycle, and no file or function grows long."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGES = ("pipeline", "train", "evaluate")
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 350, 60


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The own modules that each own module imports."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def test_no_file_imports_itself_through_others(imports: dict[str, set[str]]) -> None:
    assert len(imports) > 100
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)


def test_no_room_imports_itself_through_others(imports: dict[str, set[str]]) -> None:
    rooms: dict[str, set[str]] = {}
    for module, imported in imports.items():
        rooms.setdefault(room_of(module), set()).update(room_of(other) for other in imported)
    between = {room: others - {room} for room, others in rooms.items()}
    assert len(between) > 30
    assert set(TopologicalSorter(between).static_order()) == set(between)


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_hall_of_pipeline_holds_no_more_than_six_files(root: Path) -> None:
    assert len(list((root / "pipeline").glob("*.py"))) <= 6


def test_every_file_and_every_function_is_short(root: Path) -> None:
    long = []
    files = [file for name in PACKAGES for file in (root / name).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        text = file.read_text()
        if text.count("\n") > MOST_LINES_OF_A_FILE:
            long.append(f"{file}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{file}: {node.name}: {lines} lines")
    assert long == []
