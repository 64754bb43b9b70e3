import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio import flac_header
from pipeline.ingest.inspection import AudioFacts, Segment, inspect_header, inspect_samples
from pipeline.tables.quarantine import Fault
from tests.builders import noise, write_audio

WHOLE = Segment(0.0, None)


def whole(look: Callable[..., list[AudioFacts | Fault]], path: Path) -> AudioFacts | Fault:
    (found,) = look(path, [WHOLE])
    return found


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_wav_and_flac_have_the_same_hash_decoded_or_not(tmp_path: Path, rate: int, channels: int) -> None:
    samples = noise(channels=channels)
    as_24_bit = samples.astype(np.int32) << 16
    expected = AudioFacts(8000 / rate, rate, channels, hashlib.md5(samples.tobytes()).hexdigest())
    flac_file = write_audio(tmp_path / "a.flac", samples, rate)
    assert whole(inspect_samples, write_audio(tmp_path / "a.wav", samples, rate)) == expected
    assert whole(inspect_samples, flac_file) == whole(inspect_header, flac_file) == expected
    deep = write_audio(tmp_path / "24.flac", as_24_bit, rate, subtype="PCM_24")
    assert whole(inspect_samples, deep) == whole(inspect_header, deep)
    assert whole(inspect_samples, write_audio(tmp_path / "24.wav", as_24_bit, rate, subtype="PCM_24")) == whole(
        inspect_header, deep
    )
    other = whole(inspect_samples, write_audio(tmp_path / "b.wav", samples[::-1], rate))
    assert isinstance(other, AudioFacts)
    assert other.content_hash != expected.content_hash


def test_a_header_without_hash_gives_length_and_rate_alone(tmp_path: Path) -> None:
    assert whole(inspect_header, write_audio(tmp_path / "a.wav", noise())) == AudioFacts(0.5, 16_000, 1, None)


def test_every_fault_of_the_samples_has_its_reason(tmp_path: Path) -> None:
    loud = noise()
    loud[:400] = 32_767
    faults: dict[str, tuple[NDArray[Any], int, str, Fault]] = {
        "silent.wav": (np.zeros(8000, np.int16), 16_000, "PCM_16", Fault("silent", "all zero")),
        "quiet.wav": (noise() // 1000, 16_000, "PCM_16", Fault("silent", "peak -64 dB")),
        "loud.wav": (loud, 16_000, "PCM_16", Fault("clipped", "5.0 % of the samples")),
        "nan.wav": (np.full(8000, np.nan, np.float32), 16_000, "FLOAT", Fault("not-finite")),
        "short.wav": (noise(1000), 16_000, "PCM_16", Fault("too-short", "0.062 s")),
        "long.wav": (noise(61 * 8000), 8_000, "PCM_16", Fault("too-long", "61.0 s")),
        "slow.wav": (noise(), 4_000, "PCM_16", Fault("sample-rate", "4000 Hz")),
    }
    for name, (samples, rate, subtype, fault) in faults.items():
        assert whole(inspect_samples, write_audio(tmp_path / name, samples, rate, subtype=subtype)) == fault, name


def opposite(left: NDArray[np.int16]) -> NDArray[np.int16]:
    """The samples on one channel, and on another their opposite."""
    return np.concatenate([left, -left], axis=1)


def test_the_mix_that_training_uses_is_inspected(tmp_path: Path) -> None:
    half = noise(peak=16_000)
    half[:400] = 32_767
    clips: dict[str, tuple[NDArray[Any], Fault]] = {
        "opposite": (opposite(noise()), Fault("silent", "all zero")),
        "nearly opposite": (opposite(noise()) + np.array([0, 20], np.int16), Fault("silent", "peak -70 dB")),
        "constant": (np.full((8000, 1), 9_000, np.int16), Fault("silent", "constant at 0.275 of full scale")),
        "nearly constant": (9_000 + noise(peak=10), Fault("silent", "constant at 0.275 of full scale")),
        "constant after mixing": (
            opposite(noise()) + np.array([0, 9_000], np.int16),
            Fault("silent", "constant at 0.137 of full scale"),
        ),
        "float constant": (np.full((8000, 1), -0.5, np.float32), Fault("silent", "constant at -0.500 of full scale")),
        "both clipped": (np.repeat(half, 2, axis=1), Fault("clipped", "5.0 % of the samples")),
        "one not finite": (np.array([[0.1, np.inf]] * 8000, np.float32), Fault("not-finite")),
        "infinities that cancel": (np.array([[-np.inf, np.inf]] * 8000, np.float32), Fault("not-finite")),
    }
    for name, (samples, fault) in clips.items():
        subtype = "FLOAT" if samples.dtype == np.float32 else "PCM_16"
        assert whole(inspect_samples, write_audio(tmp_path / f"{name}.wav", samples, subtype=subtype)) == fault, name


def test_a_channel_that_the_mix_does_not_clip_is_no_fault(tmp_path: Path) -> None:
    loud = noise(peak=30_000)
    loud[:400] = 32_767
    samples = np.concatenate([loud, noise(seed=1)], axis=1)
    assert isinstance(whole(inspect_samples, write_audio(tmp_path / "a.wav", samples)), AudioFacts)
    shifted = noise(peak=2_000) + np.int16(9_000)  # speech on a constant, as of a cheap sound card
    assert isinstance(whole(inspect_samples, write_audio(tmp_path / "b.wav", shifted)), AudioFacts)


def test_quiet_speech_is_not_silent_and_some_full_samples_are_no_fault(tmp_path: Path) -> None:
    loud = noise()
    loud[:70] = -32_768
    assert isinstance(whole(inspect_samples, write_audio(tmp_path / "quiet.wav", noise() // 300)), AudioFacts)
    assert isinstance(whole(inspect_samples, write_audio(tmp_path / "loud.wav", loud)), AudioFacts)


def test_the_header_tells_what_shows_in_it(tmp_path: Path) -> None:
    assert whole(inspect_header, write_audio(tmp_path / "short.wav", noise(1000))) == Fault("too-short", "0.062 s")
    assert whole(inspect_header, tmp_path / "none.flac") == Fault("no-file")


def test_a_folder_called_like_a_file_is_no_file(tmp_path: Path) -> None:
    for name in ("a.flac", "a.wav"):
        (tmp_path / name).mkdir()
        assert whole(inspect_header, tmp_path / name) == whole(inspect_samples, tmp_path / name) == Fault("no-file")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_flac_file_that_ends_before_its_last_frame_is_truncated_by_its_header_alone(
    tmp_path: Path, kept: float
) -> None:
    path = write_audio(tmp_path / "a.flac", noise(160_000))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert whole(inspect_header, path) == Fault("truncated", "the last FLAC frame is missing")
    found = whole(inspect_samples, path)
    assert isinstance(found, Fault)
    assert found.reason in ("truncated", "unreadable")


@pytest.mark.parametrize("num_samples", [1, 4096, 4097, 127 * 4096 + 1, 128 * 4096 + 1, 3_000_000, 9_000_000])
def test_the_flac_header_of_files_of_any_length_is_read(tmp_path: Path, num_samples: int) -> None:
    path = write_audio(tmp_path / "a.flac", (noise(num_samples) // 4000))
    header = flac_header.read_header(path)
    assert isinstance(header, flac_header.Header)
    assert (header.num_samples, header.sample_rate_hz, header.channels) == (num_samples, 16_000, 1)


def test_segments_of_a_file_are_inspected_each_by_itself(tmp_path: Path) -> None:
    samples = noise(32_000)
    samples[16_000:24_000] = 0
    path = write_audio(tmp_path / "a.wav", samples)
    parts = [Segment(0.0, 0.5), Segment(1.0, 0.5), Segment(1.5, 0.5), Segment(1.8, 0.5)]
    first, silent, last, beyond = inspect_samples(path, parts)
    assert isinstance(first, AudioFacts)
    assert first.content_hash == hashlib.md5(samples[:8000].tobytes()).hexdigest()
    assert isinstance(last, AudioFacts)
    assert silent == Fault("silent", "all zero")
    assert beyond == Fault("truncated", "the file ends at 2.00 s")
    assert [type(look) for look in inspect_header(path, parts)] == [AudioFacts, AudioFacts, AudioFacts, Fault]


def test_a_file_that_does_not_open_is_the_fault_of_all_its_segments(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    fault = Fault("unreadable", "invalid data found when processing input")
    assert inspect_samples(tmp_path / "a.wav", [WHOLE, Segment(1.0, 2.0)]) == [fault, fault]
    assert inspect_header(tmp_path / "a.wav", [WHOLE, Segment(1.0, 2.0)]) == [fault, fault]
