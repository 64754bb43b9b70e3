from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline import audio


def noise(num_samples: int = 8000, channels: int = 1) -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-20_000, 20_000, (num_samples, channels), dtype=np.int16)


def write(path: Path, samples: NDArray[Any], rate: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def test_flac_of_16_bit_samples_comes_back_exactly() -> None:
    samples = noise()[:, 0].astype(np.float32) / np.float32(32_768)
    assert np.array_equal(audio.decode(audio.encode_flac(samples)), samples)


def test_equal_samples_encode_to_equal_bytes_and_loud_ones_are_clipped() -> None:
    samples = np.array([0, 1.5, -1.5, 0.25], np.float32)
    assert audio.encode_flac(samples) == audio.encode_flac(samples.copy())
    assert audio.decode(audio.encode_flac(samples)).tolist() == [0, 1 - 1 / 32_768, -1, 0.25]


def test_reading_mixes_channels_and_resamples_to_16_khz(tmp_path: Path) -> None:
    t = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * t)
    path = write(tmp_path / "tone.wav", np.stack([tone, 0 * tone], axis=1).astype(np.float32), 48_000)
    samples = audio.read(path)
    assert samples.dtype == np.float32
    assert samples.shape == (16_000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(samples - expected)[100:-100].max() < 1e-3


def test_a_part_of_a_file_is_read_by_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise())
    part = audio.read(path, start_s=0.1, duration_s=0.2)
    assert np.array_equal(part, audio.read(path)[1600:4800])
    assert audio.probe(path, 0.1, 0.2).duration_s == 0.2


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_the_content_hash_is_the_same_in_wav_flac_and_float_wav(tmp_path: Path, rate: int, channels: int) -> None:
    samples = noise(channels=channels)
    files = [
        write(tmp_path / "a.wav", samples, rate),
        write(tmp_path / "a.flac", samples, rate),
        write(tmp_path / "24.flac", samples.astype(np.int32) << 16, rate, subtype="PCM_24"),
        write(tmp_path / "float.wav", samples.astype(np.float32) / 32_768, rate, subtype="FLOAT"),
    ]
    probes = [audio.probe(path) for path in files]
    assert len({probe.content_hash for probe in probes}) == 1
    assert {(probe.sample_rate_hz, probe.channels) for probe in probes} == {(rate, channels)}
    assert probes[0].content_hash != audio.probe(write(tmp_path / "b.wav", samples[::-1], rate)).content_hash


def test_silence_has_peak_0(tmp_path: Path) -> None:
    assert audio.probe(write(tmp_path / "a.wav", np.zeros(100, np.int16))).peak == 0


def test_unreadable_audio_tells_its_reason_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write(tmp_path / "header.wav", np.zeros(0, np.int16))
    write(tmp_path / "nan.wav", np.full(10, np.nan, np.float32), subtype="FLOAT")
    whole = write(tmp_path / "cut.flac", noise()).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    reasons = {
        "missing.wav": "file is missing",
        "empty.wav": "file is empty",
        "text.wav": "not readable: Format not recognised",
        "pointer.wav": "git-lfs pointer, not audio",
        "header.wav": "no samples",
        "nan.wav": "samples are not finite",
        "cut.flac": "(ends before the length in its header|not readable: .+)",
    }
    for name, reason in reasons.items():
        with pytest.raises(audio.UnreadableAudio, match=f"^{reason}$"):
            audio.probe(tmp_path / name)


@pytest.mark.shared
def test_a_real_recording_is_11_s_long(shared: Path) -> None:
    path = shared / "data" / "clips" / "jfk.flac"
    probe = audio.probe(path)
    assert (probe.sample_rate_hz, probe.channels) == (44_100, 2)
    assert len(audio.read(path)) == pytest.approx(11.0 * 16_000, abs=160)
    assert 0.1 < np.abs(audio.read(path)).max() <= 1
