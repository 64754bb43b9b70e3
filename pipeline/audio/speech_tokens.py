"""Lengths of a clip on its way to the LLM: 16 kHz samples, log-mel frames, and speech tokens (embeddings of speech).

Whisper's encoder halves the frames once, and the adapter three times.
"""

from typing import Any, TypeVar

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ

MEL_FRAMES_PER_S = 100
MAX_DURATION_S = 30  # Whisper's position embeddings end here
MAX_MEL_FRAMES = MAX_DURATION_S * MEL_FRAMES_PER_S
HOP_SAMPLES = SAMPLE_RATE_HZ // MEL_FRAMES_PER_S
NUM_HALVINGS = 4

Length = TypeVar("Length", bound=Any)


def num_mel_frames(num_samples: int) -> int:
    """Return the number of mel frames of a clip, at most 3,000 because Whisper truncates clips to 30 s."""
    return min(num_samples // HOP_SAMPLES, MAX_MEL_FRAMES)


def halved(length: Length) -> Length:
    """Return the length after a convolution of stride 2 with "same" padding; also of an array or a tensor."""
    return (length - 1) // 2 + 1  # type: ignore[no-any-return]


def num_speech_tokens(num_frames: Length) -> Length:
    """Return the number of speech embeddings of a clip of `num_frames` mel frames: 63 for 1,000 frames (10 s).

    Also of an array.
    """
    for _ in range(NUM_HALVINGS):
        num_frames = halved(num_frames)
    return num_frames
