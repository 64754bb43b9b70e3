"""P-LoRA acts at speech positions only, and says so where it could not; or everywhere, as ordinary LoRA."""

import copy
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from pipeline.prompts import Prompter, PromptIds
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams, fetch
from tests import builders
from train import saved_model
from train.inference import Answering, Clip
from train.model import Speech, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.packing import Segments
from train.model.plora import SpeechMask, lora_config


@pytest.fixture
def model(tiny_models: ModelsParams) -> SpeechLLM:
    built = saved_model.build(builders.model_config(tiny_models), torch.float32)
    built.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return built


def test_an_llm_in_bfloat16_runs_with_autocast_and_without(tiny_models: ModelsParams) -> None:
    built = saved_model.build(builders.model_config(tiny_models), torch.bfloat16)
    built.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    lora = next(module for module in built.modules() if isinstance(module, LoraLayer))
    a, b = lora.lora_A["default"], lora.lora_B["default"]
    assert isinstance(a, nn.Linear)
    assert isinstance(b, nn.Linear)
    nn.init.normal_(b.weight)
    states = torch.randn(1, 3, a.in_features).bfloat16()
    speech = torch.ones(1, 3, dtype=torch.bool)
    inputs = []
    a.register_forward_hook(lambda _, given, __: inputs.append(given[0].dtype))
    with torch.no_grad(), built.speech_mask.applied(speech):
        without = lora(states)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(lora(states), without, rtol=0.02, atol=0.02)
        assert (without - lora.base_layer(states)).abs().max() > 0.1
    assert inputs == [torch.float32, torch.bfloat16]  # autocast gets the states as they are


@pytest.mark.parametrize("positions", [(1, 5), (3, 1), (2, 3), (6,)])
@pytest.mark.parametrize("generating", [False, True])
def test_a_mask_of_another_shape_than_the_positions_is_an_error(positions: tuple[int, ...], generating: bool) -> None:
    mask = SpeechMask()
    output = torch.ones(*positions, 4)
    message = r"found a layer that runs on positions of the shape \[.+\], expected \[1, 3\]"
    speech = torch.ones(1, 3, dtype=torch.bool)
    with mask.applied(speech, generating=generating), pytest.raises(UserError, match=message):
        mask.zero_elsewhere(nn.Identity(), (), output)


def test_a_new_token_is_no_speech_while_the_llm_writes_and_an_error_otherwise() -> None:
    mask, output = SpeechMask(), torch.ones(2, 1, 4)
    with mask.applied(torch.ones(2, 3, dtype=torch.bool), generating=True):
        assert mask.zero_elsewhere(nn.Identity(), (), output).abs().max() == 0
    with mask.applied(torch.ones(2, 3, dtype=torch.bool)), pytest.raises(UserError, match="expected"):
        mask.zero_elsewhere(nn.Identity(), (), output)


def test_outside_of_a_mask_no_position_is_speech() -> None:
    assert SpeechMask().zero_elsewhere(nn.Identity(), (), torch.ones(2, 3, 4)).abs().max() == 0


def test_training_on_other_positions_than_those_of_the_mask_stops(model: SpeechLLM) -> None:
    embeddings = torch.zeros(1, 5, model.token_embeddings.embedding_dim)
    speech = torch.ones(1, 4, dtype=torch.bool)
    with model.speech_mask.applied(speech), pytest.raises(UserError, match="P-LoRA could not be limited to speech"):
        model.llm(inputs_embeds=embeddings)


@pytest.fixture
def everywhere(tiny_models: ModelsParams) -> tuple[SpeechLLM, SpeechLLM]:
    """A model whose LoRA acts at all positions, and the same model with LoRA in the weights of its LLM."""
    built = saved_model.build(builders.model_config(tiny_models), torch.float32)
    built.add_plora(lora_config(2, 2, 0.0, "all-linear"), everywhere=True)
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    merged = copy.deepcopy(built)
    for module in merged.llm.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    return built, merged


SAID: list[list[int | None]] = [[None] * 4, [None] * 2]
BEFORE, AFTER, ANSWERS = [1, 2, 3], [5, 6], [[7, 8, 9], [4]]


def test_everywhere_it_is_ordinary_lora(everywhere: tuple[SpeechLLM, SpeechLLM]) -> None:
    model, merged = everywhere
    lengths = [len(clip) for clip in SAID]
    valid = torch.arange(4) < torch.tensor(lengths)[:, None]
    embeddings = torch.randn(2, 4, model.token_embeddings.embedding_dim)
    speech = Speech(embeddings=embeddings, valid=valid, clips=Segments.of(lengths))
    asked = sequences(BEFORE, SAID, AFTER, ANSWERS)
    whole = merged.llm.base_model(inputs_embeds=merged.embed(asked, speech), attention_mask=asked.attended)
    expected = whole.last_hidden_state[asked.predicts]
    assert torch.allclose(model.response_states(asked, speech), expected, atol=1e-5)
    packed = packed_sequences(BEFORE, SAID, AFTER, ANSWERS, shares_start=model.shares_start)
    found = model.response_states(packed, speech)
    assert torch.allclose(found, expected, atol=1e-5)
    found.sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "lora_B" in name)


def test_everywhere_it_acts_on_the_answer_and_not_on_text_alone(
    everywhere: tuple[SpeechLLM, SpeechLLM], tiny_models: ModelsParams
) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    prompts = [PromptIds((1, 2, 3), (11, 12), (5, 6))] * 2
    num_mels = everywhere[0].encoder.whisper.config.num_mel_bins
    clips = [Clip(torch.randn(num_mels, frames), frames) for frames in (40, 24)]
    ours, merged = (Answering(each, prompter, 8) for each in everywhere)
    assert ours.write(prompts, clips) == merged.write(prompts, clips)
    assert ours.write(prompts, None) != merged.write(prompts, None)
    plain = saved_model.build(builders.model_config(tiny_models), torch.float32)
    assert ours.write(prompts, None) == Answering(plain, prompter, 8).write(prompts, None)


@pytest.mark.parametrize("positions", ["speech", "all"])
def test_a_saved_model_acts_where_it_did(tiny_models: ModelsParams, tmp_path: Path, positions: str) -> None:
    config = builders.model_config(tiny_models)
    built = saved_model.build(config, torch.float32)
    built.add_plora(lora_config(2, 2, 0.0, "all-linear"), everywhere=positions == "all")
    saved_model.save(built, config.model_copy(update={"plora": True, "plora_positions": positions}), tmp_path)
    loaded = saved_model.load(tmp_path)
    assert loaded.speech_mask.everywhere == (positions == "all")
    assert loaded.shares_start == built.shares_start
