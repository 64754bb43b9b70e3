"""Compute log-mel features with Whisper's own feature extractor."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import WhisperFeatureExtractor

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ


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
