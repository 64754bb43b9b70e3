"""Compute Whisper's log-mel features, as transformers' extractor does, without its work for each call.

Or prepare the samples of a clip for a log-mel that the model computes on its device (train/model/batch_log_mel.py).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import WhisperFeatureExtractor

from pipeline.stage import UserError
from train.model.batch_log_mel import EXTRA_HOPS, BatchLogMel, power


class LogMel:
    """Computes Whisper's log-mel of a clip, at its true length or padded with silence to 30 s.

    The operations are those of `WhisperFeatureExtractor._torch_extract_fbank_features`, with two differences. The
    extractor makes its window and its filters again for each clip; here they are made once. The extractor squares the
    absolute value of the spectrum; here no root is taken (`power`). So the features differ by one rounding of float32.
    """

    def __init__(self, encoder_folder: Path, pad_to_30s: bool) -> None:
        """Read the settings of an encoder's extractor; raises UserError if it adds noise to clips (dither)."""
        extractor = WhisperFeatureExtractor.from_pretrained(encoder_folder)
        if extractor.dither:
            raise UserError(f"{encoder_folder}: found an extractor with dither {extractor.dither}, expected 0")
        self.n_fft, self.hop = extractor.n_fft, extractor.hop_length
        self.max_samples = extractor.n_samples
        self.pad_to_30s = pad_to_30s
        self.window = torch.hann_window(self.n_fft)
        self.filters = torch.from_numpy(extractor.mel_filters).to(torch.float32).T

    def __call__(self, clip: Float[np.ndarray, " samples"]) -> Float[Tensor, "m f"]:
        """Return the log-mel of one 16 kHz mono clip; what exceeds 30 s is cut off."""
        samples = torch.from_numpy(clip[: self.max_samples])
        if self.pad_to_30s:
            samples = functional.pad(samples, (0, self.max_samples - len(samples)))
        spectrum = torch.stft(samples, self.n_fft, self.hop, window=self.window, return_complex=True)
        levels = (self.filters @ power(spectrum[:, :-1])).clamp_(min=1e-10).log10_()
        return torch.maximum(levels, levels.max() - 8.0).add_(4.0).div_(4.0)

    def of_batches(self) -> BatchLogMel:
        """Return the module that computes the same log-mel for whole batches."""
        return BatchLogMel(self.window, self.filters, self.hop)


class ClipHops:
    """Returns the samples of a clip as `Samples.hops` needs them."""

    def __init__(self, log_mel: LogMel) -> None:
        """Take the settings of a log-mel."""
        self.settings = log_mel

    def __call__(self, clip: Float[np.ndarray, " samples"]) -> Float[Tensor, "h w"]:
        """Return the samples of one 16 kHz mono clip in hops; what exceeds 30 s is cut off."""
        settings = self.settings
        samples = clip[: settings.max_samples]
        if settings.pad_to_30s:
            samples = np.pad(samples, (0, settings.max_samples - len(samples)))
        num_hops = len(samples) // settings.hop + EXTRA_HOPS
        reflected = np.pad(samples, settings.n_fft // 2, mode="reflect")
        return torch.from_numpy(reflected[: num_hops * settings.hop].reshape(num_hops, settings.hop))
