"""A step of the trainer has the losses and gradients of an independent dense computation (tests/dense_reference.py)."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests import builders
from tests.backbones import BACKBONES, SMALL
from tests.dense_reference import DenseReference, Prompt, Row
from train import saved_model
from train.data.dataset import Collator, Example
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.fit.schedule import Schedule
from train.fit.trainer import Trainer
from train.losses import response_ce, response_kl
from train.model import Batch, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.plora import SpeechMask, lora_config

BEFORE_SPEECH, BEFORE_TEXT, AFTER = [5, 6, 7], [15, 6], [8, 9]
RANK, ALPHA, TEMPERATURE, EMOTION_WEIGHT = 2, 3, 2.0, 1.0
LOSS, GRADIENT = 1e-9, 1e-8
DIVISIONS = [[[0, 1, 2, 3]], [[2, 0], [3, 1]], [[3], [1], [0], [2]]]
CLIPS = [  # frames of log-mel, transcript, response, emotion
    (101, [20, 21, 22], [40, 41, 0], 0),
    (16, [], [50], 1),
    (260, [30, 31], [60, 61, 62, 0], 0),
    (17, [33], [70, 0], 1),
]


def build(folder: Path, tiny: ModelsParams, name: str, stage: int, pad_to_30s: bool) -> SpeechLLM:
    """Return a model of random weights in float64, ready for a step of a stage; no trained tensor is zero."""
    torch.manual_seed(0)
    config = BACKBONES[name].config(**(SMALL | BACKBONES[name].more))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    models = ModelsParams.model_validate({"encoder": tiny.encoder, "llm": builders.weights(folder)})
    model = saved_model.build(builders.model_config(models, pad_to_30s=pad_to_30s), torch.float32)
    if stage == 1:
        model.head.requires_grad_(False)
    else:
        model.add_plora(lora_config(RANK, ALPHA, 0.0, "all-linear"))
        model.encoder.train_weights()
        nn.init.normal_(model.head.mean, std=0.1)
        nn.init.uniform_(model.head.deviation, 0.5, 2.0)
    model = model.double()
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim == 1 or "lora_B" in parameter_name:  # biases start at zero
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def examples(pad_to_30s: bool) -> list[Example]:
    """Return the clips; padded to 30 s, the encoder gets 3,000 frames of each, which are not silent after its end."""
    generator = torch.Generator().manual_seed(2)
    return [
        Example(
            torch.randn(80, 3000 if pad_to_30s else frames, generator=generator, dtype=torch.float64),
            frames, text, response, emotion,
        )
        for frames, text, response, emotion in CLIPS
    ]  # fmt: skip


def batches_of(
    division: list[list[int]], layout: str, stage: int, pad_to_30s: bool = False, shares_start: bool = True
) -> list[Batch]:
    """Put the clips into batches as training does."""
    shell = PromptShell(before_speech=BEFORE_SPEECH, before_text=BEFORE_TEXT, after=AFTER)
    lay_out = partial(packed_sequences, shares_start=shares_start) if layout == "packed" else sequences
    collate, clips = Collator(shell, with_teacher=stage == 1, lay_out=lay_out), examples(pad_to_30s)
    return [collate([clips[row] for row in rows]) for rows in division]


def objective_of(model: SpeechLLM, stage: int) -> Objective:
    head = model.output_head
    return SemanticAlignment(head, TEMPERATURE) if stage == 1 else EmotionAlignment(head, EMOTION_WEIGHT, 2)


def trained_step(model: SpeechLLM, objective: Objective, batches: Sequence[Batch]) -> tuple[float, dict[str, Tensor]]:
    """Take a step of the trainer; return its loss, and what plain SGD at rate 1 subtracts: the gradient."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    schedule = Schedule(shape="constant", seed=1, num_steps=1, warmup_steps=0, max_grad_norm=1e9)
    trainer = Trainer(model, objective, optimizer, schedule, Accelerator(cpu=True))
    terms, _ = trainer.step(0, batches).read()
    gradients = {name: tensor - trainer.trained[name].detach() for name, tensor in before.items()}
    trainer.set_tensors(before)
    return sum(objective.weights[name] * value for name, value in terms.items()), gradients


def expected_step(model: SpeechLLM, stage: int, pad_to_30s: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of the same step by the dense reference."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    reference = DenseReference(
        model.state_dict(), trained, model.encoder.whisper.config, model.llm.config, lora_scale=ALPHA / RANK
    )
    rows = [
        Row(log_mel=clip.features, num_frames=clip.num_frames, text=clip.text_ids, response=clip.response_ids,
            emotion=clip.emotion)
        for clip in examples(pad_to_30s)
    ]  # fmt: skip
    speech, text = Prompt(before=BEFORE_SPEECH, after=AFTER), Prompt(before=BEFORE_TEXT, after=AFTER)
    if stage == 1:
        loss = reference.semantic_loss(rows, speech, text, TEMPERATURE)
    else:
        loss = reference.emotion_loss(rows, speech, EMOTION_WEIGHT)
    loss.backward()
    return float(loss.detach()), reference.gradients()


def differences(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> list[str]:
    """Name the loss if it differs by more than LOSS, and each tensor whose gradient differs by more than GRADIENT.

    Both are shares: of the loss, and of the largest gradient of all tensors.
    """
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    others = [
        name for name, gradient in found[1].items()
        if not (gradient - expected[1][name]).abs().max() <= GRADIENT * largest
    ]  # fmt: skip
    return others if abs(found[0] - expected[0]) <= LOSS * abs(expected[0]) else ["loss", *others]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ["Llama", "Qwen2.5", "Qwen3"])
def test_a_step_has_the_loss_and_gradients_of_the_dense_reference(
    tmp_path: Path, tiny_models: ModelsParams, name: str, stage: int
) -> None:
    model = build(tmp_path, tiny_models, name, stage, pad_to_30s=False)
    objective, expected = objective_of(model, stage), expected_step(model, stage)
    first = {weight.split(".")[0] for weight in expected[1]}
    assert first == ({"adapter"} if stage == 1 else {"adapter", "encoder", "head", "llm"})
    assert expected[0] > 0.1
    without_gradient = [weight for weight, gradient in expected[1].items() if not gradient.abs().max() > 0]
    # speech reaches the response through the keys and values of the last layer alone
    assert all("llm.model.layers.1." in weight for weight in without_gradient)
    for layout, shares_start in (("padded", True), ("packed", True), ("packed", False)):
        for division in DIVISIONS:
            model.shares_start = shares_start
            batches = batches_of(division, layout, stage, shares_start=shares_start)
            assert differences(trained_step(model, objective, batches), expected) == []


@pytest.mark.parametrize("stage", [1, 2])
def test_clips_padded_to_30_s_as_published_have_them_too(tmp_path: Path, tiny_models: ModelsParams, stage: int) -> None:
    model = build(tmp_path, tiny_models, "Qwen2.5", stage, pad_to_30s=True)
    expected = expected_step(model, stage, pad_to_30s=True)
    for division in DIVISIONS[1:2]:
        batches = batches_of(division, "padded", stage, pad_to_30s=True)
        assert differences(trained_step(model, objective_of(model, stage), batches), expected) == []


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("stage", [1, 2])
def test_batch_mates_change_the_loss_of_no_token(
    tmp_path: Path, tiny_models: ModelsParams, stage: int, layout: str
) -> None:
    model = build(tmp_path, tiny_models, "Qwen2.5", stage, pad_to_30s=False).eval()

    def losses(batch: Batch) -> Tensor:
        outputs, head = model(batch), model.output_head
        if stage == 1:
            return response_kl(outputs.student, outputs.teacher, head, TEMPERATURE)
        return response_ce(outputs.student, batch.response_ids, head)

    with torch.no_grad():
        alone = torch.cat([losses(batch) for batch in batches_of([[2], [0], [3], [1]], layout, stage)])
        (together,) = batches_of([[2, 0, 3, 1]], layout, stage)
        assert len(alone) == len(together.response_ids) == 10
        torch.testing.assert_close(losses(together), alone, rtol=0, atol=1e-12)


Change = Callable[[SpeechLLM, Objective, Batch, pytest.MonkeyPatch], tuple[Objective, Batch]]


def shift_by_one(
    _model: SpeechLLM, objective: Objective, batch: Batch, _patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Take the loss one position later, as the official code does."""
    student = replace(batch.student, predicts=batch.student.predicts.roll(1, dims=1))
    teacher = batch.teacher and replace(batch.teacher, predicts=batch.teacher.predicts.roll(1, dims=1))
    return objective, replace(batch, student=student, teacher=teacher)


def other_temperature(
    _model: SpeechLLM, objective: Objective, batch: Batch, _patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Soften the distributions a little less."""
    assert isinstance(objective, SemanticAlignment)
    return replace(objective, temperature=TEMPERATURE - 1e-6), batch


class TimesSquare(SemanticAlignment):
    """Multiplies the KL by the squared temperature, as others do."""

    def sums(self, *of: Any) -> dict[str, Tensor]:
        return {"kl": self.temperature**2 * SemanticAlignment.sums(self, *of)["kl"]}


def squared_temperature(
    model: SpeechLLM, _objective: Objective, batch: Batch, _patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Multiply the KL by the squared temperature."""
    return TimesSquare(model.output_head, TEMPERATURE), batch


def lora_everywhere(
    _model: SpeechLLM, objective: Objective, batch: Batch, patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Let P-LoRA act on text as well."""
    applied = SpeechMask.applied

    def everywhere(self: SpeechMask, mask: Tensor, **options: Any) -> AbstractContextManager[None]:
        return applied(self, torch.ones_like(mask), **options)

    patch.setattr(SpeechMask, "applied", everywhere)
    return objective, batch


def attended_padding(
    model: SpeechLLM, objective: Objective, batch: Batch, patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Let the encoder attend to the padding of a batch."""
    patch.setattr(model.encoder, "pad_to_30s", True)
    return objective, batch


def positions_from_padding(
    _model: SpeechLLM, objective: Objective, batch: Batch, _patch: pytest.MonkeyPatch
) -> tuple[Objective, Batch]:
    """Hide the last token of the start from a row, so that its content stands one position too late."""
    attended = batch.student.attended.clone()
    attended[0, batch.student.num_shared] = False
    return objective, replace(batch, student=replace(batch.student, attended=attended))


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (1, shift_by_one), (2, shift_by_one), (1, other_temperature), (1, squared_temperature), (2, lora_everywhere),
        (1, attended_padding), (2, attended_padding), (1, positions_from_padding), (2, positions_from_padding),
    ],
)  # fmt: skip
def test_a_step_with_a_mistake_differs_from_the_dense_reference(
    tmp_path: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch, stage: int, change: Change
) -> None:
    model = build(tmp_path, tiny_models, "Qwen2.5", stage, pad_to_30s=False)
    expected = expected_step(model, stage)
    (batch,) = batches_of([[0, 1, 2, 3]], "padded", stage)
    objective, changed = change(model, objective_of(model, stage), batch, monkeypatch)
    assert "loss" in differences(trained_step(model, objective, [changed]), expected)
