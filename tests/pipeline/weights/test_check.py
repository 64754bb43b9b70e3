"""Models that training could not use are refused in one line, before anything is generated or trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from pipeline.generate.run import open_run
from pipeline.stage import UserError
from pipeline.weights.check import TrainingModels, check_models, read_training_models
from pipeline.weights.encoder import load_encoder
from pipeline.weights.llm import load_llm
from pipeline.weights.source import ModelsParams, Weights
from tests import builders


@pytest.fixture
def llm(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    return Path(shutil.copytree(tiny_models.llm.source, tmp_path / "copies" / "llm"))


@pytest.fixture
def encoder(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    return Path(shutil.copytree(tiny_models.encoder.source, tmp_path / "copies" / "encoder"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def source(folder: Path) -> Weights:
    return Weights(source=str(folder), revision=None, sha256=None)


def check(encoder: Path, llm: Path, targets: str | list[str] | None = "all-linear") -> None:
    check_models(TrainingModels(source(encoder), targets), llm)


def without(*parts: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: x for name, x in tensors.items() if not any(part in name for part in parts)}


def test_whole_models_are_accepted(encoder: Path, llm: Path) -> None:
    check(encoder, llm)
    check(encoder, llm, ["q_proj", "mlp.up_proj", "model.layers.1.self_attn.v_proj"])


def test_an_llm_that_lacks_a_layer_is_named_with_the_weight(encoder: Path, llm: Path) -> None:
    rewrite(llm, without("layers.1"))
    message = r"models: .+/llm: lacks the weight model\.layers\.1\.input_layernorm\.weight and 8 more; expected every"
    with pytest.raises(UserError, match=message):
        check(encoder, llm)
    with pytest.raises(UserError, match=message):
        load_llm(llm, torch.float32)


def test_a_weight_of_another_shape_is_named(encoder: Path, llm: Path) -> None:
    rewrite(llm, lambda tensors: tensors | {"model.norm.weight": torch.ones(31)})
    with pytest.raises(UserError, match=r"weight model\.norm\.weight: found the shape \[31\], expected \[32\] as"):
        check(encoder, llm)


@pytest.mark.parametrize(
    ("quantization", "found"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, "to 4 bits by bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, "to 8 bits by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "to 4 bits by gptq"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "to 4 bits by awq"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "by fp8"),
    ],
)
def test_quantised_weights_are_refused_with_what_fits_instead(
    encoder: Path, llm: Path, quantization: dict[str, Any], found: str
) -> None:
    change_json(llm / "config.json", quantization_config=quantization)
    message = rf"^models\.llm: .+/llm: found weights quantised {found}, expected .+ use fit\.\*\.checkpoint_layers"
    with pytest.raises(UserError, match=message):
        check(encoder, llm)  # fit and train.check
    with pytest.raises(UserError, match=message):
        load_llm(llm, torch.float32)  # respond


def test_a_generator_of_quantised_weights_is_named(project: Path, llm: Path, tmp_path: Path) -> None:
    generator = Path(shutil.copytree(llm, tmp_path / "generator"))
    change_json(generator / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    changes = {"generate.generator": builders.weights(generator), "generate.allow_foreign_generator": True}
    builders.change_params(changes)
    with pytest.raises(UserError, match=r"generate\.generator: .+/generator: found weights quantised to 4 bits by awq"):
        open_run("semantic", project / "params.yaml").check_models()


def test_an_expert_that_is_missing_is_one_line(encoder: Path, tmp_path: Path) -> None:
    config = t.Qwen3MoeConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,  # type: ignore[call-arg]
    )  # fmt: skip
    t.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    rewrite(tmp_path / "moe", without("experts.2.up_proj"))
    with pytest.raises(UserError, match=r"models: .+/moe: .+; expected a whole model in Hugging Face format"):
        check(encoder, tmp_path / "moe", None)


def test_an_encoder_that_lacks_weights_is_named_with_the_first(encoder: Path, llm: Path) -> None:
    rewrite(encoder, without("encoder.conv1", "decoder"))
    message = r"models: .+/encoder: lacks the weight encoder\.conv1\.bias and 1 more"
    with pytest.raises(UserError, match=message):
        check(encoder, llm)
    with pytest.raises(UserError, match=message):
        load_encoder(encoder)


def test_an_encoder_without_its_decoder_is_accepted(encoder: Path, llm: Path) -> None:
    rewrite(encoder, without("decoder"))
    check(encoder, llm)
    assert load_encoder(encoder).config.d_model == 24


def test_an_encoder_that_was_saved_alone_is_not_random(encoder: Path, llm: Path) -> None:
    t.WhisperModel.from_pretrained(encoder).encoder.save_pretrained(encoder)
    with pytest.raises(UserError, match=r"lacks the weight encoder\.conv1\.bias"):
        check(encoder, llm)


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2", None])
def test_another_speech_model_is_refused(encoder: Path, llm: Path, kind: str | None) -> None:
    change_json(encoder / "config.json", model_type=kind)
    with pytest.raises(UserError, match=rf"models\.encoder: .+: found a model of the type {kind}, expected whisper"):
        check(encoder, llm)


def test_a_feature_extractor_of_other_mel_bins_is_refused(encoder: Path, llm: Path) -> None:
    t.WhisperFeatureExtractor(feature_size=128).save_pretrained(encoder)
    with pytest.raises(UserError, match=r"found a feature extractor of 128 mel bins, expected 80 as config\.json says"):
        check(encoder, llm)


def test_a_whisper_without_its_feature_extractor_is_refused(encoder: Path, llm: Path) -> None:
    for file in encoder.glob("*processor*"):
        file.unlink()
    with pytest.raises(UserError, match=r"found no preprocessor_config\.json, expected the one of this Whisper"):
        check(encoder, llm)


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["q_proj", "v_porj"], "v_porj"),
        (["c_attn", "c_proj", "w1", "w2"], "c_attn"),
        (["lm_head"], "lm_head"),
        (["embed_tokens"], "embed_tokens"),
        (["proj"], "proj"),
    ],
)
def test_every_target_of_plora_must_be_a_linear_layer(encoder: Path, llm: Path, targets: list[str], found: str) -> None:
    expected = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    message = rf"fit\.emotion\.plora\.targets: found {found}, expected linear layers .+: {expected}"
    with pytest.raises(UserError, match=message):
        check(encoder, llm, targets)


@pytest.mark.parametrize("targets", ["all-linear", ["gate_up_proj"], ["gate_proj", "up_proj", "down_proj"]])
def test_plora_on_experts_is_refused(encoder: Path, tmp_path: Path, targets: str | list[str]) -> None:
    config = t.Qwen3MoeConfig(
        vocab_size=258, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,  # type: ignore[call-arg]
    )  # fmt: skip
    t.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    check(encoder, tmp_path / "moe", ["q_proj", "k_proj", "v_proj", "o_proj"])
    with pytest.raises(UserError, match=r"fit\.emotion\.plora\.targets: found .+ expected linear layers"):
        check(encoder, tmp_path / "moe", targets)


@pytest.mark.parametrize("targets", ["all_linear", "q_proj", [], [1], 3])
def test_targets_of_another_form_are_refused_when_they_are_read(tmp_path: Path, targets: Any) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps({"fit": {"emotion": {"plora": {"targets": targets}}}}))
    with pytest.raises(UserError, match=r"fit\.emotion\.plora\.targets: expected all-linear or a list of suffixes of"):
        read_training_models(file)


def test_a_file_with_the_sections_of_one_stage_names_no_models(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("generate: {}\n")
    assert read_training_models(tmp_path / "params.yaml") == TrainingModels(None, None)


def test_nothing_is_generated_for_models_that_cannot_be_trained(project: Path, llm: Path) -> None:
    rewrite(llm, without("layers.1"))
    builders.change_params({"models.llm": builders.weights(llm)})
    with pytest.raises(UserError, match=r"lacks the weight model\.layers\.1"):
        open_run("semantic", project / "params.yaml").start_engine()


def test_nothing_is_generated_for_an_encoder_that_is_no_whisper(project: Path, encoder: Path) -> None:
    change_json(encoder / "config.json", model_type="hubert")
    builders.change_params({"models.encoder": builders.weights(encoder)})
    with pytest.raises(UserError, match="found a model of the type hubert, expected whisper"):
        open_run("semantic", project / "params.yaml").start_engine()


def test_nothing_is_generated_for_targets_that_the_llm_lacks(project: Path) -> None:
    builders.change_params({"fit.emotion.plora.targets": ["v_porj"]})
    with pytest.raises(UserError, match="found v_porj, expected linear layers"):
        open_run("emotion", project / "params.yaml").start_engine()
