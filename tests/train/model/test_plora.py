"""P-LoRA acts at speech positions only, and says so where it could not."""

import pytest
import torch
from torch import nn

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests import builders
from train import saved_model
from train.model import SpeechLLM
from train.model.plora import SpeechMask, lora_config


@pytest.fixture
def model(tiny_models: ModelsParams) -> SpeechLLM:
    built = saved_model.build(builders.model_config(tiny_models), torch.float32)
    built.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return built


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
