"""Silence as long as a clip: what the model does with nothing but the length."""

import numpy as np

from pipeline.audio.speech_tokens import HOP_SAMPLES, MAX_MEL_FRAMES, NUM_HALVINGS
from train.data.log_mel import LogMel
from train.inference import Clip


def silent_clip(log_mel: LogMel, num_speech_tokens: int) -> Clip:
    """Return zeros with so many speech embeddings."""
    num_frames = silent_frames(num_speech_tokens)
    return Clip(log_mel(np.zeros(num_frames * HOP_SAMPLES, np.float32)), num_frames)


def silent_frames(num_speech_tokens: int) -> int:
    """Return the number of mel frames of the longest silence that has so many speech embeddings."""
    return min(num_speech_tokens << NUM_HALVINGS, MAX_MEL_FRAMES)
