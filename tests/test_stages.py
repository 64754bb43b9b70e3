"""What a person sees who makes a mistake: one line, exit status 1 (2 for the command line), no traceback."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

STAGES = [
    "pipeline.synthesise",
    "pipeline.ingest",
    "pipeline.split",
    "pipeline.leaks",
    "pipeline.sentences",
    "pipeline.generate",
    "pipeline.filter",
    "pipeline.pack",
    "train.fit",
    "train.fit_prompt",
    "evaluate.transcribe",
    "evaluate.respond",
    "evaluate.semantics",
    "evaluate.judge",
    "evaluate.score",
    "evaluate.report",
]


def environment() -> dict[str, str]:
    # without bytecode: where files end at some size, it would be cut, and break whoever reads it next
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}


def run(
    arguments: list[str], folder: Path, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=before,
    )


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_bars_of_libraries_stay_out_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "bars.py").write_text(
        "import sys, tqdm, tqdm.auto\n"
        "from pipeline.stage import run_app\n"
        "run_app(lambda: [list(bar(range(3))) for bar in (tqdm.tqdm, tqdm.auto.tqdm)])\n"
    )
    done = run(["bars"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_what_it_takes(stage: str, tmp_path: Path) -> None:
    done = run([stage, "--help"], tmp_path)
    assert done.returncode == 0
    assert f"python -m {stage}" in done.stdout


@pytest.mark.parametrize("package", ["pipeline", "train", "evaluate"])
def test_every_package_lists_its_stages(package: str, tmp_path: Path) -> None:
    done = run([package, "--help"], tmp_path)
    stages = [stage for stage in STAGES if stage.startswith(package)]
    assert done.returncode == 0
    assert all(f"python -m {stage} " in done.stdout for stage in stages)


def test_a_wrong_command_line_ends_with_status_2(tmp_path: Path) -> None:
    for arguments in (
        ["pipeline.ingest", "--corpus", "ravdess"],
        ["train.fit", "--kind", "both"],
        ["evaluate", "sing"],
    ):
        done = run(arguments, tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_missing_corpus_is_one_line(tmp_path: Path) -> None:
    done = run(["pipeline.ingest", "--corpus", "ravdess", "--root", "nowhere", "--output", "m.parquet"], tmp_path)
    assert "nowhere" in the_one_line(done)
    assert not list(tmp_path.iterdir())


def test_a_misspelt_parameter_is_one_line_that_knows_better(root: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["generate"]["max_new_tokns"] = values["generate"].pop("max_new_tokens")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    done = run(
        ["pipeline.generate", "--kind", "semantic", "--manifest", "m.parquet", "--output", "o.parquet"], tmp_path
    )
    assert "generate.max_new_tokns: unknown parameter, did you mean max_new_tokens?" in the_one_line(done)


def test_a_missing_model_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    done = run(["evaluate.respond", "--kind", "semantic", "--data", "d", "--model", "m", "--output", "o"], tmp_path)
    assert "d: no packed split test" in the_one_line(done)


def test_a_file_system_that_takes_no_more_is_one_line_and_nothing_is_left_half_written(
    root: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["synthesise"] = {"s": {**values["synthesise"]["librispeech-synthetic"], "root": "corpus"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert run(["pipeline.synthesise", "--name", "s", "--output", "corpus"], tmp_path).returncode == 0

    def files_end_at_1_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    ingest = ["pipeline.ingest", "--corpus", "librispeech", "--root", "corpus", "--output", "out/m.parquet"]
    assert "out/" in the_one_line(run(ingest, tmp_path, files_end_at_1_kb))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"m.quarantine.parquet"}
    assert run(ingest, tmp_path).returncode == 0


SAVES = {
    "train.fit.checkpoint": (
        "module.save(Path('out'), module.Checkpoint(1, {'a': torch.zeros(9999)}, {}, [], 0.0, None), keep=1)"
    ),
    "train.saved_model": "module.save(torch.nn.ModuleDict({'adapter': torch.nn.Linear(99, 99)}), None, Path('out'))",
}


@pytest.mark.parametrize("module", SAVES)
def test_a_disk_that_is_full_while_training_saves_is_one_line(tmp_path: Path, module: str) -> None:
    code = f"""
import torch
from pathlib import Path
from pipeline.stage import run_app
import {module} as module
run_app(lambda: {SAVES[module]})
"""

    def files_end_at_1_kb() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), text=True,
        capture_output=True, check=False, preexec_fn=files_end_at_1_kb,
    )  # fmt: skip
    assert "out/" in the_one_line(done)
    assert "too large" in done.stderr or "space" in done.stderr
    assert not list((tmp_path / "out").iterdir())
