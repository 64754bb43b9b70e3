"""What the emotion head reads of a clip: each choice has the values of a plain computation, in every layout."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Example
from train.model import Batch, Sequences, SpeechLLM
from train.model.emotion_head import EmotionHead, HeadShape
from train.model.inputs import packed_sequences, sequences

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=None, after=[8, 9])
SHAPES = [
    HeadShape(pooling="attention"), HeadShape(layers="weighted"), HeadShape(pooling="attention", layers="weighted"),
]  # fmt: skip
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.pooling}-{shape.layers}")
LAYOUTS: dict[str, Callable[..., Sequences]] = {
    "padded": sequences,
    "packed": partial(packed_sequences, shares_start=True),
}


def build(tiny_models: ModelsParams, shape: HeadShape) -> SpeechLLM:
    """Return a model in float64 whose head has learned uneven weights."""
    config = model_config(tiny_models, head_pooling=shape.pooling, head_layers=shape.layers)
    model = saved_model.build(config, torch.float32).double()
    model.encoder.train_weights()
    torch.manual_seed(1)
    nn.init.normal_(model.head.mean, std=0.1)
    nn.init.uniform_(model.head.deviation, 0.5, 2.0)
    for name, parameter in model.head.named_parameters():
        if name in ("query", "layer_logits"):
            nn.init.normal_(parameter)
    return model.eval()


def examples() -> list[Example]:
    generator = torch.Generator().manual_seed(2)
    return [
        Example(
            features=torch.randn(80, frames, generator=generator, dtype=torch.float64),
            num_frames=frames, text_ids=[], response_ids=[40, 0], emotion=0,
        )
        for frames in (101, 16, 260, 17)
    ]  # fmt: skip


def batch_of(rows: list[Example], layout: str, *, round_up: bool = False) -> Batch:
    return Collator(SHELL, with_teacher=False, lay_out=LAYOUTS[layout], round_up=round_up)(rows)


def of_head(model: SpeechLLM, batches: list[Batch]) -> tuple[Tensor, Tensor]:
    """Return the logits of the head for all clips, and the gradient of their sines by all weights that they need."""
    model.zero_grad()
    logits = torch.cat([model(batch).emotion[: len(batch.ids)] for batch in batches])
    logits.sin().sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return logits.detach(), torch.cat(gradients)


def plain_logits(model: SpeechLLM, example: Example) -> Tensor:
    """Compute the head's logits of one clip by the formulas, from what goes into and comes out of modules."""
    of_layers: list[Tensor] = []
    hooks = [
        *(
            layer.register_forward_pre_hook(lambda _module, inputs: of_layers.append(inputs[0][0]))
            for layer in model.encoder.whisper.layers
        ),
        model.encoder.whisper.layer_norm.register_forward_hook(lambda _module, _in, out: of_layers.append(out[0])),
    ]
    assert isinstance(example.features, Tensor)
    states, lengths = model.encoder(example.features[None], torch.tensor([example.num_frames]))
    for hook in hooks:
        hook.remove()
    assert len(of_layers) == len(model.encoder.whisper.layers) + 1
    frames = model.adapter(states, lengths)[0][0]
    if model.head.shape.layers == "weighted":
        shares = model.head.layer_logits.exp() / model.head.layer_logits.exp().sum()
        frames = torch.stack([share * layer for share, layer in zip(shares, of_layers, strict=True)]).sum(0)
    standard = torch.stack([(frame - model.head.mean) / model.head.deviation for frame in frames])
    weights = torch.ones(len(frames), dtype=torch.float64)
    if model.head.shape.pooling == "attention":
        weights = torch.stack([frame @ model.head.query for frame in standard]).exp()
    pooled = (weights[:, None] * standard).sum(0) / weights.sum()
    logits: Tensor = model.head.classify.weight @ pooled
    return logits


@every_shape
def test_packed_is_padded_is_one_at_a_time_is_the_formula(tiny_models: ModelsParams, shape: HeadShape) -> None:
    model, rows = build(tiny_models, shape), examples()
    expected = torch.stack([plain_logits(model, row) for row in rows]).detach()
    published = saved_model.build(model_config(tiny_models), torch.float32).double()
    assert (expected - published(batch_of(rows, "padded")).emotion).abs().min() > 1e-3
    logits, gradient = of_head(model, [batch_of([row], "padded") for row in rows])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    assert gradient.norm() > 1e-2
    for batch in (
        batch_of(rows, "padded"), batch_of(rows, "packed"), batch_of(rows, "packed", round_up=True),
    ):  # fmt: skip
        found, found_gradient = of_head(model, [batch])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        assert (found_gradient - gradient).norm() < 1e-9 * gradient.norm()


@every_shape
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_that_are_computed_again_give_the_same_gradient(
    tiny_models: ModelsParams, shape: HeadShape, layout: str
) -> None:
    model = build(tiny_models, shape)
    logits, gradient = of_head(model, [batch_of(examples(), layout)])
    model.checkpoints_layers = True
    again, gradient_again = of_head(model, [batch_of(examples(), layout)])
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-12)
    assert (gradient_again - gradient).norm() < 1e-12 * gradient.norm()


@every_shape
def test_the_gradient_reaches_the_head_and_what_it_reads(tiny_models: ModelsParams, shape: HeadShape) -> None:
    model = build(tiny_models, shape)
    of_head(model, [batch_of(examples(), "packed")])
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    own = {"head.query"} if shape.pooling == "attention" else set()
    own |= {"head.layer_logits"} if shape.layers == "weighted" else set()
    assert {name for name in reached if name.startswith("head")} == {"head.classify.weight", *own}
    assert "encoder.whisper.conv1.weight" in reached
    assert any(name.startswith("adapter") for name in reached) == (shape.layers == "last")
    assert not any(name.startswith("llm") for name in reached)


def test_all_weights_start_even() -> None:
    torch.manual_seed(0)
    frames, valid = torch.randn(2, 5, 4), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    head = EmotionHead(4, 2, HeadShape(pooling="attention", layers="weighted"), num_layers=3)
    torch.testing.assert_close(head.pool(frames, valid), EmotionHead(4, 2).pool(frames, valid))
    layer_sum = head.layer_sum()
    assert layer_sum is not None
    states = torch.randn(3, 2, 5, 4)
    for each in states:
        layer_sum.add(each)
    torch.testing.assert_close(layer_sum.total, states.mean(0))


def test_attention_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    frames, valid = torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool)
    head = EmotionHead(64, 2, HeadShape(pooling="attention"))
    nn.init.normal_(head.query)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.pool(frames, valid)
    assert torch.equal(found, head.pool(frames, valid))
    assert head.pool(frames.bfloat16(), valid).dtype == torch.float32


def test_a_clip_of_padding_has_zeros_and_a_finite_gradient() -> None:
    frames = torch.zeros(1, 3, 4, requires_grad=True)
    pooled = EmotionHead(4, 2, HeadShape(pooling="attention")).pool(frames, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(pooled, torch.zeros(1, 4))
    pooled.sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()


@every_shape
def test_a_head_of_another_shape_replaces_the_old_one(tiny_models: ModelsParams, shape: HeadShape) -> None:
    model = saved_model.build(model_config(tiny_models), torch.float32)
    before = model.head
    model.change_head(HeadShape())
    assert model.head is before
    model.change_head(shape)
    assert model.head.shape == shape
    assert model.head.classify.out_features == before.classify.out_features
    assert len(model.head.mean) == (model.encoder.width if shape.layers == "weighted" else len(before.mean))
