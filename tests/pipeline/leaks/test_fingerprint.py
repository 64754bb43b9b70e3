import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from pipeline.audio import mono_16k, recordings
from pipeline.audio.mono_16k import Samples
from pipeline.leaks import fingerprint

RATE_HZ = mono_16k.SAMPLE_RATE_HZ


def voice(seed: int, duration_s: float = 2.5) -> Samples:
    """Make up speech: harmonics of a wandering pitch under wandering formants, in syllables, between two silences."""
    generator = np.random.default_rng(seed)
    n = round(duration_s * RATE_HZ)

    def wander(low: float, high: float, points_per_s: float) -> Samples:
        points = generator.uniform(low, high, max(2, round(duration_s * points_per_s)))
        curve: Samples = np.interp(np.arange(n), np.linspace(0, n, len(points)), points).astype(np.float32)
        return curve

    pitch = wander(90, 260, 4)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    formants = [wander(low, high, 8) for low, high in ((300, 800), (900, 2_200), (2_300, 3_000))]
    sound = np.zeros(n, np.float32)
    for harmonic in range(1, 30):
        weight = sum(np.exp(-(((harmonic * pitch - formant) / 120) ** 2)) for formant in formants)
        sound += (0.02 + weight) * np.sin(harmonic * phase)
    sound *= wander(0, 1, 6) / np.abs(sound).max()
    hiss = 1e-4 * generator.standard_normal(n + RATE_HZ)
    hiss[RATE_HZ // 2 : RATE_HZ // 2 + n] += sound
    return hiss.astype(np.float32)


def encoded(samples: Samples, format_: str, subtype: str, rate_hz: int = RATE_HZ, **options: object) -> Samples:
    buffer = io.BytesIO()
    sent = soxr.resample(samples, RATE_HZ, rate_hz)
    soundfile.write(buffer, sent, rate_hz, format=format_, subtype=subtype, **options)
    received, received_hz = soundfile.read(io.BytesIO(buffer.getvalue()), dtype="float32")
    resampled: Samples = soxr.resample(received, received_hz, RATE_HZ).astype(np.float32)
    return resampled


def noisy(samples: Samples, snr_db: float) -> Samples:
    noise = np.random.default_rng(9).standard_normal(len(samples)).astype(np.float32)
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-snr_db / 20)
    return samples + noise * np.float32(level)


COPIES: dict[str, Callable[[Samples], Samples]] = {
    "a quarter of the level": lambda samples: samples * np.float32(0.25),
    "MP3 at 24 kbit/s": lambda samples: encoded(
        samples, "MP3", "MPEG_LAYER_III", bitrate_mode="CONSTANT", compression_level=0.9
    ),
    "Opus at 22 kbit/s": lambda samples: encoded(samples, "OGG", "OPUS"),
    "MP3 of 8 kHz": lambda samples: encoded(samples, "MP3", "MPEG_LAYER_III", 8_000),
    "8 kHz": lambda samples: soxr.resample(soxr.resample(samples, RATE_HZ, 8_000), 8_000, RATE_HZ),
    "trimmed": lambda samples: samples[3_333:-4_567],
    "delayed": lambda samples: np.concatenate([np.zeros(1_234, np.float32), samples]),
    "cut in half": lambda samples: samples[: len(samples) // 2],
    "noise at 20 dB": lambda samples: noisy(samples, 20),
    "all at once": lambda samples: encoded(noisy(samples[1_037:-1_500], 30), "OGG", "OPUS", 8_000),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_found_among_other_clips(copy: Callable[[Samples], Samples]) -> None:
    clips = [voice(seed) for seed in range(6)]
    index = fingerprint.Index([fingerprint.take(clip) for clip in clips])
    for i, clip in enumerate(clips):
        matches = index.find(fingerprint.take(copy(clip)))
        assert [match.clip for match in matches] == [i]
        assert matches[0].errors < 0.17
        assert matches[0].frames >= 32


def test_equal_clips_differ_in_no_bit_and_are_all_found() -> None:
    prints = [fingerprint.take(voice(seed)) for seed in (1, 2, 1)]
    assert [(match.clip, match.errors) for match in fingerprint.Index(prints).find(prints[0])] == [(0, 0.0), (2, 0.0)]


def test_a_short_segment_is_found_in_a_longer_clip() -> None:
    whole = voice(3, 6.0)
    index = fingerprint.Index([fingerprint.take(voice(4)), fingerprint.take(whole)])
    assert [match.clip for match in index.find(fingerprint.take(whole[20_000:40_000]))] == [1]


def test_the_same_voice_at_another_pitch_is_another_recording() -> None:
    index = fingerprint.Index([fingerprint.take(voice(5))])
    for speed in (0.9, 1.1):
        assert index.find(fingerprint.take(soxr.resample(voice(5), RATE_HZ, RATE_HZ * speed))) == []


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0, np.float32), np.zeros(48_000, np.float32), voice(1)[:5_000], voice(1)[12_000:18_000]],
    ids=["nothing", "silence", "0.31 s", "0.37 s"],
)
def test_what_is_silent_or_too_short_to_compare_matches_nothing(samples: Samples) -> None:
    empty = fingerprint.take(samples)
    assert fingerprint.Index([empty, fingerprint.take(voice(1))]).find(empty) == []
    assert fingerprint.Index([empty]).find(fingerprint.take(voice(1))) == []
    assert fingerprint.Index([]).find(fingerprint.take(voice(1))) == []


def test_a_word_that_too_many_frames_share_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = fingerprint.take(voice(1))
    assert fingerprint.Index([clip] * 20).find(clip)
    monkeypatch.setattr(fingerprint, "COMMON", 19)
    assert fingerprint.Index([clip] * 20).find(clip) == []


def pairs_found(files: list[Path]) -> Iterator[tuple[str, str]]:
    prints = [fingerprint.take(recordings.read(file)) for file in files]
    index = fingerprint.Index(prints)
    for i, file in enumerate(files):
        yield from ((file.stem, files[match.clip].stem) for match in index.find(prints[i]) if match.clip > i)


@pytest.mark.shared
def test_other_takes_of_a_sentence_by_the_same_actor_are_other_recordings(shared: Path) -> None:
    files = sorted((shared / "data/RAVDESS").rglob("Actor_0[1-7]/*"))
    assert len(files) == 7 * 60
    # the only recording that the corpus holds twice
    assert list(pairs_found(files)) == [("03-01-03-01-02-01-07", "03-01-03-01-02-02-07")]


@pytest.mark.shared
def test_copies_of_real_clips_are_found_and_no_others(shared: Path) -> None:
    files = sorted((shared / "data/RAVDESS").rglob("Actor_1[0-2]/*-01-1?.flac"))
    clips = [recordings.read(file) for file in files]
    index = fingerprint.Index([fingerprint.take(clip) for clip in clips])
    copies = itertools.cycle(COPIES.values())
    for i, (clip, copy) in enumerate(zip(clips, copies, strict=False)):
        assert [match.clip for match in index.find(fingerprint.take(copy(clip)))] == [i]
    assert len(clips) == 90
