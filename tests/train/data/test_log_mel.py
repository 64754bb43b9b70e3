"""Our log-mel against that of transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.stage import UserError
from train.data.log_mel import LogMel

NUM_MELS = (80, 128)


@pytest.fixture(scope="session")
def extractors(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return folders with the extractors of Whisper's sizes, by their number of mel bands."""
    folders = {mels: tmp_path_factory.mktemp(f"extractor{mels}") for mels in NUM_MELS}
    for mels, folder in folders.items():
        WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    return folders


@given(
    mels=st.sampled_from(NUM_MELS),
    pad_to_30s=st.booleans(),
    num_samples=st.one_of(st.integers(201, 40_000), st.integers(479_000, 481_000)),
    seed=st.integers(0, 9),
)
def test_the_log_mel_is_that_of_transformers_but_for_a_rounding(
    extractors: dict[int, Path], mels: int, pad_to_30s: bool, num_samples: int, seed: int
) -> None:
    clip = (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)
    expected = WhisperFeatureExtractor.from_pretrained(extractors[mels])(
        clip,
        sampling_rate=SAMPLE_RATE_HZ,
        padding="max_length" if pad_to_30s else "do_not_pad",
        truncation=True,
        return_tensors="np",
    )["input_features"][0]
    np.testing.assert_allclose(LogMel(extractors[mels], pad_to_30s)(clip).numpy(), expected, rtol=0, atol=5e-7)


def test_an_extractor_that_adds_noise_is_refused(extractors: dict[int, Path], tmp_path: Path) -> None:
    settings = json.loads((extractors[80] / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"dither": 0.1}))
    with pytest.raises(UserError, match=r"dither 0\.1, expected 0"):
        LogMel(tmp_path, pad_to_30s=False)
