"""Compute log-mel features with Whisper's own feature extractor."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperFeatureExtractor

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from train.model.encoder import MAX_DURATION_S, MEL_FRAMES_PER_S

HOP_SAMPLES = SAMPLE_RATE_HZ // MEL_FRAMES_PER_S


def num_mel_frames(num_samples: int) -> int:
    """Return the number of mel frames of a clip, at most 3,000 because Whisper truncates clips to 30 s."""
    return min(num_samples // HOP_SAMPLES, MAX_DURATION_S * MEL_FRAMES_PER_S)


class LogMel:
    """Computes Whisper's log-mel of a clip, at its true length or padded with silence to 30 s."""

    def __init__(self, encoder_folder: Path, pad_to_30s: bool) -> None:
        self.extractor = WhisperFeatureExtractor.from_pretrained(encoder_folder)
        self.pad_to_30s = pad_to_30s

    def __call__(self, clip: Float[np.ndarray, " samples"]) -> Float[Tensor, "m f"]:
        """Return the log-mel of one 16 kHz mono clip."""
        features = self.extractor(
            clip,
            sampling_rate=SAMPLE_RATE_HZ,
            padding="max_length" if self.pad_to_30s else "do_not_pad",
            truncation=True,
            return_tensors="np",
        )
        return torch.from_numpy(features["input_features"][0])
