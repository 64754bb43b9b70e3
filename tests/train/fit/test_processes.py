"""Training on several processes is training on one with as many batches in a step."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, change_params, semantic_fit_section

BATCHES = batch_section(max_frames=60, per_step=4)  # a row is a batch
FIT = {"batches": BATCHES, "evaluate_every": 2, "save_every": 2, "augment": "with-speed", "answers": 1}


def prepare(folder: Path, models: ModelsParams, data: Path, num_processes: int) -> tuple[list[str], dict[str, str]]:
    """Write the parameters of a run; return its command without Python, and its environment."""
    folder.mkdir()
    sections = {
        "models": models.model_dump(),
        "emotions": ["sad", "happy"],
        "fit": {"semantic": semantic_fit_section(**FIT)},
        "processes": num_processes,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(sections))
    command = ["-m", "train.fit", "--kind", "semantic", "--data", str(data), "--output", "model"]
    return command, os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}


def fit(folder: Path, models: ModelsParams, data: Path, num_processes: int) -> Path:
    command, env = prepare(folder, models, data, num_processes)
    subprocess.run([sys.executable, *command], cwd=folder, env=env, check=True)
    return folder / "model"


def fit_on_two_machines(folder: Path, models: ModelsParams, data: Path) -> Path:
    """Train as docs/launch.md says, with both machines on this one."""
    command, env = prepare(folder, models, data, num_processes=1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    started = [sys.executable, *launch, "--rdzv-endpoint", host, *command]
    machines = [subprocess.Popen(started, cwd=folder, env=env) for _ in range(2)]
    assert [machine.wait() for machine in machines] == [0, 0]
    return folder / "model"


def dev_losses(model: Path) -> list[float]:
    records = [yaml.safe_load(line) for line in (model / "losses.jsonl").read_text().splitlines()]
    return [record["dev_kl"] for record in records if "dev_kl" in record]


@pytest.mark.slow
def test_several_processes_learn_what_one_does(tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path) -> None:
    one = fit(tmp_path / "one", tiny_models, packed_folder, 1)
    three = fit(tmp_path / "three", tiny_models, packed_folder, 3)  # a step has two spare batches
    machines = fit_on_two_machines(tmp_path / "machines", tiny_models, packed_folder)
    assert len(dev_losses(one)) == 4
    expected = load_file(one / "adapter.safetensors")
    for several in (three, machines):
        assert dev_losses(several) == pytest.approx(dev_losses(one), rel=1e-3)
        for name, tensor in load_file(several / "adapter.safetensors").items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_processes_share_the_writing_of_encoder_states(
    tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path
) -> None:
    changes = {"augment": "none", "encoder_states": "cached", "max_steps": 2}
    written = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        command, env = prepare(folder, tiny_models, packed_folder, count)
        change_params({f"fit.semantic.{key}": value for key, value in changes.items()}, folder / "params.yaml")
        subprocess.run([sys.executable, *command], cwd=folder, env=env, check=True)
        files = sorted(folder.glob("checkpoints/encoder-states/*/*.states"))
        written.append([(file.parent.name, file.name, file.read_bytes()) for file in files])
    assert [name for _, name, _ in written[0]] == ["dev-00000.states", "train-00000.states"]
    assert written[0] == written[1]
