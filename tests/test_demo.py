"""`make demo`: words before and after one `dvc repro`, whose output and exit status it keeps."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml


def run_demo(root: Path, folder: Path, status: int) -> subprocess.CompletedProcess[str]:
    """Run the demo's script in a folder of its own, with a dvc that says what it was asked and ends with `status`."""
    (folder / "recipes").mkdir()
    (folder / "recipes/demo.sh").write_text((root / "recipes/demo.sh").read_text())
    (folder / "bin").mkdir()
    dvc = folder / "bin/dvc"
    dvc.write_text(f"#!/bin/sh\necho dvc: $@\nexit {status}\n")
    dvc.chmod(0o755)
    return subprocess.run(
        ["/bin/bash", folder / "recipes/demo.sh"],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_demo_tells_each_stage_of_the_graph_in_order_before_it_starts(root: Path, tmp_path: Path) -> None:
    before = run_demo(root, tmp_path, 0).stdout.partition("dvc: ")[0]
    told = re.findall(r"^  (\S+) +([\d.]+) (s|min) +\S.*$", before, re.MULTILINE)
    assert [name for name, *_ in told] == list(yaml.safe_load((root / "dvc.yaml").read_text())["stages"])
    minutes = sum(float(number) / {"s": 60, "min": 1}[unit] for _, number, unit in told)
    said = re.search(r"about (\d+) minutes", before)
    assert said is not None
    assert minutes == pytest.approx(int(said[1]), rel=0.2)


def test_the_demo_runs_dvc_once_and_ends_with_three_lines(root: Path, tmp_path: Path) -> None:
    done = run_demo(root, tmp_path, 0)
    assert done.returncode == 0
    assert re.findall("^dvc: .*", done.stdout, re.MULTILINE) == ["dvc: repro"]
    after = done.stdout.partition("dvc: repro\n")[2].splitlines()
    assert len(after) == 3
    assert after[0].startswith("demo: made ")
    assert after[2].startswith("demo: next, ")


def test_a_demo_whose_graph_fails_keeps_its_status_and_says_nothing_after_it(root: Path, tmp_path: Path) -> None:
    done = run_demo(root, tmp_path, 7)
    assert done.returncode == 7
    assert done.stdout.endswith("dvc: repro\n")


def test_what_the_demo_says_it_made_is_an_output_of_the_graph(root: Path, tmp_path: Path) -> None:
    line = next(line for line in run_demo(root, tmp_path, 0).stdout.splitlines() if line.startswith("demo: made "))
    places = re.findall(r"(?:results|models)/[\w./]+", line)
    graph = (root / "dvc.yaml").read_text()
    assert len(places) == 4
    assert all(place in graph for place in places)
