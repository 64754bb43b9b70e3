"""Useful FLOPs are those that are counted by hand: no padding, no gradient of what is frozen, nothing twice."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.tables.packed import PromptShell
from train.data.dataset import Collator, Example
from train.model import Batch, SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.inputs import packed_sequences, sequences
from train.model.plora import lora_config
from train.useful_flops import UsefulFlops, product_flops

SHELL = PromptShell(before_speech=[1, 2, 3], before_text=[1, 2, 3], after=[4])
FRAMES, STATES, SPEECH = (64, 32), (32, 16), (4, 2)
TEXTS, ANSWERS = (2, 5), (3, 1)


@pytest.fixture
def model() -> SpeechLLM:
    """One layer of width 4 each; the LLM has two heads, one of keys, and 10 tokens."""
    encoder = WhisperConfig(
        d_model=4, encoder_layers=1, encoder_attention_heads=1, encoder_ffn_dim=8, num_mel_bins=2
    )  # fmt: skip
    llm = LlamaConfig(
        vocab_size=10, hidden_size=4, intermediate_size=6, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return SpeechLLM(SpeechEncoder(WhisperEncoder(encoder), False), LlamaForCausalLM(llm), 2)


def batch(with_teacher: bool, packed: bool, round_up: bool = False) -> Batch:
    clips = [
        Example(torch.zeros(2, frames), frames, [5] * text, [6] * answer, 0)
        for frames, text, answer in zip(FRAMES, TEXTS, ANSWERS, strict=True)
    ]
    lay_out = partial(packed_sequences, shares_start=True) if packed else sequences
    return Collator(SHELL, with_teacher, lay_out=lay_out, round_up=round_up)(clips)


def multiplied(*pairs: tuple[int, int]) -> int:
    return sum(2 * a * b for a, b in pairs)


# of the whole batch, by hand
CONV1 = sum(FRAMES) * multiplied((2 * 3, 4))
LAYER = sum(STATES) * multiplied(*[(4, 4)] * 4, (4, 8), (8, 4)) + sum(2 * 2 * n * n * 4 for n in STATES)
ENCODER = CONV1 + sum(STATES) * multiplied((4 * 3, 4)) + LAYER
ADAPTER_FIRST = (16 + 8) * multiplied((4 * 5, 8))
ADAPTER = ADAPTER_FIRST + (8 + 4 + 4 + 2) * multiplied((4 * 5, 8)) + (4 + 2) * multiplied((4, 512), (512, 4))
BLOCK = multiplied((4, 4), (4, 2), (4, 2), (4, 4), (4, 6), (4, 6), (6, 4))
LOGITS = (3 + 1) * multiplied((4, 10))
PAIR = 2 * 2 * 4  # scores and values, of the width of all queries


def pairs(rows: tuple[int, ...]) -> int:
    return sum(n * (n + 1) // 2 for n in rows)


def prompts(rows: tuple[int, ...]) -> int:
    return (3 + sum(rows)) * BLOCK + PAIR * (pairs((3,)) + pairs(rows) + 3 * sum(rows))


STUDENT, TEACHER = (4 + 1 + 3, 2 + 1 + 1), (2 + 1 + 3, 5 + 1 + 1)
# gradients of the activations after the start: each product again; of the attention, keys and queries both
STUDENT_BACK = sum(STUDENT) * BLOCK + PAIR * (2 * pairs(STUDENT) + 3 * sum(STUDENT))


@pytest.mark.parametrize("packed", [True, False])
def test_stage_1_trains_the_adapter_through_the_student(model: SpeechLLM, packed: bool) -> None:
    llm = prompts(STUDENT) + STUDENT_BACK + prompts(TEACHER) + 3 * LOGITS
    expected = ENCODER + 3 * ADAPTER - ADAPTER_FIRST + llm
    assert UsefulFlops(model).step([batch(True, packed)]) == expected
    assert UsefulFlops(model).step([batch(True, packed)] * 2) == 2 * expected


def test_a_stored_teacher_costs_nothing(model: SpeechLLM) -> None:
    flops = UsefulFlops(model)
    saved = flops.step([batch(True, True)]) - flops.step([batch(False, True)])
    assert saved == prompts(TEACHER) + LOGITS


def test_padding_to_few_sizes_costs_nothing(model: SpeechLLM) -> None:
    rounded = batch(True, True, round_up=True)
    assert len(rounded.num_frames) > len(FRAMES)
    assert UsefulFlops(model).step([rounded]) == UsefulFlops(model).step([batch(True, True)])


@pytest.mark.parametrize("packed", [True, False])
def test_stage_2_trains_the_encoder_and_p_lora_at_speech(model: SpeechLLM, packed: bool) -> None:
    model.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    model.encoder.train_weights()
    rank = 2 * sum(2 * (a + b) for a, b in ((4, 4), (4, 2), (4, 2), (4, 4), (4, 6), (4, 6), (6, 4)))
    llm = prompts(STUDENT) + STUDENT_BACK + 3 * sum(SPEECH) * rank + 2 * LOGITS
    expected = 3 * ENCODER - CONV1 + 3 * ADAPTER + llm
    assert UsefulFlops(model).step([batch(False, packed)]) == expected


def test_layers_that_are_computed_again_count_once(model: SpeechLLM) -> None:
    before = UsefulFlops(model).step([batch(True, True)])
    model.checkpoints_layers = True
    assert UsefulFlops(model).step([batch(True, True)]) == before


def test_the_speed_of_a_product_takes_no_draw_of_the_training() -> None:
    state = torch.get_rng_state()
    assert product_flops(64, torch.device("cpu")) > 0
    assert torch.equal(torch.get_rng_state(), state)
