from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.audio import recordings
from tests.builders import noise, write_audio


def test_reading_mixes_channels_and_resamples_to_16_khz(tmp_path: Path) -> None:
    t = np.arange(48_000) / 48_000
    tone = np.sin(2 * np.pi * 440 * t)
    path = write_audio(tmp_path / "tone.wav", np.stack([tone, 0 * tone], axis=1).astype(np.float32), 48_000)
    samples = recordings.read(path)
    assert samples.dtype == np.float32
    assert samples.shape == (16_000,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(samples - expected)[100:-100].max() < 1e-3


def test_a_segment_of_a_file_is_read_by_seconds(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise())
    segment = recordings.read(path, start_s=0.1, duration_s=0.2)
    assert np.array_equal(segment, recordings.read(path)[1600:4800])


def reason_of(path: Path, **segment: float) -> str:
    with pytest.raises(recordings.UnreadableAudio) as raised:
        recordings.read(path, **segment)
    return str(raised.value)


def test_what_cannot_be_read_tells_its_reason_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    write_audio(tmp_path / "header.wav", np.zeros(0, np.int16))
    whole = write_audio(tmp_path / "cut.flac", noise()).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert reason_of(tmp_path / "missing.wav") == "no-file"
    assert reason_of(tmp_path / "missing.mp4") == "no-file"
    assert reason_of(tmp_path / "empty.wav") == "empty-file"
    assert reason_of(tmp_path / "text.wav") == "unreadable: Format not recognised"
    assert reason_of(tmp_path / "text.mp4").startswith("unreadable: invalid data")
    assert reason_of(tmp_path / "pointer.wav") == "lfs-pointer"
    assert reason_of(tmp_path / "header.wav") == "truncated: no samples"
    assert reason_of(tmp_path / "cut.flac").startswith(("truncated: ", "unreadable: "))


def test_a_wav_file_that_was_cut_is_no_shorter_recording(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "cut.wav", noise())
    content = path.read_bytes()
    for kept in (100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert reason_of(path) == "truncated: the file ends before the length in its header"
    path.write_bytes(content + b"LIST")  # what follows the samples is no matter
    assert len(recordings.read(path)) == 8000
    path.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])  # as written into a pipe
    assert len(recordings.read(path)) == 8000


@pytest.mark.parametrize("segment", [{"start_s": -0.1}, {"duration_s": 0.0}, {"duration_s": -0.5}])
def test_a_segment_that_starts_before_the_file_or_lasts_no_time_is_refused(
    tmp_path: Path, segment: dict[str, float]
) -> None:
    assert reason_of(write_audio(tmp_path / "a.wav", noise()), **segment).startswith("too-short: starts at ")


def test_a_file_that_may_not_be_read_is_one_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_audio(tmp_path / "a.wav", noise())
    path.write_bytes(b"")
    monkeypatch.setattr(Path, "open", deny)
    assert reason_of(path) == "unreadable: permission denied"


def test_a_segment_beyond_the_end_is_told_but_for_rounding(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noise())
    assert reason_of(path, start_s=0.2, duration_s=0.5) == "truncated: the file ends at 0.50 s"
    assert len(recordings.read(path, 0.2, 0.35)) == 4800


def mp4(path: Path, samples: NDArray[np.float32], rate: int) -> Path:
    """A video container as MELD's clips are, with the samples as AAC."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024].copy(), "fltp", "stereo")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_sound_of_an_mp4_is_read(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000).astype(np.float32)
    path = mp4(tmp_path / "dia0_utt0.mp4", np.stack([tone, tone]), 48_000)
    samples = recordings.read(path)
    assert len(samples) == pytest.approx(16_000, abs=1_000)
    spectrum = np.abs(np.fft.rfft(samples[:8_000]))
    assert np.argmax(spectrum) * 2 == pytest.approx(440, abs=4)
    assert len(recordings.read(path, 0.25, 0.5)) == 8_000


def test_a_video_without_sound_is_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    assert reason_of(tmp_path / "mute.mp4") == "unreadable: no audio stream"


@pytest.mark.shared
def test_a_real_recording_is_11_s_long(shared: Path) -> None:
    samples = recordings.read(shared / "data" / "clips" / "jfk.flac")
    assert len(samples) == pytest.approx(11.0 * 16_000, abs=160)
    assert 0.1 < np.abs(samples).max() <= 1
