"""dvc.yaml names everything that a stage reads, and a change re-runs what depends on it and nothing else.

DVC sees only what dvc.yaml lists: not an import, not a parameter that the code loads besides. So the
lists are held against the code here. The runs at the end use the real dvc.yaml and the real DVC with a
stand-in for `python` that writes every output anew.
"""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline import params
from tests.dvc_graph import (
    PACKAGES,
    READERS,
    ROOT,
    Stage,
    covers,
    imported_files,
    imported_names,
    read_stages,
    with_deps,
)

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PARAM_FILES = [ROOT / "params.yaml", *RECIPES]
WHOLE_FILE = {"params.yaml": None}

STAGES = read_stages() if (ROOT / "dvc.yaml").exists() else []
every_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)


def test_the_graph_file_is_as_make_deps_writes_it() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_deps(text, STAGES) == text
    shorter = text.replace("pipeline/weights", "pipeline/other")
    assert shorter != text
    assert with_deps(shorter, STAGES) == text


@every_stage
def test_deps_list_every_own_file_that_a_stage_imports(stage: Stage) -> None:
    files = imported_files(stage)
    assert len(files) > 2, "the walk found no import, so it proves nothing"
    missing = {str(file.relative_to(ROOT)) for file in files if not any(covers(dep, file) for dep in stage.deps)}
    assert not missing


def test_no_reader_imports_another_reader() -> None:
    for file in READERS.glob("*.py"):
        assert not [name for name in imported_names(file) if name.startswith("pipeline.corpora.readers")]


@every_stage
def test_deps_list_no_own_file_that_a_stage_does_not_import(stage: Stage) -> None:
    files = imported_files(stage)
    code = [dep for dep in stage.deps if dep.split("/")[0] in PACKAGES and not dep.endswith(".jinja")]
    assert [dep for dep in code if not any(covers(dep, file) for file in files)] == []


def test_every_template_of_the_code_is_a_dependency() -> None:
    files = (file.relative_to(ROOT) for name in PACKAGES for file in (ROOT / name).rglob("*.jinja"))
    templates = [str(file) for file in files if "commands" not in file.parts]  # no stage reads those of commands
    assert templates
    assert not [file for file in templates if not any(covers(dep, ROOT / file) for s in STAGES for dep in s.deps)]


def test_score_depends_on_the_files_of_the_protocols() -> None:
    files = list((ROOT / "evaluate/protocols").glob("*.yaml"))
    (score,) = (stage for stage in STAGES if stage.name == "score")
    assert files
    assert all(any(covers(dep, file) for dep in score.deps) for file in files)


@every_stage
def test_commands_use_options_that_the_stage_has_and_give_all_that_it_requires(stage: Stage) -> None:
    app = typer.Typer()
    app.command()(importlib.import_module(f"{stage.module}.__main__").main)
    known = typer.main.get_command(app).params
    names = {name for option in known for name in option.opts}
    required = {option.opts[0] for option in known if option.required}
    assert set(stage.options) <= names
    assert required <= set(stage.options)


@dataclass(frozen=True)
class Load:
    """A call of pipeline.params.load: the section's name and the type that it has to fit."""

    section: str
    type: Any


def loads(stage: Stage) -> list[Load]:
    """Find the sections that a stage loads, itself or through functions of other own files that it calls."""
    functions = [
        (file, function)
        for file in sorted(imported_files(stage) - {stage.source})
        for function in ast.parse(file.read_text()).body
        if isinstance(function, ast.FunctionDef) and function.name not in ("main", "load")
    ]
    tree: ast.AST = ast.parse(stage.source.read_text())
    found, todo, seen = list(loads_in(tree, stage)), [tree], set[int]()
    while todo:
        called = {ast.unparse(node.func) for node in ast.walk(todo.pop()) if isinstance(node, ast.Call)}
        for i, (file, function) in enumerate(functions):
            if called & {function.name, f"{file.stem}.{function.name}"} and i not in seen:
                seen.add(i)
                todo.append(function)
                found += loads_in(function, stage, file)
    return found


def loads_in(tree: ast.AST, stage: Stage, file: Path | None = None) -> Iterator[Load]:
    name = ".".join((file or stage.source).relative_to(ROOT).with_suffix("").parts)
    options = {option.removeprefix("--"): value for option, value in stage.options.items()}
    for node in nodes_of_kind(tree, options.get("kind", "")):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("load", "params.load") and len(node.args) == 3:
            scope = {**options, **vars(importlib.import_module(name))}
            yield Load(*(eval(ast.unparse(argument), scope) for argument in node.args[1:]))


def nodes_of_kind(tree: ast.AST, kind: str) -> Iterator[ast.AST]:
    """Walk the tree without what stands under `if kind == ...` of another kind."""
    yield tree
    skipped: list[ast.AST] = []
    if isinstance(tree, ast.If | ast.IfExp):
        other = re.fullmatch(r"kind == '(\w+)'", ast.unparse(tree.test))
        if other and other[1] != kind:
            skipped = [*tree.body] if isinstance(tree, ast.If) else [tree.body]
    for child in ast.iter_child_nodes(tree):
        if child not in skipped:
            yield from nodes_of_kind(child, kind)


def is_listed(section: str, listed: list[str], values: dict[str, Any]) -> bool:
    """Tell whether DVC sees every change of `section`: it, a section around it or all its keys are listed."""
    if any(section == name or section.startswith(f"{name}.") for name in listed):
        return True
    value: Any = values
    for key in section.split("."):
        value = value[key]
    keys = [f"{section}.{key}" for key in value] if isinstance(value, dict) else []
    return bool(keys) and all(is_listed(key, listed, values) for key in keys)


@every_stage
def test_params_list_every_section_that_a_stage_loads_and_no_other(stage: Stage) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    sections = {load.section for load in loads(stage)}
    if WHOLE_FILE in stage.params:
        return
    assert {section for section in sections if not is_listed(section, stage.params, values)} == set()
    assert {name for name in stage.params if not any(name == s or name.startswith(f"{s}.") for s in sections)} == set()


@pytest.mark.parametrize("file", PARAM_FILES, ids=lambda file: file.stem)
def test_parameter_files_are_complete_and_fit_their_stages(file: Path) -> None:
    checked = 0
    for stage in read_stages(file):
        for load in loads(stage):
            params.load(file, load.section, load.type)
            checked += 1
    assert checked > 10


STAND_IN = """#!{python}
import json, pathlib, sys, uuid
command = " ".join(["python", *sys.argv[1:]])
with open({log!r}, "a") as log:
    log.write(command + "\\n")
for file in map(pathlib.Path, json.loads(pathlib.Path({outs!r}).read_text())[command]):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(uuid.uuid4().hex)
"""


def files_of(stage: Stage, read: set[str]) -> Iterator[str]:
    """Name the files to write as outputs; in a folder those that other stages read one by one."""
    for out in stage.outs:
        inside = sorted(dep for dep in read if dep.startswith(f"{out}/"))
        yield from inside or [out if Path(out).suffix else f"{out}/file"]


@dataclass(frozen=True)
class Repository:
    """A copy of the repository in which `python` only writes the outputs of a stage, differently each time."""

    folder: Path
    commands: dict[str, str]
    env: dict[str, str]

    def run(self, *command: str) -> list[str]:
        """Run a command and return the names of the stages that ran."""
        log = self.folder / "ran.log"
        log.write_text("")
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [self.commands[line] for line in log.read_text().splitlines()]

    def changed(self) -> set[str]:
        """Return the names of the stages that `dvc status` reports."""
        command = ["dvc", "status", "--json"]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=True)
        return set(json.loads(done.stdout))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "repository"
    skip = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    (folder / ".dvc").mkdir()
    (folder / "manifests").mkdir()
    kept = (
        "dvc.yaml",
        "params.yaml",
        ".gitignore",
        ".dvcignore",
        ".dvc/config",
        ".dvc/.gitignore",
        "manifests/choices.csv",
    )
    for name in kept:
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet", folder], check=True)

    stages = [stage for file in PARAM_FILES for stage in read_stages(file)]
    commands = {" ".join(stage.cmd.split()): stage for stage in stages}
    outs, log, bin_ = tmp_path / "outs.json", folder / "ran.log", tmp_path / "bin"
    read = {dep for stage in stages for dep in stage.deps}
    outs.write_text(json.dumps({command: list(files_of(stage, read)) for command, stage in commands.items()}))
    bin_.mkdir()
    (bin_ / "python").write_text(STAND_IN.format(python=sys.executable, log=str(log), outs=str(outs)))
    (bin_ / "python").chmod(0o755)
    path = os.pathsep.join([str(bin_), str(Path(sys.executable).parent), os.environ["PATH"]])
    names = {command: stage.name for command, stage in commands.items()}
    return Repository(folder, names, {**os.environ, "PATH": path})


@pytest.mark.slow
def test_a_second_repro_runs_nothing_and_takes_at_most_3_s(repository: Repository) -> None:
    assert sorted(repository.run("dvc", "repro")) == sorted(stage.name for stage in STAGES)
    taken_s = []
    for _ in range(3):
        started = time.monotonic()
        assert repository.run("dvc", "repro") == []
        taken_s.append(time.monotonic() - started)
    assert min(taken_s) <= 3


@pytest.mark.slow
def test_the_emotion_prompt_reruns_the_emotion_branch_alone(repository: Repository) -> None:
    repository.run("dvc", "repro")
    file = repository.folder / "params.yaml"
    before = "Continue the following sentence that reflects"
    assert file.read_text().count(before) == 1
    file.write_text(file.read_text().replace(before, "Reply to the following sentence that reflects"))
    ran = repository.run("dvc", "repro")
    of_prompt = ["generate-sentences", "fit-prompt"]  # which is empty without a section for it
    assert [name for name in ran if name in of_prompt] == of_prompt
    ran = [name for name in ran if name not in of_prompt]
    assert ran[:4] == ["generate@emotion", "generate-told", "filter@emotion", "pack@emotion"]
    # the stand-in writes other transcripts of the same clips, so both models are asked about the words again
    words = ["transcribe", "semantics@semantic", "semantics@emotion"]
    assert sorted(ran[4:]) == sorted(["fit-emotion", "probe", "respond-emotion", "judge", "score", "report", *words])
    assert ran[-2:] == ["score", "report"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_runs_beside_the_demo(repository: Repository, recipe: Path, tmp_path: Path) -> None:
    repository.run("dvc", "repro")
    demo = (repository.folder / "results/metrics.json").read_text()
    for root in yaml.safe_load(recipe.read_text())["ingest"].values():
        corpus = tmp_path / Path(root["root"]).relative_to("data")
        corpus.mkdir(parents=True)
        (corpus / "clip").write_text("")
    run = ["recipes/run.sh", recipe.stem]
    assert len(repository.run(*run, str(tmp_path / "corpora"))) == len(read_stages(recipe))
    assert repository.run(*run) == []
    assert (repository.folder / "runs" / recipe.stem / "results/metrics.json").read_text() != demo
    assert (repository.folder / "results/metrics.json").read_text() == demo
    assert repository.run("dvc", "repro") == []


def test_a_recipe_that_does_not_exist_is_named(root: Path) -> None:
    done = subprocess.run([root / "recipes/run.sh", "misspelt"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: recipes/misspelt.yaml: no such recipe; expected one of h100-1 paper real-half real-small"
    )


@pytest.mark.slow
def test_a_changed_reader_reruns_ingest_of_its_corpus_and_a_changed_command_nothing(repository: Repository) -> None:
    params_file = repository.folder / "params.yaml"
    values = yaml.safe_load(params_file.read_text())
    values["ingest"]["tess-copy"] = {**values["ingest"]["cremad-synthetic"], "reader": "tess"}
    params_file.write_text(yaml.safe_dump(values, sort_keys=False))
    repository.commands.update({" ".join(stage.cmd.split()): stage.name for stage in read_stages(params_file)})
    outs_file = repository.folder.parent / "outs.json"
    outs = json.loads(outs_file.read_text())
    for stage in read_stages(params_file):
        outs.setdefault(" ".join(stage.cmd.split()), list(files_of(stage, {dep for s in STAGES for dep in s.deps})))
    outs_file.write_text(json.dumps(outs))
    repository.run("dvc", "repro")
    assert repository.changed() == set()
    reader = repository.folder / "pipeline/corpora/readers/tess.py"
    reader.write_text(reader.read_text() + "# changed\n")
    assert repository.changed() == {"ingest@tess-copy"}
    repository.run("dvc", "repro")
    for command in (repository.folder / "pipeline/commands").rglob("*.py"):
        command.write_text(command.read_text() + "# changed\n")
    assert repository.changed() == set()
