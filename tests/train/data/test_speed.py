"""The lengths that the sampler counts are those of the clips that are read."""

import numpy as np
import pytest
import torch

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from train.data.draws import hash_id
from train.data.effects import SpeedParams
from train.data.speed import Speeds, resample


def speeds(num_samples: list[int], longest: list[int] | None = None, probability: float = 1.0) -> Speeds:
    return Speeds(
        params=SpeedParams(probability=probability, min_factor=0.9, max_factor=1.1),
        seed=1,
        hashes=np.concatenate([hash_id(f"row-{i}") for i in range(len(num_samples))]),
        num_samples=np.array(num_samples, np.int32),
        longest=np.array(longest or [10**9] * len(num_samples)),
    )


def test_the_factors_are_uniform_in_their_range_and_new_in_each_epoch() -> None:
    lengths = [speeds([100_000] * 3000).lengths(epoch) for epoch in (0, 1)]
    factors = 100_000 / lengths[0]
    assert factors.min() == pytest.approx(0.9, abs=1e-3)
    assert factors.max() == pytest.approx(1.1, abs=1e-3)
    assert np.median(factors) == pytest.approx(1.0, abs=0.01)
    assert (lengths[0] != lengths[1]).mean() > 0.99


def test_a_row_that_is_read_has_the_length_that_was_planned() -> None:
    found = speeds([8_000 + 37 * i for i in range(50)])
    assert [found.length(row, 3) for row in range(50)] == found.lengths(3).tolist()


def test_a_clip_is_changed_as_often_as_the_probability() -> None:
    lengths = speeds([100_000] * 4000, probability=0.25).lengths(0)
    assert (lengths != 100_000).mean() == pytest.approx(0.25, abs=0.03)


def test_a_clip_gets_at_most_its_longest_length() -> None:
    num_samples, longest = [100_000] * 500, [104_000] * 500
    lengths, free = speeds(num_samples, longest).lengths(0), speeds(num_samples).lengths(0)
    assert (lengths == np.minimum(free, 104_000)).all()
    assert (free > 104_000).any()


def test_a_resampled_clip_has_exactly_the_length_asked_for() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        num_samples = int(generator.integers(4_000, 480_000))
        length = round(num_samples / generator.uniform(0.5, 2))
        assert len(resample(np.zeros(num_samples, np.float32), length)) == length


def test_pitch_and_tempo_change_by_the_factor() -> None:
    times = torch.arange(2 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    faster = resample(torch.sin(2 * torch.pi * 1000 * times).numpy(), round(2 * SAMPLE_RATE_HZ / 1.1))
    spectrum = np.abs(np.fft.rfft(faster))
    assert spectrum.argmax() / len(faster) * SAMPLE_RATE_HZ == pytest.approx(1100, abs=1)
