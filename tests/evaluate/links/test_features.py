"""The means of the links are those of each clip's own forward pass in float64."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluate.links.features import FeatureFile, LinkReader
from evaluate.links.path import ADAPTER, LAST, SPEECH, Link
from pipeline.prompts import PromptIds
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.evaluate.links.link_models import build, tiny_config
from train.data.dataset import Example
from train.model import SpeechLLM

PROMPT = PromptIds(before=(5, 6, 7), content=(), after=(8, 9))
FRAMES = (101, 16, 260, 17)


def in_float64(model: SpeechLLM) -> SpeechLLM:
    model.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    return model


def clip(frames: int, dtype: torch.dtype = torch.float64) -> Example:
    generator = torch.Generator().manual_seed(frames)
    features = torch.randn(80, frames, generator=generator, dtype=dtype)
    return Example(features=features, num_frames=frames, text_ids=[], response_ids=[0], emotion=-1, id=str(frames))


def encoder_states(model: SpeechLLM, features: Tensor) -> list[Tensor]:
    """Run the encoder's layers by hand on a clip that stands alone."""
    whisper = model.encoder.whisper
    x = functional.gelu(whisper.conv2(functional.gelu(whisper.conv1(features[None])))).transpose(1, 2)
    x = x + whisper.embed_positions.weight[: x.shape[1]]
    found = [x]
    for layer in whisper.layers:
        found.append(layer(found[-1], None))
    return [*found[:-1], whisper.layer_norm(found[-1])]


def alone(model: SpeechLLM, example: Example) -> tuple[Tensor, Tensor]:
    """Return the means of a clip from transformers' own hidden states, without a batch."""
    states = encoder_states(model, example.features)
    speech, _ = model.adapter(states[-1], torch.tensor([states[-1].shape[1]]))
    table = model.token_embeddings
    before, after = (table(torch.tensor([ids])) for ids in (PROMPT.before, PROMPT.after))
    embeddings = torch.cat([before, speech, after], dim=1)
    is_speech = torch.zeros(embeddings.shape[:2], dtype=torch.bool)
    is_speech[:, len(PROMPT.before) : -len(PROMPT.after)] = True
    with model.speech_mask.applied(is_speech):
        hidden = model.llm(inputs_embeds=embeddings, output_hidden_states=True).hidden_states
    of_speech = [layer[is_speech].mean(0) for layer in hidden[1:]]
    of_last = [layer[0, -1] for layer in hidden[1:]]
    return torch.stack([each[0].mean(0) for each in states]), torch.stack([speech[0].mean(0), *of_speech, *of_last])


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize(
    ("family", "tolerance"),
    [("Llama", 1e-9), ("Qwen2.5", 1e-9), ("Gemma 2", 1e-4)],  # Gemma 2 computes its softmax in float32
)
def test_a_batch_gives_the_means_of_each_clip_alone(
    tmp_path: Path, tiny_models: ModelsParams, family: str, tolerance: float, packs: bool
) -> None:
    model = in_float64(build(tiny_config(tmp_path, tiny_models, family)))
    assert model.packs
    model.packs = packs
    read = LinkReader(model, PROMPT)
    assert read.links[2:] == [Link("encoder", 2), Link(ADAPTER), *(Link(g, n) for g in (SPEECH, LAST) for n in (1, 2))]
    found = read([clip(frames) for frames in FRAMES])
    assert found.llm.dtype == torch.float64
    for number, frames in enumerate(FRAMES):
        with torch.no_grad():
            encoder, llm = alone(model, clip(frames))
        torch.testing.assert_close(found.encoder[number], encoder, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.llm[number], llm, rtol=tolerance, atol=tolerance)
    assert (found.llm[0] - found.llm[2]).abs().amax(1).min() > 1e-4  # no link ignores the clip
    (one,) = read([clip(FRAMES[0])]).llm
    torch.testing.assert_close(one, found.llm[0], rtol=tolerance, atol=tolerance)


def test_padding_to_30_s_is_no_part_of_a_mean(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_config(tmp_path, tiny_models, "Llama"))
    model.encoder.pad_to_30s = True
    padded = torch.zeros(80, 3000)
    padded[:, :120] = torch.randn(80, 120)
    example = Example(features=padded, num_frames=120, text_ids=[], response_ids=[0], emotion=-1)
    found = LinkReader(model, PROMPT)([example]).encoder[0]
    with torch.no_grad():
        states = model.encoder.whisper(padded[None], output_hidden_states=True).hidden_states
    expected = torch.stack([layer[0, :60].mean(0) for layer in states])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_plora_acts_as_in_an_answer(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_config(tmp_path, tiny_models, "Llama"))
    with_plora = LinkReader(model, PROMPT)([clip(101, torch.float32)]).llm
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.zeros_(parameter)
    without = LinkReader(model, PROMPT)([clip(101, torch.float32)]).llm
    assert torch.equal(with_plora[:, 0], without[:, 0])  # the adapter's output
    assert ((with_plora - without)[:, 1:].abs().amax(2) > 1e-5).all()


def test_an_llm_whose_layers_are_not_found_is_one_line(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model = build(tiny_config(tmp_path, tiny_models, "Llama"))
    layers = model.llm.base_model.layers
    assert isinstance(layers, nn.ModuleList)
    layers.append(deepcopy(layers[0]))  # not in the LLM's config
    with pytest.raises(UserError, match=r"models\.llm: found LlamaForCausalLM, whose layers do not run one by one"):
        LinkReader(model, PROMPT)


def test_links_of_different_widths_share_a_file(tmp_path: Path) -> None:
    file = FeatureFile(tmp_path / "means", 3, [2, 4])
    file.of(0)[[2, 0]] = [[1, 2], [3, 4]]
    file.of(1)[:] = 7
    assert np.array_equal(file.of(0), [[3, 4], [0, 0], [1, 2]])
    assert file.of(1).shape == (3, 4)
    assert (tmp_path / "means").stat().st_size == 4 * 3 * 6
