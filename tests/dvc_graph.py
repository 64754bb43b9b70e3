"""The stages of dvc.yaml and the code that each one imports; `make deps` writes what they import into dvc.yaml.

python -m tests.dvc_graph
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "train", "evaluate")
READERS = ROOT / "pipeline/corpora/readers"


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml with its templates filled in."""

    name: str
    cmd: str
    deps: list[str]
    params: list[Any]
    outs: list[str]

    @property
    def module(self) -> str:
        return self.cmd.split()[2]

    @property
    def source(self) -> Path:
        return ROOT / self.module.replace(".", "/") / "__main__.py"

    @property
    def options(self) -> dict[str, str]:
        return dict(re.findall(r"(--[\w-]+)(?: (?!--)(\S+))?", self.cmd))


def read_stages(params_file: Path = ROOT / "params.yaml") -> list[Stage]:
    values = yaml.safe_load(params_file.read_text())
    stages = []
    for name, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        if "foreach" not in entry:
            stages.append(as_stage(name, entry))
            continue
        items = entry["foreach"]
        if isinstance(items, str):
            items = values[items.removeprefix("${").removesuffix("}")]
        for key in items:
            item = items[key] if isinstance(items, Mapping) else key
            stages.append(as_stage(f"{name}@{key}", fill(entry["do"], {"key": key, "item": item})))
    return stages


def as_stage(name: str, entry: dict[str, Any]) -> Stage:
    outs = [*entry.get("outs", []), *entry.get("metrics", [])]
    paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    return Stage(name, entry["cmd"], entry["deps"], entry.get("params", []), paths)


def fill(entry: Any, values: Mapping[str, Any]) -> Any:
    """Put values into the ${...} of a template, as DVC does."""
    if isinstance(entry, dict):
        return {fill(key, values): fill(value, values) for key, value in entry.items()}
    if isinstance(entry, list):
        return [fill(value, values) for value in entry]

    def look_up(match: re.Match[str]) -> str:
        value: Any = values
        for key in match[1].split("."):
            value = value[key]
        if isinstance(value, Mapping):  # of a command's options
            return " ".join(f"--{name} {item}" for name, item in value.items())
        return str(value)

    return re.sub(r"\$\{([\w.]+)\}", look_up, entry) if isinstance(entry, str) else entry


def imported_files(stage: Stage) -> set[Path]:
    """Own files that importing a stage loads, through others too, with those that its functions import.

    A stage with --reader imports that reader and no other.
    """
    found, todo = set[Path](), [stage.source, *own_files(stage.module)]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        todo += [own for name in imported_names(file) for own in own_files(name)]
    reader = stage.options.get("--reader")
    return {file for file in found if file.parent != READERS or reader is None or file.stem in (reader, "__init__")}


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and name_of(node.func) == "import_module":
            yield from named_by(ast.unparse(node.args[0]))


def named_by(pattern: str) -> Iterator[str]:
    """Name the modules of a folder from which one is loaded by name: f'pipeline.corpora.{name}'."""
    folder = re.fullmatch(r"f'([\w.]+)\.\{\w+\}'", pattern)
    assert folder, f"cannot tell what import_module({pattern}) loads"
    yield from (f"{folder[1]}.{file.stem}" for file in (ROOT / folder[1].replace(".", "/")).glob("*.py"))


def own_files(name: str) -> Iterator[Path]:
    names = name.split(".")
    if names[0] not in PACKAGES:
        return
    for i in range(len(names)):
        path = ROOT.joinpath(*names[: i + 1])
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


def covers(dep: str, file: Path) -> bool:
    return file == ROOT / dep or (ROOT / dep) in file.parents


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def code_deps(files: set[Path]) -> list[str]:
    """Return the shortest list of own files and rooms that covers `files` and no other Python file."""
    return [dep for name in PACKAGES for dep in _cover(ROOT / name, files, is_room=False)]


def _cover(folder: Path, files: set[Path], is_room: bool = True) -> Iterator[str]:
    own = set(folder.rglob("*.py"))
    if is_room and own <= files:
        yield str(folder.relative_to(ROOT))
        return
    yield from sorted(str(file.relative_to(ROOT)) for file in own & files if file.parent == folder)
    for room in sorted(path for path in folder.iterdir() if path.is_dir() and own & files & set(path.rglob("*.py"))):
        yield from _cover(room, files)


def with_deps(text: str, stages: list[Stage]) -> str:
    """Return dvc.yaml with each stage's own code as its imports say; other dependencies stay as they are."""
    imported = {name: set[Path]() for name in yaml.safe_load(text)["stages"]}
    for stage in stages:
        own_reader = READERS / f"{stage.options.get('--reader')}.py"  # dvc.yaml names it by a template
        imported[stage.name.partition("@")[0]] |= imported_files(stage) - {own_reader}

    def write(match: re.Match[str]) -> str:
        indent = match[2] + "  "
        kept = [line for line in match[3].split("\n") if line.strip() and not line.strip().startswith(PACKAGES)]
        code = textwrap.fill(", ".join(code_deps(imported[match[1]])), 120 - len(indent), break_on_hyphens=False)
        lines = [*kept, textwrap.indent(code, indent)]
        return f"{match[0][: match.start(3) - match.start()]}{chr(10).join(lines)}\n{match[2]}]"

    return re.sub(r"^  ([\w-]+):\n(?:(?:    .*)?\n)*?( +)deps: \[\n((?:.*\n)*?) +\]", write, text, flags=re.MULTILINE)


if __name__ == "__main__":
    file = ROOT / "dvc.yaml"
    file.write_text(with_deps(file.read_text(), read_stages()))
