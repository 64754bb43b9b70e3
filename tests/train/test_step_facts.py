"""A training step without values: what it counts equals what is counted by hand, and what a real step keeps."""

import functools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, WhisperConfig

from benchmarks.gpu import sizes
from pipeline.weights.source import Weights
from tests.builders import batch_section, emotion_fit_section, semantic_fit_section
from train.data.dataset import Collator, Example
from train.data.sampler import Layout
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.losses import ROWS_AT_ONCE_ON_GPU
from train.model import Batch, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.plan.models import FOLDER, outline_of, read_config, read_encoder_config
from train.step_facts import StepFacts, run_step
from train.useful_flops import UsefulFlops

GIB = 2**30
ENCODER = WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64)
LLM = Qwen2Config(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
PLORA = {"rank": 16, "alpha": 16, "dropout": 0.0, "targets": "all-linear", "positions": "speech"}


def stage(kind: str) -> FitParams:
    if kind == "semantic":
        return SemanticFitParams(**semantic_fit_section(batches=batch_section()))
    return EmotionFitParams(**emotion_fit_section(plora=PLORA))


def batch_of(kind: str, layout: Layout, clips: list[Example]) -> Batch:
    lay_out = partial(packed_sequences, shares_start=True) if layout == "packed" else sequences
    return Collator(sizes.frame(), with_teacher=kind == "semantic", lay_out=lay_out)(clips)


def objective(model: SpeechLLM) -> Objective:
    return (
        SemanticAlignment(model.output_head, 2.0) if model.plora is None else EmotionAlignment(model.output_head, 1, 5)
    )


@functools.cache
def facts_of(kind: str, layout: Layout, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> StepFacts:
    model = outline_of(ENCODER, LLM, 5, stage(kind), False, dtype)
    clips = sizes.draw_clips(sizes.tiny(), "semantic", 4, seed=1)
    return run_step(model, objective, batch_of(kind, layout, clips), device, foreach=True)


def large(kind: str) -> SpeechLLM:
    encoder = read_encoder_config(Weights(source="openai/whisper-large-v2", revision=None, sha256=None))
    llm = read_config("llm", Weights(source="Qwen/Qwen2.5-7B-Instruct", revision=None, sha256=None))
    return outline_of(encoder, llm, 5, stage(kind), False, torch.bfloat16)


def test_the_7b_shape_has_14_2_gib_of_weights_and_the_encoder_637_m() -> None:
    model = large("semantic")
    width, wide, keys, vocabulary = 3584, 18_944, 512, 152_064
    layer = 2 * width * width + width + 2 * (width * keys + keys) + 3 * width * wide + 2 * width
    expected = 28 * layer + 2 * vocabulary * width + width
    assert sum(p.numel() for p in model.llm.parameters()) == expected == 7_615_616_512
    assert 2 * expected / GIB == pytest.approx(14.19, abs=0.01)
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(636.8e6, rel=1e-3)


def test_p_lora_of_rank_16_has_40_m_weights_and_its_optimizer_two_numbers_for_each() -> None:
    model = large("emotion")
    shapes = [(3584, 3584), (3584, 512), (3584, 512), (3584, 3584), *[(3584, 18_944)] * 2, (18_944, 3584)]
    expected = 28 * sum(16 * (a + b) for a, b in shapes)
    plora = [p for name, p in model.llm.named_parameters() if "lora" in name]
    assert sum(p.numel() for p in plora) == expected == 40_370_176
    assert all(p.dtype == torch.float32 and p.requires_grad for p in plora)
    facts = facts_of("emotion", "packed")
    assert facts.gradients == 4 * facts.trained_weights
    assert facts.optimizer == 8 * facts.trained_weights


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_both_stages_are_counted_in_both_layouts(kind: str, layout: Layout) -> None:
    facts = facts_of(kind, layout)
    assert 0 < facts.activations < facts.largest
    assert facts.peak == facts.weights + facts.optimizer + facts.largest


def test_a_gpu_without_bfloat16_pads_the_rows_of_attention_and_a_cpu_does_not() -> None:
    gpu, cpu = (facts_of("semantic", "packed", device, torch.float32) for device in ("cuda", "cpu"))
    assert gpu.flops > cpu.flops


def test_weights_are_not_activations_and_views_count_once() -> None:
    facts = facts_of("semantic", "packed", "cpu", torch.float32)
    clips = sizes.draw_clips(sizes.tiny(), "semantic", 4, seed=1)
    real = outline_of(ENCODER, LLM, 5, stage("semantic"), False, torch.float32).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.normal_(std=0.02)
    held = {t.untyped_storage().data_ptr() for t in [*real.parameters(), *real.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage
        return tensor

    batch = batch_of("semantic", "packed", clips)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = real.train()(batch)
    assert outputs.student.requires_grad
    really = sum(storage.nbytes() for storage in kept.values())
    assert facts.activations == pytest.approx(really, rel=0.002)  # a mask is kept as numbers of its positions


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_flops_are_those_of_the_formulas(kind: str) -> None:
    clips = sizes.draw_clips(sizes.tiny(), "semantic", 4, seed=1)
    model = outline_of(ENCODER, LLM, 5, stage(kind), False, torch.bfloat16)
    useful = UsefulFlops(model).step([batch_of(kind, "packed", clips)])
    assert facts_of(kind, "packed").flops == pytest.approx(useful, rel=0.25)  # attention is large in tiny models


def test_the_kl_holds_the_logits_of_256_rows_at_most() -> None:
    def loss(count: int) -> int:
        model = outline_of(ENCODER, LLM, 5, stage("semantic"), False, torch.bfloat16)
        clips = sizes.draw_clips(sizes.tiny(), "semantic", count, seed=1)
        batch = batch_of("semantic", "packed", clips)
        assert len(batch.response_ids) > ROWS_AT_ONCE_ON_GPU
        return run_step(model, objective, batch, "cuda").loss

    one = ROWS_AT_ONCE_ON_GPU * LLM.vocab_size * 4
    few, many = loss(12), loss(48)
    assert 2.5 * one < few < 4 * one
    assert many - few < one  # without chunks, it would be four times as much


def test_every_shipped_configuration_is_readable() -> None:
    files = sorted(Path(FOLDER).glob("*.json"))
    assert len(files) >= 5
    for file in files:
        name = file.stem.replace("--", "/")
        assert read_config("llm", Weights(source=name, revision=None, sha256=None)).vocab_size > np.int64(40_000)


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_layers_that_are_computed_again_keep_less(kind: str) -> None:
    settings = stage(kind).model_copy(update={"checkpoint_layers": True})
    model = outline_of(ENCODER, LLM, 5, settings, False, torch.bfloat16)
    clips = sizes.draw_clips(sizes.tiny(), "semantic", 4, seed=1)
    again = run_step(model, objective, batch_of(kind, "packed", clips), "cuda", foreach=True)
    assert again.activations < 0.7 * facts_of(kind, "packed").activations
    assert again.flops > facts_of(kind, "packed").flops
