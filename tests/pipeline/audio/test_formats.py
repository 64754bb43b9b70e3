"""The content of a file decides how it is read, not its suffix."""

from pathlib import Path

import av
import pytest
import soundfile

from pipeline.audio import recordings
from tests.audio_files import FFMPEG_FORMATS, SNDFILE_FORMATS, by_ffmpeg, by_libsndfile, decoded_s, voice


@pytest.mark.parametrize("suffix", [".wav", ".mp4"])
@pytest.mark.parametrize(("form", "codec", "options"), FFMPEG_FORMATS)
def test_every_format_of_ffmpeg_is_read_under_any_suffix(
    tmp_path: Path, form: str, codec: str, options: dict[str, str], suffix: str
) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(by_ffmpeg(voice(1, 48_000), 48_000, form, codec, options))
    with recordings.opened(path) as file:
        samples = recordings.read_segment(file, 0.0, None, "float32")
        assert len(samples) / file.samplerate == pytest.approx(decoded_s(path), abs=1e-6)
    assert len(samples) == pytest.approx(48_000, abs=4_500)


@pytest.mark.parametrize(("form", "subtype"), SNDFILE_FORMATS)
def test_every_format_of_libsndfile_is_read_as_wav(tmp_path: Path, form: str, subtype: str) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(by_libsndfile(voice(1, 48_000), 48_000, form, subtype))
    assert len(recordings.read(path)) == pytest.approx(16_000, abs=1_000)


def test_the_audio_of_a_video_is_read_and_its_pictures_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    with av.open(str(path), "w", format="mp4") as container:
        video, audio = container.add_stream("mpeg4", rate=25), container.add_stream("aac", rate=16_000)
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width = video.height = 16
        video.pix_fmt = "yuv420p"
        audio.layout = "mono"
        samples = voice(2, 16_000)
        for _ in range(50):
            container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        for start in range(0, len(samples), 1_024):
            frame = av.AudioFrame.from_ndarray(samples[start : start + 1_024].T.copy(), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(audio.encode(frame))
        container.mux([*video.encode(None), *audio.encode(None)])
    assert len(recordings.read(path)) == pytest.approx(32_000, abs=2_100)


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("http:clip.mp3")
    path.write_bytes(by_ffmpeg(voice(1, 16_000), 16_000, "mp3", "libmp3lame"))
    assert len(recordings.read(path)) == 16_000


@pytest.mark.parametrize("num_channels", [7, 8])
def test_many_channels_are_all_in_the_mix(tmp_path: Path, num_channels: int) -> None:
    samples = voice(0.5, 16_000, num_channels)
    path = tmp_path / "clip.ogg"
    path.write_bytes(by_libsndfile(samples, 16_000, "OGG", "VORBIS"))
    expected = soundfile.read(path, dtype="float32")[0].mean(axis=1)
    assert recordings.read(path) == pytest.approx(expected, abs=1e-4)
