"""The models and clips of the full-size steps, and tiny ones of the same kind.

Weights are random and are made on the device. Clips are random log-mel with the lengths of a corpus: for LibriSpeech
mostly 12 to 17 s with a tail of short clips (mean 12.3 s), for IEMOCAP 0.6 to 30 s (mean 4.5 s).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.gpu.card import DEVICE
from pipeline.audio.speech_tokens import MEL_FRAMES_PER_S
from pipeline.tables.packed import PromptShell
from train.data.dataset import Example
from train.model import SpeechLLM
from train.model.encoder import SpeechEncoder

Stage = Literal["semantic", "emotion"]

NUM_EMOTIONS = 5
TEXT_TOKENS_PER_S = 3.2
RESPONSE_TOKENS = (24, 49)  # continuations end by themselves or at 48 tokens
INSTRUCTION_TOKENS, TURN_TOKENS = 33, 5  # system message and instruction; end of the turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The shapes of a model and of its batches."""

    encoder: WhisperConfig
    llm: Qwen2Config
    clips: dict[Stage, int]
    """Clips in a batch: the number that fits into 78 GiB. Stage 2 trains encoder and P-LoRA, so it needs far more."""
    batches: int
    """Batches to time."""
    warm_up: int
    """Batches of the warm-up; the FLOPs of two of them are counted."""
    positions: int
    """Positions for the part with only the LLM."""
    seconds: float
    """Factor of the clip lengths; below 1 only in tiny runs."""


def full() -> Sizes:
    """Return the sizes of Whisper-large-v2's encoder and Qwen2.5-7B."""
    return Sizes(
        encoder=WhisperConfig(d_model=1280, encoder_layers=32, encoder_attention_heads=20, encoder_ffn_dim=5120),
        llm=Qwen2Config(
            vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28,
            num_attention_heads=28, num_key_value_heads=4, tie_word_embeddings=False,
        ),
        clips={"semantic": 16, "emotion": 8}, batches=16, warm_up=4, positions=4096, seconds=1.0,
    )  # fmt: skip


def tiny() -> Sizes:
    """Return the sizes of models with two layers, and clips of a tenth of the length."""
    return Sizes(
        encoder=WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64),
        llm=Qwen2Config(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
        ),
        clips={"semantic": 4, "emotion": 2}, batches=2, warm_up=2, positions=128, seconds=0.1,
    )  # fmt: skip


def build_llm(config: Qwen2Config) -> torch.nn.Module:
    """Make the LLM in bfloat16 on the device."""
    torch.manual_seed(0)
    with DEVICE:
        llm: torch.nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return llm.eval()


def build_model(sizes: Sizes) -> SpeechLLM:
    """Make the speech LLM on the device; everything except the LLM is in float32."""
    llm = build_llm(sizes.llm)
    with DEVICE:
        return SpeechLLM(SpeechEncoder(WhisperEncoder(sizes.encoder), False), llm, NUM_EMOTIONS)  # type: ignore[arg-type]


def durations_s(stage: Stage, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw clip lengths like LibriSpeech's (stage 1) or IEMOCAP's (stage 2)."""
    if stage == "emotion":
        return np.clip(generator.lognormal(1.324, 0.6, count), 0.6, 30)
    long, short = generator.normal(14.6, 1.3, count), generator.uniform(2, 14, count)
    return np.clip(np.where(generator.random(count) < 0.65, long, short), 1, 30)


def draw_clips(sizes: Sizes, stage: Stage, count: int, seed: int) -> list[Example]:
    """Draw clips with transcripts and continuations of random tokens."""
    generator = np.random.default_rng(seed)
    return clips_of(sizes, durations_s(stage, count, generator) * sizes.seconds, generator)


def clips_of(sizes: Sizes, durations: np.ndarray, generator: np.random.Generator) -> list[Example]:
    """Make up clips of these lengths in seconds, with transcripts and continuations of random tokens."""
    clips = []
    for seconds in durations:
        frames = round(seconds * MEL_FRAMES_PER_S)
        clips.append(
            Example(
                features=torch.from_numpy(generator.standard_normal((80, frames), dtype=np.float32)),
                num_frames=frames,
                text_ids=_tokens(sizes, generator, 1 + round(seconds * TEXT_TOKENS_PER_S)),
                response_ids=_tokens(sizes, generator, int(generator.integers(*RESPONSE_TOKENS))),
                emotion=int(generator.integers(NUM_EMOTIONS)),
            )
        )
    return clips


def frame() -> PromptShell:
    """Return the prompt around a clip, and around its transcript."""
    before, after = list(range(INSTRUCTION_TOKENS)), list(range(TURN_TOKENS))
    return PromptShell(before_speech=before, before_text=before, after=after)


def _tokens(sizes: Sizes, generator: np.random.Generator, count: int) -> list[int]:
    tokens: Sequence[int] = generator.integers(sizes.llm.vocab_size, size=count).tolist()
    return list(tokens)
