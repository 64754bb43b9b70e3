"""A benchmark's results file says what was measured, where and with which code, and is never half of one."""

import errno
import json
import os
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results_file
from benchmarks.results_file import COMPARED, median_and_runs, recorded
from train.commit import commit_of


def git(repository: Path, *arguments: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *names, *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def no_other_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """A git hook names its own repository to what it runs, and a user's settings may ask for signatures."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "first")
    return tmp_path


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "steps.json").read_text())
    return content


def test_figures_stand_with_machine_versions_commit_and_day(tmp_path: Path, root: Path) -> None:
    with recorded("steps", tmp_path) as figures:
        figures["step"] = median_and_runs("step_s", [3.0, 1.0, 2.0])
    content = written(tmp_path)
    assert content.keys() == {"figures", "machine", "versions", "commit", "date"}
    assert content["figures"] == {"step": {"step_s": 2.0, "step_s_runs": [3.0, 1.0, 2.0]}}
    assert content["machine"].keys() == {"processor", "usable_cores", "memory_gib", "gpu"}
    assert content["machine"]["usable_cores"] == len(os.sched_getaffinity(0))
    assert content["machine"]["memory_gib"] > 1
    assert content["versions"]["python"].startswith("3.")
    assert content["versions"]["numpy"][0].isdigit()
    assert content["commit"] == commit_of(root, *COMPARED)
    assert date.fromisoformat(content["date"])


def test_a_package_that_is_absent_has_no_version() -> None:
    assert results_file.versions(["no-such-package"]) == {"no-such-package": None}


def test_a_benchmark_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("old")

    def measure() -> None:
        with recorded("steps", tmp_path) as figures:
            figures["step_s"] = 1.0
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure()
    assert (tmp_path / "steps.json").read_text() == "old"


def test_a_write_that_fails_halfway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "steps.json").write_text("old")

    def write_half(path: Path, text: str, **_: Any) -> int:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match=r"steps\.json"), recorded("steps", tmp_path) as figures:
        figures["step_s"] = 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["steps.json"]
    assert (tmp_path / "steps.json").read_text() == "old"


def test_a_figure_that_json_does_not_know_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("old")
    with pytest.raises(TypeError, match="not JSON serializable"), recorded("steps", tmp_path) as figures:
        figures["step_s"] = tmp_path
    assert (tmp_path / "steps.json").read_text() == "old"


def test_without_git_the_commit_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with recorded("steps", tmp_path):
        pass
    assert written(tmp_path)["commit"] is None


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None


def test_a_commit_is_dirty_where_code_differs_but_not_where_results_do(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    (repository / "benchmarks" / "results").mkdir(parents=True)
    (repository / "benchmarks" / "results" / "steps.json").write_text("{}")
    assert commit_of(repository, *COMPARED) == first
    (repository / "more.py").write_text("")
    assert commit_of(repository, *COMPARED) == f"{first}-dirty"
    git(repository, "add", ".")
    git(repository, "commit", "--message", "second")
    (repository / "code.py").write_text("x = 1\n")
    assert commit_of(repository, *COMPARED) == f"{git(repository, 'rev-parse', 'HEAD')}-dirty"
