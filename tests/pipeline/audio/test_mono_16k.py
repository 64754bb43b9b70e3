import numpy as np

from pipeline.audio import mono_16k
from tests.builders import noise


def test_flac_of_16_bit_samples_comes_back_exactly() -> None:
    samples = noise()[:, 0].astype(np.float32) / np.float32(32_768)
    assert np.array_equal(mono_16k.decode(mono_16k.encode_flac(samples)), samples)


def test_equal_samples_encode_to_equal_bytes_and_loud_ones_are_clipped() -> None:
    samples = np.array([0, 1.5, -1.5, 0.25], np.float32)
    assert mono_16k.encode_flac(samples) == mono_16k.encode_flac(samples.copy())
    assert mono_16k.decode(mono_16k.encode_flac(samples)).tolist() == [0, 1 - 1 / 32_768, -1, 0.25]
