"""Layers that are computed again give the same loss and the same gradient, and keep less."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from pipeline.stage import UserError
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests import builders
from tests.backbones import BACKBONES, SMALL
from train import own_forward, saved_model
from train.data.dataset import Collator, Example
from train.fit.objectives import EmotionAlignment, SemanticAlignment
from train.model import Batch, SpeechLLM
from train.model.checkpointed_layers import checkpointed
from train.model.inputs import packed_sequences, sequences
from train.model.plora import lora_config

FAMILIES = ["Qwen2.5", "Gemma 2", "Gemma 3", "Granite", "Phi"]
SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6], after=[8, 9])


def build(tiny_models: ModelsParams, folder: Path, name: str) -> SpeechLLM:
    torch.manual_seed(0)
    t.AutoModelForCausalLM.from_config(BACKBONES[name].config(**(SMALL | BACKBONES[name].more))).save_pretrained(folder)
    models = ModelsParams.model_validate({"encoder": tiny_models.encoder, "llm": builders.weights(folder)})
    return saved_model.build(builders.model_config(models), torch.float32)


def to_stage(model: SpeechLLM, stage: int, dropout: float = 0.0) -> SpeechLLM:
    """Return the model in float64, ready for a step of a stage; B is not zero."""
    if stage == 1:
        model.head.requires_grad_(False)
        return model.double().train()
    model.add_plora(lora_config(2, 4, dropout, "all-linear"))
    model.encoder.train_weights()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.double().train()


def batch_of(model: SpeechLLM, layout: str, with_teacher: bool) -> Batch:
    generator = torch.Generator().manual_seed(2)
    rows = [
        Example(torch.randn(80, frames, generator=generator, dtype=torch.float64), frames, text, response, emotion)
        for frames, text, response, emotion in ((101, [20, 21], [40, 0], 0), (16, [], [50], 1), (60, [3], [60, 0], 0))
    ]

    def lay_out(*pieces: list[int]) -> object:
        packed = packed_sequences(*pieces, shares_start=model.shares_start)  # type: ignore[arg-type]
        return packed if layout == "packed" else sequences(*pieces)  # type: ignore[arg-type]

    return Collator(SHELL, with_teacher=with_teacher, lay_out=lay_out)(rows)  # type: ignore[arg-type]


def step(model: SpeechLLM, stage: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a stage, and the gradient of each trained weight."""
    model.zero_grad()
    torch.manual_seed(4)  # of dropout
    head = model.output_head
    objective = SemanticAlignment(head, 2.0) if stage == 1 else EmotionAlignment(head, 2.0, num_emotions=2)
    sums = objective.sums(model(batch), batch)
    loss = torch.stack([objective.weights[name] * value for name, value in sums.items()]).sum()
    loss.backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in trained.values())
    return loss.detach(), {name: gradient for name, gradient in trained.items() if gradient is not None}


@pytest.mark.parametrize("shares_start", [True, False])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_are_the_same(
    tmp_path: Path, tiny_models: ModelsParams, name: str, layout: str, stage: int, shares_start: bool
) -> None:
    model = to_stage(build(tiny_models, tmp_path, name), stage)
    assert model.shares_start
    assert model.packs
    model.shares_start = shares_start
    batch = batch_of(model, layout, with_teacher=stage == 1)
    loss, gradients = step(model, stage, batch)
    own_forward.checkpoint_layers(model)
    found, found_gradients = step(model, stage, batch)
    assert loss > 0.01
    assert found == pytest.approx(loss.item(), rel=1e-9)
    assert found_gradients.keys() == gradients.keys()
    for weight, gradient in gradients.items():
        assert gradient.norm() > 0 or "llm.model.layers.1" in weight  # no other position reads the last layer's states
        assert (found_gradients[weight] - gradient).norm() <= 1e-9 * gradient.norm(), weight


@pytest.mark.parametrize("name", ["Qwen3.5", "LFM2", "Qwen3-MoE"])
def test_layers_with_a_state_or_experts_are_computed_again_too(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model = build(tiny_models, tmp_path, name)
    batch = batch_of(model.double(), "padded", with_teacher=True)
    model.llm.set_experts_implementation("eager")
    to_stage(model, stage=1)
    loss, gradients = step(model, 1, batch)
    own_forward.checkpoint_layers(model)
    found, found_gradients = step(model, 1, batch)
    assert found == pytest.approx(loss.item(), rel=1e-9)
    for weight, gradient in gradients.items():
        assert (found_gradients[weight] - gradient).norm() <= 1e-9 * gradient.norm(), weight


def test_dropout_draws_the_same_numbers_again(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = to_stage(build(tiny_models, tmp_path, "Qwen2.5"), stage=2, dropout=0.5)
    vars(model.encoder.whisper.layers[0])["dropout"] = 0.1
    batch = batch_of(model, "packed", with_teacher=False)
    loss, gradients = step(model, 2, batch)
    model.checkpoints_layers = True
    found, found_gradients = step(model, 2, batch)
    assert found == loss
    assert all(torch.equal(found_gradients[weight], gradient) for weight, gradient in gradients.items())
    model.eval()
    assert step(model, 2, batch)[0] != loss


def saved_bytes(model: SpeechLLM, stage: int, batch: Batch) -> int:
    """Return the bytes that the forward pass keeps for the gradient, without the weights."""
    kept = {tensor.data_ptr(): 0 for tensor in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(model, stage, batch)
    return sum(kept.values())


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_forward_pass_keeps_less(tmp_path: Path, tiny_models: ModelsParams, layout: str, stage: int) -> None:
    model = to_stage(build(tiny_models, tmp_path, "Qwen2.5"), stage)
    batch = batch_of(model, layout, with_teacher=stage == 1)
    before = saved_bytes(model, stage, batch)
    model.checkpoints_layers = True
    assert saved_bytes(model, stage, batch) < 0.8 * before


@pytest.mark.parametrize("stage", [1, 2])
def test_each_layer_that_needs_a_gradient_is_computed_twice_although_the_llm_is_in_evaluation_mode(
    tmp_path: Path, tiny_models: ModelsParams, stage: int
) -> None:
    model = to_stage(build(tiny_models, tmp_path, "Qwen2.5"), stage)
    assert not model.llm.training
    calls: list[str] = []

    def count(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    for number in range(2):
        model.llm.get_submodule(f"model.layers.{number}.input_layernorm").register_forward_hook(count(f"llm {number}"))
        norm = model.encoder.get_submodule(f"whisper.layers.{number}.self_attn_layer_norm")
        norm.register_forward_hook(count(f"encoder {number}"))
    batch = batch_of(model, "packed", with_teacher=False)
    model.checkpoints_layers = True
    with torch.no_grad():
        model(batch)
    once = [calls.count(name) for name in sorted(set(calls))]
    assert once == [1, 1, 2, 2]  # encoder; the LLM also computes the shared start
    calls.clear()
    outputs = model(batch)
    outputs.student.sum().backward()
    assert [calls.count(name) for name in sorted(set(calls))] == ([1, 1, 3, 3] if stage == 1 else [2, 2, 3, 3])
    assert model.speech_mask.mask is None
    assert model.llm.config._attn_implementation == "sdpa"


def test_an_llm_whose_layers_are_not_found_is_refused_in_one_line(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_models, tmp_path, "Qwen2.5")
    model.llm.config.num_hidden_layers = 3
    model.checkpoints_layers = True
    with pytest.raises(UserError, match=r"fit\.\*\.checkpoint_layers: found true, .+ has 2 layers .+ and 3 in all"):
        model.response_states(batch_of(model, "padded", with_teacher=True).student, None)


class Counting(nn.Module):
    """A layer that computes something else each time."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.layer(x) * self.calls
        return result


def test_an_llm_whose_layers_compute_something_else_again_is_refused_in_one_line(
    tmp_path: Path, tiny_models: ModelsParams
) -> None:
    model = build(tiny_models, tmp_path, "Qwen2.5")
    layer = model.llm.get_submodule("model.layers.0")
    layer.mlp = Counting(layer.get_submodule("mlp"))
    with pytest.raises(UserError, match=r"layers of Qwen2ForCausalLM that are computed again give a gradient that"):
        own_forward.checkpoint_layers(model)


def test_layers_are_as_before_after_an_error() -> None:
    layer = nn.Linear(2, 2)

    def fail(_layer: nn.Module) -> AbstractContextManager[None]:
        assert "forward" in vars(layer)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), checkpointed([layer], fail):
        layer(torch.zeros(2))
    assert "forward" not in vars(layer)
