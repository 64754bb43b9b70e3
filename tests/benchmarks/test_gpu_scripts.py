"""What is to run on a bare GPU machine runs tiny on a CPU: the benchmark with every part, and a recipe in pieces."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM

from benchmarks.gpu.learning import compare
from benchmarks.gpu.llm import useful
from benchmarks.gpu.official import OfficialLayout, OfficialObjective, collate
from benchmarks.gpu.sizes import Stage, build_model, draw_clips, durations_s, frame, full, tiny
from benchmarks.gpu.steps import Steps, measure_flops
from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.tables.continuations import STOP, TOLD_SCHEMA
from pipeline.weights.source import ModelsParams
from tests.builders import utterance, write_table
from train.data.dataset import Collator
from train.fit.objectives import SemanticAlignment
from train.model.encoder import SpeechEncoder
from train.useful_flops import LLMFlops

EMOTIONS = ["sad", "happy"]
STAGES: tuple[Stage, ...] = ("semantic", "emotion")


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """accelerate keeps one precision for a process: the other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def checkout(tmp_path: Path, root: Path) -> Path:
    """The code in another place, so that what the scripts leave beside it is left there."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("cargo", "results", "__pycache__")
    shutil.copytree(root / "benchmarks", folder / "benchmarks", ignore=ignored)
    for name in ("pipeline", "train", "evaluate", "tests", "pyproject.toml", "params.yaml"):
        (folder / name).symlink_to(root / name)
    (folder / ".venv").symlink_to(root / ".venv")
    return folder


def run(checkout: Path, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    # the parts start two trainings at a time, each of which would take all cores
    return subprocess.run(
        ["/bin/bash", *command], cwd=checkout, env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_every_part_runs_tiny_and_one_that_fails_stops_no_other(
    checkout: Path, packed_folder: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    for kind in ("semantic", "emotion"):
        shutil.copytree(packed_folder, rows / kind)
    out = tmp_path / "figures"
    done = run(checkout, "benchmarks/gpu/run.sh", "--tiny", "--out", str(out), "--rows", str(rows))
    print(done.stdout[-5000:], done.stderr[-5000:])
    assert done.returncode == 0
    figures = {file.stem: json.loads(file.read_text()) for file in out.iterdir()}
    assert figures.keys() == {"machine", "tests", "steps-semantic", "steps-emotion", "llm", "learning"}
    assert figures["machine"]["device"] is None
    assert figures["tests"]["tests"] > 10
    assert figures["learning"]["within"]
    for stage in ("semantic", "emotion"):
        steps = figures[f"steps-{stage}"]
        assert steps["flops_executed"]["official_over_useful"] > 2 * steps["flops_executed"]["packed_over_useful"]
        sections = {"encoder layers", "adapter", "student", "loss", "adapter, backward", "optimizer"}
        assert sections < steps["sections_padded_new"].keys()
        assert steps["packed_new"]["peak_gib"] is steps["synchronisations_packed"] is None
        assert steps["kernels_seen_packed"] is None
        assert steps["rounded_new"]["median_s"] > 0
        assert steps["compiled"]["steps"] == steps["rounded_new"]["steps"]

    some = ("learning", "machine")
    done = run(checkout, "benchmarks/gpu/run.sh", "--tiny", "--out", str(out), "--rows", "nowhere", *some)
    assert done.returncode == 1
    assert "learning: " in done.stdout
    assert "FAILED with status 1" in done.stdout
    assert "nowhere/semantic: no frame.json" in done.stderr
    assert not (out / "learning.json").exists()
    assert (out / "machine.json").exists()


def test_an_unknown_part_is_named(checkout: Path) -> None:
    done = run(checkout, "benchmarks/gpu/run.sh", "machines")
    assert done.returncode == 2
    assert "error: machines: no such part; expected some of machine tests" in done.stderr


@pytest.mark.slow
def test_a_recipe_cut_into_pieces_is_trained_and_scored_where_they_arrive(
    checkout: Path, packed_folder: Path, tiny_models: ModelsParams, root: Path, tmp_path: Path
) -> None:
    planned = checkout / "runs" / "small"
    for kind in ("semantic", "emotion"):
        shutil.copytree(packed_folder, planned / "data" / "packed" / kind)
        tested = [utterance(f"corpus/test-{i}", split="test") for i in range(8)]
        write_table(planned / "manifests" / f"{kind}.parquet", [utterance("corpus/x", split="train"), *tested])
    told = {"key": None, "continuation": "and on", "finish_reason": STOP, "logprob": -1.0, "end_id": 0}
    told |= {"engine": "x", "generation": 1}
    rows = [
        told | {"text": f"text {i}", "emotion": emotion, "token_ids": [30 + number]}
        for i in range(8) for number, emotion in enumerate(EMOTIONS)
    ]  # fmt: skip
    write_table(planned / "manifests" / "continuations" / "told.parquet", rows, TOLD_SCHEMA)
    values = yaml.safe_load((root / "params.yaml").read_text())
    values |= {"models": tiny_models.model_dump(), "emotions": EMOTIONS}
    for fit in values["fit"].values():
        fit |= {"max_steps": 2}
    values["fit"]["semantic"]["warm_start"] = None
    values["respond"] |= {"max_new_tokens": 4, "examples": 2, "precision": "bfloat16"}
    (planned / "params.yaml").write_text(yaml.safe_dump(values))
    done = run(checkout, "benchmarks/gpu/recipe.sh", "cut", "small", BLSP_PIECE_MIB="1")
    assert done.returncode == 0, done.stderr
    pieces = checkout / "benchmarks/gpu/cargo/pieces/small"
    names = sorted(file.name for file in pieces.iterdir())
    assert names[:2] == ["SUMS", "piece-00"]
    assert len(names) > 2
    assert done.stdout.count("of 60 MiB") == len(names) - 1

    there = tmp_path / "there"
    for number, name in enumerate(names[1:], 1):  # a trip each
        trip = checkout.with_name(f"trip-{number}")
        shutil.copytree(checkout, trip, symlinks=True, ignore=shutil.ignore_patterns("piece-*", "runs"))
        shutil.copy(pieces / name, trip / "benchmarks/gpu/cargo/pieces/small")
        done = run(trip, "benchmarks/gpu/recipe.sh", "keep", "small", BLSP_RECIPE_DIR=str(there))
        assert f"{number} of {len(names) - 1} pieces are there" in done.stdout
    out = tmp_path / "out"
    done = run(trip, "benchmarks/gpu/recipe.sh", "run", "small", "--out", str(out), BLSP_RECIPE_DIR=str(there))
    assert done.returncode == 0, done.stderr
    assert {file.name for file in out.iterdir()} == {
        "semantic.losses.jsonl", "emotion.losses.jsonl", "metrics.json", "confusions.json", "times.txt",
        "divergence.parquet", "recognition.parquet", "examples.parquet", "dev_head.parquet", "prompts.parquet",
        "own_answers.parquet", "written.parquet",
    }  # fmt: skip
    assert "told_true" in json.loads((out / "metrics.json").read_text())["own_answers_corpus"]
    agreed = re.search(r"agreement: label choices: (\d+) of 48", (out / "times.txt").read_text())
    assert agreed
    assert 24 < int(agreed[1]) <= 48  # a tie of random weights may fall either way

    piece = there / "small" / "pieces" / "piece-00"
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    done = run(trip, "benchmarks/gpu/recipe.sh", "run", "small", "--out", str(out), BLSP_RECIPE_DIR=str(there))
    assert done.returncode != 0
    assert "piece-00: FAILED" in done.stdout + done.stderr


@pytest.mark.usefixtures("own_accelerator")
def test_useful_flops_are_those_of_a_step_without_padding() -> None:
    torch.manual_seed(0)
    for stage in STAGES:
        steps = Steps(tiny(), stage)
        (clip,) = draw_clips(tiny(), stage, 1, seed=5)
        executed = measure_flops(steps, [[clip]])["padded_over_useful"] * steps.useful([clip])
        away = steps.padded_on([clip]).num_positions - num_speech_tokens(clip.num_frames)
        at_other_positions = 3 * away * steps.flops.llm.lora
        # 1 but for masked attention, and for the gradients that the start and the last block do without
        assert 0.95 < executed / (steps.useful([clip]) + at_other_positions) < 1.15


def test_the_official_layout_gives_the_products_loss_on_the_same_batch() -> None:
    sizes = tiny()
    model = build_model(sizes).float()
    clips = draw_clips(sizes, "semantic", 1, seed=0)
    ours = SemanticAlignment(model.output_head, 2.0)
    theirs = OfficialObjective(ours.weights, 2.0)
    model.encoder = SpeechEncoder(model.encoder.whisper, pad_to_30s=True)
    official = OfficialLayout(model)
    padded = collate(clips, frame(), with_teacher=True)
    batch = Collator(frame(), with_teacher=True)(clips)
    with torch.no_grad():
        plain = ours.sums(model(padded), padded)["kl"]
        torch.testing.assert_close(theirs.sums(official(padded), padded)["kl"], plain, rtol=1e-3, atol=1e-4)
    assert padded.num_positions >= batch.num_positions


def test_clips_are_as_long_as_the_corpora_have_them() -> None:
    for stage, mean in zip(STAGES, (12.3, 4.5), strict=True):
        seconds = durations_s(stage, 20_000, np.random.default_rng(0))
        assert seconds.mean() == pytest.approx(mean, abs=0.15)
        assert seconds.max() <= 30


def test_at_the_published_sizes_a_step_costs_what_the_method_says() -> None:
    with torch.device("meta"):
        flops = LLMFlops.of(AutoModelForCausalLM.from_config(full().llm))
    # 6.5 G weights in the blocks of Qwen2.5-7B, 0.5 G in its output matrix: 2 FLOPs each, forward and backward
    assert useful(flops, np.array([1]), share=0.0) == pytest.approx(4 * (6.53e9 + 0.545e9), rel=0.01)


def test_losses_are_compared_by_their_first_and_their_mean() -> None:
    found = compare([2.0, 1.0], [2.02, 1.1])
    assert found["first_off"] == pytest.approx(0.01)
    assert found["mean_off"] == pytest.approx(0.04)
