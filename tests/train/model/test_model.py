"""Facts that every correct implementation of the method shows, on small random models of the right structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import model_config
from train import saved_model
from train.data.log_mel import LogMel
from train.losses import response_kl
from train.model import Sequences, Speech, SpeechLLM
from train.model.adapter import ConvAdapter
from train.model.emotion_head import EmotionHead
from train.model.encoder import SpeechEncoder
from train.model.inputs import sequences
from train.model.plora import ADAPTER_NAME, SpeechMask, add_plora, lora_config
from train.precision import autocast

BEFORE, AFTER = [5, 6, 7], [8, 9]
RESPONSES = [[10, 11, 12], [13, 14]]


@pytest.fixture
def model(tiny_models: ModelsParams) -> SpeechLLM:
    config = model_config(tiny_models)
    return saved_model.build(config, torch.float32)


def clip(frames: int) -> Tensor:
    return torch.randn(80, frames, generator=torch.Generator().manual_seed(frames))


def padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    frames = max(c.shape[1] for c in clips)
    features = torch.stack([nn.functional.pad(c, (0, frames - c.shape[1])) for c in clips])
    return features, torch.tensor([c.shape[1] for c in clips])


def with_speech(speech: Speech) -> Sequences:
    lengths = speech.valid.sum(1).tolist()
    return sequences(BEFORE, [[None] * length for length in lengths], AFTER, RESPONSES[: len(lengths)])


def train_lora_b(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)


def test_ten_seconds_are_1000_mel_frames_500_states_and_63_tokens() -> None:
    encoder = SpeechEncoder(
        WhisperEncoder(WhisperConfig(d_model=8, encoder_layers=1, encoder_attention_heads=1)), False
    )
    states, lengths = encoder(torch.zeros(1, 80, 1000), torch.tensor([1000]))
    assert states.shape[1] == int(lengths) == 500
    embeddings, tokens = ConvAdapter(8, 16)(states, lengths)
    assert embeddings.shape[1] == int(tokens) == 63


@pytest.mark.parametrize("num_samples", [160_000, 159_999, 160_159, 1_601, 480_000, 500_001])
def test_a_clip_has_as_many_mel_frames_as_whispers_own_extractor_makes(
    num_samples: int, tiny_models: ModelsParams
) -> None:
    features = LogMel(fetch(tiny_models.encoder), pad_to_30s=False)(np.zeros(num_samples, np.float32))
    assert features.shape[1] == num_mel_frames(num_samples)
    assert num_mel_frames(160_000) == 1000


@pytest.mark.parametrize(("seconds", "tokens"), [(1, 7), (3, 19), (5, 32), (10, 63), (30, 188)])
def test_a_clip_gives_six_and_a_quarter_tokens_a_second(seconds: int, tokens: int) -> None:
    assert num_speech_tokens(100 * seconds) == tokens


def test_a_30_s_clip_is_encoded_as_hugging_face_does() -> None:
    whisper = WhisperEncoder(WhisperConfig(d_model=8, encoder_layers=2, encoder_attention_heads=2)).eval()
    features = torch.randn(2, 80, 3000)
    with torch.no_grad():
        states, _ = SpeechEncoder(whisper, pad_to_30s=False)(features, torch.tensor([3000, 3000]))
        torch.testing.assert_close(states, whisper(features).last_hidden_state)


def test_padding_to_30_s_encodes_as_published_and_cuts_to_the_clip() -> None:
    whisper = WhisperEncoder(WhisperConfig(d_model=8, encoder_layers=2, encoder_attention_heads=2)).eval()
    features = torch.randn(2, 80, 3000)
    with torch.no_grad():
        states, lengths = SpeechEncoder(whisper, pad_to_30s=True)(features, torch.tensor([300, 500]))
        torch.testing.assert_close(states, whisper(features).last_hidden_state[:, :250])
    assert lengths.tolist() == [150, 250]


def test_at_the_published_sizes_the_trained_parameters_are_counted_as_published() -> None:
    with torch.device("meta"):
        encoder = WhisperEncoder(
            WhisperConfig(
                d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120, num_mel_bins=80
            )
        )
        adapter = ConvAdapter(1280, 4096)
        head = EmotionHead(4096, 5)
        qwen = qwen_7b()
        add_plora(qwen, lora_config(16, 16, 0.05, ["c_attn", "c_proj", "w1", "w2"]), SpeechMask())
    assert num_parameters(adapter) == 89_412_608
    assert num_parameters(head) == 20_480
    assert sum(p.numel() for n, p in qwen.named_parameters() if "lora_" in n) == 35_782_656
    assert round(num_parameters(encoder) / 1e6, 1) == 636.8
    speech = SpeechEncoder(encoder, pad_to_30s=False)
    speech.train_weights()
    # all but the sinusoids of 1,500 positions
    trained = sum(p.numel() for p in speech.parameters() if p.requires_grad)
    assert trained == num_parameters(encoder) - 1500 * 1280


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def qwen_7b() -> nn.Module:
    """The linear layers of Qwen-7B's blocks under their published names."""

    def block() -> nn.Module:
        attn = nn.ModuleDict({"c_attn": nn.Linear(4096, 12288), "c_proj": nn.Linear(4096, 4096, bias=False)})
        mlp = nn.ModuleDict(
            {
                "w1": nn.Linear(4096, 11008, bias=False),
                "w2": nn.Linear(4096, 11008, bias=False),
                "c_proj": nn.Linear(11008, 4096, bias=False),
            }
        )
        return nn.ModuleDict({"attn": attn, "mlp": mlp})

    return nn.ModuleDict(
        {"h": nn.ModuleList(block() for _ in range(32)), "lm_head": nn.Linear(4096, 151_936, bias=False)}
    )


def test_without_speech_a_trained_plora_leaves_the_llm_bit_for_bit(model: SpeechLLM) -> None:
    text = replace(sequences(BEFORE, [[20, 21], [22]], AFTER, RESPONSES), num_shared=0)
    with torch.no_grad():
        asked = {"input_ids": text.token_ids, "attention_mask": text.attended.long()}
        plain = model.llm(**asked).logits
        states = model.llm.base_model(**asked).last_hidden_state
        model.add_plora(lora_config(4, 4, 0.0, "all-linear"))
        train_lora_b(model)
        adapted = model.llm(**asked).logits
        predicting = model.response_states(text, None)
    assert torch.equal(plain, adapted)
    assert torch.equal(states[text.predicts], predicting)


def test_with_speech_a_trained_plora_changes_only_what_comes_after_it(model: SpeechLLM) -> None:
    with torch.no_grad():
        speech = model.encode_speech(*padded([clip(200), clip(300)]))
        asked = with_speech(speech)
        plain = all_states(model, asked, speech)
        model.add_plora(lora_config(4, 4, 0.0, "all-linear"))
        train_lora_b(model)
        adapted = all_states(model, asked, speech)
    assert torch.equal(plain[:, : len(BEFORE)], adapted[:, : len(BEFORE)])
    assert (plain - adapted)[asked.speech].abs().amax(dim=-1).min() > 1e-3
    assert (plain - adapted)[asked.predicts].abs().amax(dim=-1).min() > 1e-3


def all_states(model: SpeechLLM, asked: Sequences, speech: Speech) -> Tensor:
    """The final hidden states at every position."""
    everywhere = replace(asked, predicts=torch.ones_like(asked.predicts), num_shared=0)
    return model.response_states(everywhere, speech).view(*asked.predicts.shape, -1)


def test_computing_the_shared_start_once_changes_nothing(model: SpeechLLM) -> None:
    with torch.no_grad():
        speech = model.encode_speech(*padded([clip(200), clip(300)]))
        asked = with_speech(speech)
        assert asked.num_shared == len(BEFORE)
        model.add_plora(lora_config(4, 4, 0.0, "all-linear"))
        train_lora_b(model)
        each = model.response_states(replace(asked, num_shared=0), speech)
        torch.testing.assert_close(model.response_states(asked, speech), each, rtol=0, atol=1e-5)


def test_an_untrained_plora_changes_nothing(model: SpeechLLM) -> None:
    with torch.no_grad():
        speech = model.encode_speech(*padded([clip(200), clip(300)]))
        asked = with_speech(speech)
        stage_1 = model.response_states(asked, speech)
        model.add_plora(lora_config(4, 4, 0.05, "all-linear"))
        assert torch.equal(stage_1, model.response_states(asked, speech))


def test_what_is_trained_is_float32_beside_an_llm_in_bfloat16(tiny_models: ModelsParams) -> None:
    config = model_config(tiny_models, encoder_trained=True, plora=True)
    model = saved_model.build(config, torch.bfloat16)
    model.add_plora(lora_config(4, 4, 0.0, "all-linear"))
    model.encoder.train_weights()
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"adapter", "encoder", "head", "llm"}
    assert set(trained.values()) == {torch.float32}
    with torch.no_grad(), autocast(model.llm):
        speech = model.encode_speech(*padded([clip(200), clip(300)]))
        before = model.response_states(with_speech(speech), speech)
    with torch.no_grad(), autocast(model.llm):  # autocast keeps its copies of the weights until it ends
        train_lora_b(model)
        assert not torch.equal(before, model.response_states(with_speech(speech), speech))


def test_plora_starts_as_published(model: SpeechLLM) -> None:
    model.add_plora(lora_config(4, 4, 0.05, "all-linear"))
    a = [p for n, p in model.llm.named_parameters() if f"lora_A.{ADAPTER_NAME}" in n]
    b = [p for n, p in model.llm.named_parameters() if f"lora_B.{ADAPTER_NAME}" in n]
    assert len(a) == len(b) == 2 * 7  # two blocks of q, k, v, o, gate, up and down
    assert all(p.abs().max() > 0 for p in a)
    assert all(p.abs().max() == 0 for p in b)
    assert not any("lora" in n for n, _ in model.llm.get_output_embeddings().named_parameters())


def test_the_kl_is_zero_when_the_words_stand_in_the_place_of_speech(model: SpeechLLM) -> None:
    words = [[20, 21, 22], [23, 24]]
    text = sequences(BEFORE, words, AFTER, RESPONSES)
    asked = sequences(BEFORE, [[None] * len(w) for w in words], AFTER, RESPONSES)
    embed = model.token_embeddings
    embeddings = torch.zeros(2, 3, embed.weight.shape[1])
    valid = torch.zeros(2, 3, dtype=torch.bool)
    for i, word in enumerate(words):
        embeddings[i, : len(word)], valid[i, : len(word)] = embed(torch.tensor(word)).detach(), True
    with torch.no_grad():
        student = model.response_states(asked, Speech(embeddings=embeddings, valid=valid))
        teacher = model.response_states(text, None)
        kl = response_kl(student, teacher, model.output_head, temperature=2.0)
    assert len(kl) == 5
    assert kl.abs().max() < 1e-6


def test_a_clip_gives_the_same_tokens_alone_and_beside_a_longer_one(model: SpeechLLM) -> None:
    for frames in (100, 101, 117, 333):
        with torch.no_grad():
            alone = model.encode_speech(*padded([clip(frames)]))
            beside = model.encode_speech(*padded([clip(frames), clip(700)]))
        assert beside.valid[0].sum() == alone.valid.sum() == num_speech_tokens(frames)
        torch.testing.assert_close(beside.embeddings[0][beside.valid[0]], alone.embeddings[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(beside.pooled()[0], alone.pooled()[0], rtol=0, atol=1e-5)


def test_a_row_gets_the_same_hidden_states_alone_and_beside_a_longer_one(model: SpeechLLM) -> None:
    with torch.no_grad():
        alone = model.encode_speech(*padded([clip(150)]))
        beside = model.encode_speech(*padded([clip(150), clip(700)]))
        states = model.response_states(with_speech(alone), alone)
        both = model.response_states(with_speech(beside), beside)
        torch.testing.assert_close(both[: len(RESPONSES[0])], states, rtol=0, atol=1e-5)


def test_embeddings_start_at_the_norm_of_the_token_embeddings(model: SpeechLLM) -> None:
    norm = model.token_embeddings.weight.norm(dim=-1).mean()
    with torch.no_grad():
        speech = model.encode_speech(*padded([clip(400)]))
    torch.testing.assert_close(speech.embeddings.norm(dim=-1).mean(), norm, rtol=1e-2, atol=0)


def test_only_the_adapter_is_trained_before_stage_2(model: SpeechLLM) -> None:
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"adapter", "head"}
