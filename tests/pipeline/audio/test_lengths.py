"""The length of a file is what is in it, whatever its header says."""

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.audio import recordings, whole_file
from pipeline.ingest.inspection import AudioFacts, Segment, inspect_header, inspect_samples
from pipeline.tables.quarantine import Fault
from tests.audio_files import by_ffmpeg, by_libsndfile, claim_flac_samples, claim_wav_bytes, decoded_s, voice

RATE = 22_050
NO_XING = {"write_xing": "0", "id3v2_version": "0"}
DELAY_S = 0.05
WHOLE = Segment(0.0, None)


def inspect(path: Path, content: bytes) -> AudioFacts | Fault:
    path.write_bytes(content)
    (found,) = inspect_samples(path, [WHOLE])
    return found


def length(path: Path, content: bytes) -> float:
    found = inspect(path, content)
    assert isinstance(found, AudioFacts), found
    assert found.duration_s == pytest.approx(decoded_s(path), abs=1e-6)
    return found.duration_s


def wav(duration_s: float = 1.0, seed: int = 0, subtype: str = "PCM_16") -> bytes:
    return by_libsndfile(voice(duration_s, RATE, seed=seed), RATE, "WAV", subtype)


def flac(duration_s: float = 1.0, seed: int = 0) -> bytes:
    return by_libsndfile(voice(duration_s, RATE, seed=seed), RATE, "FLAC", "PCM_16")


def mp3(duration_s: float, seed: int = 0, options: dict[str, str] | None = None, bit_rate: int = 64_000) -> bytes:
    return by_ffmpeg(voice(duration_s, RATE, seed=seed), RATE, "mp3", "libmp3lame", options, bit_rate)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB, 2 * RATE + 16])
def test_a_wav_file_from_a_pipe_is_whole_whatever_size_its_writer_left(tmp_path: Path, size: int) -> None:
    content = claim_wav_bytes(wav(), size)
    sound = inspect(tmp_path / "sound.wav", wav())
    assert inspect(tmp_path / "a.wav", content) == sound  # also the content hash
    (segment,) = inspect_header(tmp_path / "a.wav", [Segment(0.25, 0.5)])
    assert isinstance(segment, AudioFacts)
    assert segment[:3] == (0.5, RATE, 1)
    assert np.array_equal(recordings.read(tmp_path / "a.wav"), recordings.read(tmp_path / "sound.wav"))
    riff = content[:4] + min(size + 36, 0xFFFFFFFF).to_bytes(4, "little") + content[8:]
    assert inspect(tmp_path / "a.wav", riff) == sound


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"])
def test_a_wav_file_from_a_pipe_is_whole_in_other_encodings(tmp_path: Path, subtype: str) -> None:
    content = wav(subtype=subtype)
    assert length(tmp_path / "a.wav", claim_wav_bytes(content, 0xFFFFFFFF)) == pytest.approx(1.0, abs=DELAY_S)


def test_chunks_after_the_samples_of_a_wav_file_are_no_audio(tmp_path: Path) -> None:
    more = b"LIST" + struct.pack("<I", 20_000) + bytes(20_000)
    assert inspect(tmp_path / "a.wav", wav() + more) == inspect(tmp_path / "b.wav", wav())
    odd = by_libsndfile(voice(0.5, RATE)[:10_001], RATE, "WAV", "PCM_U8").removesuffix(b"\0")
    for padding in (b"\0", b""):  # some writers forget it
        assert length(tmp_path / "a.wav", odd + padding + more) == 10_001 / RATE
    padded = wav() + bytes(32_768)  # a full cluster of a memory card
    assert inspect(tmp_path / "a.wav", padded) == inspect(tmp_path / "b.wav", wav())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (claim_wav_bytes(wav(), RATE), Fault("more-audio", f"{RATE} bytes follow the length in the header")),
        (claim_wav_bytes(wav(), 4 * RATE), Fault("truncated", "the file ends before the length in its header")),
        (claim_wav_bytes(wav(), 1 << 30), Fault("truncated", "the file ends before the length in its header")),
        (claim_flac_samples(flac(), 2 * RATE), Fault("truncated", "1.000 s of the 2.000 s in the header")),
        (claim_flac_samples(flac(), RATE + 50), Fault("truncated", "1.000 s of the 1.002 s in the header")),
    ],
)
def test_a_header_that_claims_half_or_double_is_refused_or_not_believed(
    tmp_path: Path, content: bytes, expected: Fault
) -> None:
    assert inspect(tmp_path / "a.wav", content) == expected


@pytest.mark.parametrize("num_samples", [0, 1, RATE // 2, RATE - 50])
def test_a_flac_file_whose_header_claims_less_or_nothing_is_read_to_its_end(tmp_path: Path, num_samples: int) -> None:
    content = claim_flac_samples(flac(), num_samples)
    assert length(tmp_path / "a.flac", content) == 1.0
    (found,) = inspect_header(tmp_path / "a.flac", [WHOLE])
    assert isinstance(found, Fault) or found.duration_s == 1.0


def test_an_mp3_file_without_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    assert length(tmp_path / "a.mp3", mp3(8, options=NO_XING)) == pytest.approx(8, abs=0.1)
    varying = mp3(2, 1, NO_XING, 160_000) + mp3(8, 2, NO_XING, 32_000)
    assert length(tmp_path / "a.mp3", varying) == pytest.approx(10, abs=0.2)


def test_an_mp3_file_is_as_long_as_its_header_says_if_that_is_true(tmp_path: Path) -> None:
    content = mp3(2)
    assert length(tmp_path / "a.mp3", content) == pytest.approx(2.0, abs=1e-3)
    place = max(content.find(b"Info"), content.find(b"Xing")) + 8
    for claim in (0x7FFFFFFF, 200):
        claimed = content[:place] + claim.to_bytes(4) + content[place + 4 :]
        found = inspect(tmp_path / "a.mp3", claimed)
        assert isinstance(found, Fault)
        assert (found.reason, found.detail[:5]) == ("truncated", "2.014")
    found = inspect(tmp_path / "a.mp3", content[: len(content) * 3 // 4])
    assert isinstance(found, Fault)
    assert found.reason in ("truncated", "unreadable")


def test_pieces_one_after_another_are_read_to_the_last_one(tmp_path: Path) -> None:
    two, six = voice(2, 48_000, seed=1), voice(6, 48_000, seed=2)
    tags = b"TAG" + bytes(125)
    for joined in (mp3(2, 1) + mp3(6, 2), mp3(2, 1) + tags + mp3(6, 2, NO_XING), mp3(2, 1) + mp3(6, 2) + bytes(500)):
        assert length(tmp_path / "a.mp3", joined) == pytest.approx(8, abs=0.2)
    for form, codec in (("ogg", "libopus"), ("adts", "aac"), ("mpegts", "aac")):
        joined = by_ffmpeg(two, 48_000, form, codec) + by_ffmpeg(six, 48_000, form, codec)
        assert length(tmp_path / "a.wav", joined) == pytest.approx(8, abs=0.2), form


@pytest.mark.parametrize("seconds", [1.0, 2.0])
@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("wav", "adpcm_ms"),
        ("flac", "flac"),
        ("mp4", "aac"),
        ("matroska", "aac"),
        ("webm", "libopus"),
        ("aiff", "pcm_s16be"),
        ("caf", "alac"),
        ("flv", "aac"),
        ("tta", "tta"),
    ],
)
def test_pieces_that_decoders_do_not_reach_are_refused(tmp_path: Path, form: str, codec: str, seconds: float) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    joined = b"".join(by_ffmpeg(voice(s, rate, seed=i), rate, form, codec) for i, s in enumerate((1.0, seconds)))
    found = inspect(tmp_path / "a.wav", joined)
    assert isinstance(found, Fault)
    assert found.reason == "more-audio"


def test_joined_flac_files_that_pass_as_one_by_their_header_are_refused_when_they_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    content = flac(1.0)
    path.write_bytes(content + content)
    assert isinstance(inspect_header(path, [WHOLE])[0], AudioFacts)
    with pytest.raises(recordings.UnreadableAudio, match="more-audio: several files one after another"):
        recordings.read(path, 0.0, 1.0)


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("ogg", "libopus"),
        ("mp4", "aac"),
        ("matroska", "aac"),
        ("caf", "alac"),
        ("caf", "pcm_s16le"),
        ("w64", "pcm_s16le"),
        ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("avi", "mp2"),
        ("mp3", "libmp3lame"),
        ("adts", "aac"),
        ("tta", "tta"),
    ],
)
@pytest.mark.parametrize("kept", [0.3, 0.51, 0.9])
def test_a_cut_file_is_no_shorter_recording(tmp_path: Path, form: str, codec: str, kept: float) -> None:
    content = by_ffmpeg(voice(3, 48_000), 48_000, form, codec, NO_XING if form == "mp3" else None)
    found = inspect(tmp_path / "a.wav", content[: int(kept * len(content))])
    assert isinstance(found, Fault)
    assert found.reason in ("truncated", "unreadable")


def test_an_ogg_file_that_ends_with_a_complete_page_is_cut_if_that_is_not_the_last_one(tmp_path: Path) -> None:
    content = by_ffmpeg(voice(3, 48_000), 48_000, "ogg", "libopus")
    found = inspect(tmp_path / "a.ogg", content[: content.rindex(b"OggS")])
    assert found == Fault("truncated", "the last Ogg page is missing")


def test_a_recording_of_two_hours_is_too_long_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes = 1_400_000_000
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 2, 48_000, 192_000, 4, 16) + b"data"
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", num_bytes + 36) + header + struct.pack("<I", num_bytes))
        file.truncate(44 + num_bytes)
    monkeypatch.delattr("soundfile.SoundFile.read")
    assert inspect_samples(path, [WHOLE]) == [Fault("too-long", "7291.7 s")]
    assert inspect_samples(path, [Segment(10.0, 3_600.0)]) == [Fault("too-long", "3600.0 s")]


def test_a_compressed_recording_that_is_too_long_is_decoded_to_the_limit_only(tmp_path: Path) -> None:
    content = by_ffmpeg(voice(64, 8_000), 8_000, "mp4", "aac")
    assert inspect(tmp_path / "a.wav", content) == Fault("too-long", "64.0 s or more")
    assert inspect(tmp_path / "a.wav", mp3(64, options=NO_XING)) == Fault("too-long", "60.0 s or more")


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [("mp3", "libmp3lame", rate) for rate in (8_000, 22_050, 44_100)]
    + [("mp2", "mp2", rate) for rate in (22_050, 44_100)],
)
@pytest.mark.parametrize("bit_rate", [32_000, 64_000, 160_000])
def test_an_mpeg_frame_is_complete_if_it_has_the_bytes_of_its_header(
    form: str, codec: str, rate: int, bit_rate: int
) -> None:
    content = by_ffmpeg(voice(1, rate), rate, form, codec, NO_XING if form == "mp3" else None, bit_rate)
    with av.open(io.BytesIO(content), "r") as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    assert len(packets) > 10
    for packet in packets:
        assert not whole_file.is_cut_mpeg_frame(packet)
        assert whole_file.is_cut_mpeg_frame(packet[:-1])


def test_segments_of_a_compressed_file_are_where_they_are_in_the_decoded_file(tmp_path: Path) -> None:
    samples = voice(8, 48_000)
    for form, codec, options in (
        ("mp3", "libmp3lame", {}),
        ("mp3", "libmp3lame", NO_XING),
        ("ogg", "libopus", {}),
        ("ogg", "flac", {}),
        ("wav", "adpcm_ms", {}),
        ("mp4", "alac", {}),
        ("mpegts", "mp2", {}),
    ):
        path = tmp_path / "a.bin"
        path.write_bytes(by_ffmpeg(samples, 48_000, form, codec, options))
        whole = recordings.read(path)
        for start_s in (6.5, 0.5, 4.0):
            segment = recordings.read(path, start_s, 1.0)
            start = round(start_s * 16_000)
            assert np.abs(segment - whole[start : start + 16_000])[100:-100].max() < 2e-3, (form, codec, start_s)
        with pytest.raises(recordings.UnreadableAudio, match=r"truncated: the file ends at 8\.\d\d s"):
            recordings.read(path, 7.5, 1.0)


@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_is_no_recording(tmp_path: Path) -> None:
    fault = Fault("unreadable", "found a pipe or a device, expected a regular file")
    os.mkfifo(tmp_path / "pipe.wav")
    os.mkfifo(tmp_path / "pipe.flac")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    for name in ("pipe.wav", "pipe.flac", "device.wav"):
        for inspect_file in (inspect_samples, inspect_header):
            assert inspect_file(tmp_path / name, [WHOLE]) == [fault]
