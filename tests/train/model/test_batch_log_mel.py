"""The log-mel of whole batches is that of the loader, in both layouts, and so is the loss."""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples
from pipeline.audio.speech_tokens import MAX_MEL_FRAMES, num_mel_frames
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Example
from train.data.log_mel import ClipHops, LogMel
from train.model import Batch, Sequences, SpeechLLM, inputs
from train.model.inputs import change_features, packed_sequences, sequences

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6], after=[8, 9])
PACKED = partial(packed_sequences, shares_start=True)
SHORTEST = 1_600  # ingest accepts clips of 0.1 s


def voice(num_samples: int, seed: int) -> Samples:
    """Make up a clip with the spectrum of a voice: harmonics that come and go, over soft noise."""
    generator = np.random.default_rng(seed)
    seconds = np.arange(num_samples) / SAMPLE_RATE_HZ
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(3 * seconds)) / SAMPLE_RATE_HZ
    tones = sum(np.sin(k * pitch) / k**1.5 for k in range(1, 30))
    loudness = 0.1 * np.clip(np.sin(5 * seconds + seed), 0, None)
    clip: Samples = (loudness * tones + 1e-4 * generator.standard_normal(num_samples)).astype(np.float32)
    return clip


def clips() -> list[Samples]:
    """Return clips of odd lengths, silence, half silence, and a clip of more than 30 s."""
    half = voice(20_000, 4)
    half[8_000:] = 0
    lengths = (SHORTEST, SHORTEST + 159, 16_000, 16_001, 40_079, 500_123)
    return [*(voice(n, i) for i, n in enumerate(lengths)), np.zeros(5_000, np.float32), half, 0 * voice(1_601, 0)]


@pytest.fixture(scope="module")
def encoder(tiny_models: ModelsParams) -> Path:
    return Path(tiny_models.encoder.source)


def in_float64(log_mel: LogMel) -> LogMel:
    log_mel.window, log_mel.filters = log_mel.window.double(), log_mel.filters.double()
    return log_mel


def example(form: Callable[[Samples], torch.Tensor], clip: Samples) -> Example:
    return Example(
        features=form(clip),
        num_frames=num_mel_frames(len(clip)),
        text_ids=[20, 21],
        response_ids=[40, 41, 0],
        emotion=0,
        form="samples" if isinstance(form, ClipHops) else "log-mel",
    )


def batch_of(form: Callable[[Samples], torch.Tensor], given: list[Samples], lay_out: Callable[..., Sequences]) -> Batch:
    return Collator(SHELL, with_teacher=True, lay_out=lay_out)([example(form, clip) for clip in given])


@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 1e-5), (np.float64, 1e-9)])
@pytest.mark.parametrize("pad_to_30s", [False, True])
def test_the_log_mel_of_a_batch_is_that_of_each_clip(
    encoder: Path, dtype: type[np.floating], within: float, pad_to_30s: bool
) -> None:
    log_mel = LogMel(encoder, pad_to_30s)
    if dtype is np.float64:
        in_float64(log_mel)
    given = [clip.astype(dtype) for clip in clips()]
    batch = batch_of(ClipHops(log_mel), given, sequences)
    assert isinstance(batch.features, inputs.Samples)
    found = log_mel.of_batches()(batch.features.hops, batch.features.frames)
    lengths = [MAX_MEL_FRAMES if pad_to_30s else num_mel_frames(len(clip)) for clip in given]
    for clip, rows in zip(given, found.split(lengths), strict=True):
        assert rows.dtype == torch.from_numpy(clip).dtype
        torch.testing.assert_close(rows.T, log_mel(clip), rtol=0, atol=within)


def test_no_clip_changes_the_log_mel_of_another(encoder: Path) -> None:
    log_mel = LogMel(encoder, pad_to_30s=False)
    alone = [batch_of(ClipHops(log_mel), [clip], PACKED).features for clip in clips()]
    batch = batch_of(ClipHops(log_mel), clips(), PACKED)
    assert batch.clips is not None
    assert isinstance(batch.features, inputs.Samples)
    found = log_mel.of_batches()(batch.features.hops, batch.features.frames)
    starts = batch.clips[0].starts.tolist()
    for features, start, stop in zip(alone, starts, starts[1:], strict=False):
        assert isinstance(features, inputs.Samples)
        own = log_mel.of_batches()(features.hops, features.frames)
        torch.testing.assert_close(found[start:stop], own, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lay_out", "pad_to_30s"),
    [(PACKED, False), (sequences, False), (sequences, True)],
    ids=["packed", "padded", "padded to 30 s"],
)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_the_loss_is_that_of_the_loader(
    tiny_models: ModelsParams,
    encoder: Path,
    lay_out: Callable[..., Sequences],
    pad_to_30s: bool,
    dtype: torch.dtype,
    within: float,
) -> None:
    model = saved_model.build(model_config(tiny_models, pad_to_30s=pad_to_30s), torch.float32).to(dtype)
    log_mel = LogMel(encoder, pad_to_30s)
    if dtype is torch.float64:
        in_float64(log_mel)
    model.log_mel = log_mel.of_batches()
    given = [clip.astype(log_mel.window.numpy().dtype) for clip in clips() if len(clip) < 60_000]
    losses = {form: loss_of(model, batch_of(form, given, lay_out)) for form in (log_mel, ClipHops(log_mel))}
    expected, found = losses.values()
    assert expected > 1
    assert found == pytest.approx(expected, rel=within)


def loss_of(model: SpeechLLM, batch: Batch) -> float:
    """Return cross-entropy plus a function of the pooled embeddings."""
    outputs = model(batch)
    ce = functional.cross_entropy(outputs.student @ model.output_head.weight.T, batch.response_ids, reduction="sum")
    return float((ce + outputs.emotion.sin().sum()).detach())


def test_samples_change_with_their_batch(encoder: Path) -> None:
    batch = batch_of(ClipHops(LogMel(encoder, False)), clips()[:3], PACKED)
    moved = batch.to(torch.device("cpu"))
    assert isinstance(batch.features, inputs.Samples)
    assert isinstance(moved.features, inputs.Samples)
    assert torch.equal(moved.features.hops, batch.features.hops)
    shipped = pickle.loads(pickle.dumps(batch)).features
    assert torch.equal(shipped.hops, batch.features.hops)
    assert torch.equal(shipped.frames.back, batch.features.frames.back)


def test_the_log_mel_reads_nothing_back_from_its_device(encoder: Path) -> None:
    """A fake tensor has no values, and raises if something asks for one."""
    log_mel = LogMel(encoder, False)
    features = batch_of(ClipHops(log_mel), clips(), PACKED).features
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        there = change_features(features, mode.from_tensor)
        assert isinstance(there, inputs.Samples)
        found = log_mel.of_batches()(there.hops, there.frames)
        with pytest.raises(DataDependentOutputException):
            found.max().item()
    assert found.shape == (sum(num_mel_frames(len(clip)) for clip in clips()), 80)
