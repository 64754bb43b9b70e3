"""Rate at which one process reads training clips, with and without augmentation: python -m benchmarks.augmentation

The clips are coloured noise, read as in training: FLAC is decoded, augmented, and turned into a log-mel. The
augmentation is stage 1's preset emotion-safe. Both ways are timed in turn, each five times; the figures are medians.
"""

import tempfile
import time
from pathlib import Path

from transformers import WhisperFeatureExtractor

from benchmarks.results_file import median_and_runs, recorded
from pipeline.audio import mono_16k
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from train.data.augmentation import Augmentation
from train.data.effects import PRESETS, AugmentParams
from train.data.log_mel import LogMel
from train.data.sounds import ColouredNoises

SECONDS = (2.5, 4.5, 12.0)
CLIPS, TIMES = 300, 5


def rate(flac: bytes, log_mel: LogMel, augment: Augmentation | None, epoch: int) -> float:
    """Return clips per second."""
    started = time.perf_counter()
    for number in range(CLIPS):
        samples = mono_16k.decode(flac)
        if augment is not None:
            samples = augment(number, f"row-{number}", samples, epoch)
        log_mel(samples)
    return CLIPS / (time.perf_counter() - started)


def main() -> None:
    """Run the benchmark."""
    augment = Augmentation(AugmentParams.model_validate(PRESETS["emotion-safe"]), 1, None)
    with tempfile.TemporaryDirectory() as folder:
        WhisperFeatureExtractor().save_pretrained(folder)
        log_mel = LogMel(Path(folder), pad_to_30s=False)
    with recorded("augmentation") as figures:
        for seconds in SECONDS:
            flac = mono_16k.encode_flac(0.1 * ColouredNoises().read("pink", 0.2, int(seconds * SAMPLE_RATE_HZ)))
            rates: dict[str, list[float]] = {"none": [], "emotion-safe": []}
            for epoch in range(TIMES):
                rates["none"].append(rate(flac, log_mel, None, epoch))
                rates["emotion-safe"].append(rate(flac, log_mel, augment, epoch))
            of_none = median_and_runs("none_clips_per_s", rates["none"])
            of_safe = median_and_runs("emotion_safe_clips_per_s", rates["emotion-safe"])
            ratio = of_safe["emotion_safe_clips_per_s"] / of_none["none_clips_per_s"]
            figures[f"{seconds} s"] = of_none | of_safe | {"ratio": ratio}
            print(
                f"{seconds:>4} s clips: {of_none['none_clips_per_s']:,.0f} clips/s without augmentation, "
                f"{of_safe['emotion_safe_clips_per_s']:,.0f} with emotion-safe: {ratio:.2f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
