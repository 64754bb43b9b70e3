"""What a CPU computes, a GPU computes, too: tightly in float32, within bounds in bfloat16.

`pytest -m gpu` on a machine with a GPU. BLSP_TEST_DEVICE=cpu puts the CPU in its place, to try the tests themselves.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from pipeline.prompts import Prompt, Prompter
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import emotion_fit_section, model_config, semantic_fit_section
from train import saved_model
from train.data.dataset import Collator, Examples
from train.data.log_mel import LogMel
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.inference import Answering, Clip
from train.model import Batch, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.plora import lora_config
from train.model_config import ModelConfig
from train.precision import autocast

pytestmark = pytest.mark.gpu

EMOTIONS = ["sad", "happy"]
TIGHT, BOUNDED = 1e-4, 5e-2  # of the norm of what the CPU computes in float32
FIT = {"epochs": 3.0, "learning_rate": 1e-3, "precision": "bfloat16", "save_every": 1}
KILLED_AFTER = 4  # of 9 steps
KILL = f"""
import os, signal
from pipeline.stage import run_stage
from train.fit import checkpoint, __main__ as fit
save = checkpoint.save
def save_and_die(folder, state, keep):
    save(folder, state, keep)
    if state.step == {KILLED_AFTER}:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = save_and_die
run_stage(fit.main)
"""


@pytest.fixture(scope="module")
def device() -> torch.device:
    if "BLSP_TEST_DEVICE" not in os.environ and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device(os.environ.get("BLSP_TEST_DEVICE", "cuda"))


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """Convolutions in float32 proper; cuDNN would take TF32 for them."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def config(models: ModelsParams) -> ModelConfig:
    return model_config(models)


def build(models: ModelsParams, dtype: torch.dtype, device: torch.device) -> SpeechLLM:
    """The same model each time, with a P-LoRA whose B is not zero and everything trained that ever is."""
    model = saved_model.build(config(models), dtype)
    model.add_plora(lora_config(4, 4, 0.0, "all-linear"))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    model.encoder.train_weights()
    return model.to(device)


@pytest.fixture(scope="module")
def batches(packed_folder: Path, tiny_models: ModelsParams) -> dict[str, Batch]:
    rows = Examples(packed.load(packed_folder, "train"), LogMel(fetch(tiny_models.encoder), False), EMOTIONS)
    shell, examples = packed.load_shell(packed_folder), [rows[i] for i in (0, 5, 11)]
    packing = partial(packed_sequences, shares_start=True)
    return {
        "padded": Collator(shell, with_teacher=True)(examples),
        "packed": Collator(shell, with_teacher=True, lay_out=packing)(examples),
    }


@pytest.fixture(scope="module")
def batch(batches: dict[str, Batch]) -> Batch:
    return batches["padded"]


def objective(stage: str, model: SpeechLLM) -> Objective:
    if stage == "semantic":
        return SemanticAlignment(model.output_head, 2.0)
    return EmotionAlignment(model.output_head, 1.0, model.head.classify.out_features)


def loss_and_gradients(model: SpeechLLM, batch: Batch, stage: str) -> tuple[Tensor, dict[str, Tensor]]:
    aim = objective(stage, model)
    with autocast(model.llm):
        outputs = model(batch)
    sums = aim.sums(outputs, batch)
    loss = sum((aim.weights[name] * term for name, term in sums.items()), torch.zeros((), device=batch.emotion.device))
    loss.backward()
    gradients = {n: p.grad.cpu().float() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach().cpu(), gradients


def off(found: Tensor, expected: Tensor) -> float:
    """How far a tensor is from another, of the norm of the other."""
    return float((found.cpu().double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, TIGHT), (torch.bfloat16, BOUNDED)])
def test_encoder_adapter_and_head_give_the_same(
    tiny_models: ModelsParams, batch: Batch, device: torch.device, dtype: torch.dtype, within: float
) -> None:
    outputs = []
    for model in (build(tiny_models, torch.float32, torch.device("cpu")), build(tiny_models, dtype, device)):
        there = batch.to(model.head.mean.device)
        with torch.no_grad(), autocast(model.llm):
            states, lengths = model.encoder(there.features, there.num_frames)
            speech = model.encode_speech(there.features, there.num_frames)
            outputs.append((states, speech.embeddings, model.head(speech.pooled()), lengths, speech.valid))
    (*expected, lengths, valid), (*found, found_lengths, found_valid) = outputs
    assert torch.equal(found_lengths.cpu(), lengths)
    assert torch.equal(found_valid.cpu(), valid)
    for ours, cpu in zip(found, expected, strict=True):
        assert off(ours, cpu) < within


@pytest.mark.parametrize("stage", ["semantic", "emotion"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, TIGHT), (torch.bfloat16, BOUNDED)])
def test_losses_and_gradients_are_the_cpus(
    tiny_models: ModelsParams,
    batches: dict[str, Batch],
    device: torch.device,
    dtype: torch.dtype,
    within: float,
    layout: str,
    stage: str,
) -> None:
    on_cpu = build(tiny_models, torch.float32, torch.device("cpu"))
    expected, cpu = loss_and_gradients(on_cpu, batches["padded"], stage)
    found, ours = loss_and_gradients(build(tiny_models, dtype, device), batches[layout].to(device), stage)
    assert off(found, expected) < within
    assert cpu.keys() == ours.keys()
    assert any("lora_A" in name for name in cpu)
    assert any(name.startswith("encoder") for name in cpu)
    whole = [torch.cat([gradients[name].flatten() for name in cpu]) for gradients in (ours, cpu)]
    assert off(*whole) < within


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_text_a_trained_plora_leaves_the_llm_bit_for_bit(
    tiny_models: ModelsParams, device: torch.device, dtype: torch.dtype
) -> None:
    text = replace(sequences([5, 6], [[20, 21], [22]], [7], [[10, 11, 12], [13, 14]]), num_shared=0).to(device)
    model = build(tiny_models, dtype, device)
    states = []
    for _ in ("trained", "zero"):
        with torch.no_grad(), autocast(model.llm):
            states.append(model.response_states(text, None))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.zeros_(parameter)
    assert torch.equal(*states)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, TIGHT), (torch.bfloat16, BOUNDED)])
def test_label_scores_and_answers_are_the_cpus(
    tiny_models: ModelsParams, device: torch.device, dtype: torch.dtype, within: float
) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    prompts = [prompter.speech(Prompt(system="s", text="say: ", speech="hear: "))] * 2
    generator = torch.Generator().manual_seed(0)
    clips = [Clip(torch.randn(80, frames, generator=generator), frames) for frames in (200, 300)]
    scores, answers = [], []
    for model in (build(tiny_models, torch.float32, torch.device("cpu")), build(tiny_models, dtype, device)):
        answering = Answering(model, prompter, max_new_tokens=6)
        with torch.no_grad():
            scores.append(torch.tensor(answering.label_scores(prompts, clips, EMOTIONS)))
            answers.append(answering.write(prompts, clips))
    assert off(scores[1], scores[0]) < within
    if dtype == torch.float32:
        assert answers[1] == answers[0]


@pytest.fixture
def params_file(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    fit = {"semantic": semantic_fit_section(**FIT), "emotion": emotion_fit_section(**FIT)}
    sections = {"models": tiny_models.model_dump(), "emotions": EMOTIONS, "fit": fit}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "params.yaml"


def fit(params_file: Path, kind: str, data: Path, output: str, *how: str) -> "subprocess.Popen[str]":
    folder = params_file.parent
    command = [sys.executable, *how, "--kind", kind, "--data", str(data), "--output", str(folder / output)]
    command += ["--params", str(params_file), "--checkpoints", str(folder / output / "checkpoints"), "--resume"]
    command += ["--logs", str(folder / output / "logs")]
    command += ["--init", str(folder / "init")] if kind == "emotion" else []
    env = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 4))}  # four run at a time
    env |= {"ACCELERATE_USE_CPU": "1"} if os.environ.get("BLSP_TEST_DEVICE") == "cpu" else {}
    return subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def losses(folder: Path) -> list[float]:
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_both_stages_train_in_bfloat16_and_go_on_after_a_kill(
    params_file: Path, packed_folder: Path, tiny_models: ModelsParams, device: torch.device
) -> None:
    folder, kinds = params_file.parent, ("semantic", "emotion")
    saved_model.save(build(tiny_models, torch.float32, torch.device("cpu")), config(tiny_models), folder / "init")
    wholes = [fit(params_file, kind, packed_folder, kind, "-m", "train.fit") for kind in kinds]
    killed = [fit(params_file, kind, packed_folder, f"killed-{kind}", "-c", KILL) for kind in kinds]
    for process, status in zip([*wholes, *killed], [0, 0, -signal.SIGKILL, -signal.SIGKILL], strict=True):
        _, error = process.communicate()
        assert process.returncode == status, error
    resumed = [fit(params_file, kind, packed_folder, f"killed-{kind}", "-m", "train.fit") for kind in kinds]
    for kind, process in zip(kinds, resumed, strict=True):
        told, error = process.communicate()
        assert process.returncode == 0, error
        assert f"continues after step {KILLED_AFTER} of 9" in told
        assert len(losses(folder / kind)) == 9
        assert losses(folder / f"killed-{kind}") == pytest.approx(losses(folder / kind), rel=0.02)
