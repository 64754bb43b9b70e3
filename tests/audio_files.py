"""Audio files of many formats, made in memory, and their length as FFmpeg decodes it."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from av.audio.fifo import AudioFifo
from numpy.typing import NDArray

from pipeline.audio.mono_16k import Samples

# containers and codecs that PyAV writes, with the options of the container
FFMPEG_FORMATS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("mp3", "libmp3lame", {}),
    ("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}),
    ("mp4", "aac", {}),
    ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ("ipod", "alac", {}),
    ("mov", "pcm_s16le", {}),
    ("matroska", "aac", {}),
    ("matroska", "pcm_s16le", {}),
    ("webm", "libopus", {}),
    ("webm", "libopus", {"live": "1"}),
    ("mpegts", "aac", {}),
    ("mpegts", "mp2", {}),
    ("adts", "aac", {}),
    ("ogg", "libopus", {}),
    ("ogg", "flac", {}),
    ("flac", "flac", {}),
    ("wav", "pcm_s24le", {}),
    ("wav", "adpcm_ms", {}),
    ("wav", "adpcm_ima_wav", {}),
    ("avi", "mp2", {}),
    ("aiff", "pcm_s16be", {}),
    ("caf", "alac", {}),
    ("au", "pcm_s16be", {}),
    ("w64", "pcm_s16le", {}),
    ("wv", "wavpack", {}),
    ("tta", "tta", {}),
    ("flv", "aac", {}),
    ("nut", "aac", {}),
)
# formats and subtypes that libsndfile writes
SNDFILE_FORMATS = tuple(
    (form, subtype)
    for form in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST", "VOC")
    for subtype in soundfile.available_subtypes(form)
    # without those that libsndfile cannot write, or FFmpeg cannot read; AIFF's GSM may end in the middle of a packet
    if (form, subtype) != ("AIFF", "GSM610")
    if not subtype.startswith(("MPEG_LAYER_I", "NMS_ADPCM", "DWVW", "ALAC_20"))
    or (form, subtype) == ("MP3", "MPEG_LAYER_III")
)


def voice(duration_s: float, rate: int, channels: int = 1, seed: int = 0) -> Samples:
    """Make up samples of (frames, channels): noise with more low than high frequencies, as in speech."""
    shape = (round(duration_s * rate), channels)
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = np.apply_along_axis(np.convolve, 0, noise, np.ones(8) / 8, "same")
    samples: Samples = (0.1 * smooth / smooth.std()).clip(-0.9, 0.9).astype(np.float32)
    return samples


def by_ffmpeg(
    samples: Samples, rate: int, form: str, codec: str, options: dict[str, str] | None = None, bit_rate: int = 64_000
) -> bytes:
    """Encode samples of (frames, channels) by PyAV; raises av.FFmpegError if the codec does not have the rate."""
    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=form, options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", layout)
        frame.sample_rate = rate
        fifo = AudioFifo()
        for resampled in av.AudioResampler(stream.codec_context.format, layout, rate).resample(frame):
            resampled.pts = None
            fifo.write(resampled)
        position = 0
        while (piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            piece.pts, piece.time_base = position, Fraction(1, rate)
            position += piece.samples
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


def by_libsndfile(samples: NDArray[np.float32], rate: int, form: str, subtype: str) -> bytes:
    """Encode samples of (frames, channels) by soundfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def decoded_s(path: Path) -> float | None:
    """Return the seconds that FFmpeg decodes, without the packets that it cannot decode; None if it cannot open a file.

    This is what FFmpeg's command line does, and no code of the pipeline is used.
    """
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError:
        return None
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            return None
        seconds = 0.0
        for packet in container.demux(stream):
            try:
                seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
            except av.FFmpegError:
                continue
        return seconds


def claim_wav_bytes(content: bytes, num_bytes: int) -> bytes:
    """Overwrite the size of the samples in a WAV file."""
    place = content.index(b"data") + 4
    return content[:place] + num_bytes.to_bytes(4, "little") + content[place + 4 :]


def claim_flac_samples(content: bytes, num_samples: int) -> bytes:
    """Overwrite the number of samples in a FLAC file; zero means that it is unknown."""
    packed = int.from_bytes(content[18:26])
    return content[:18] + (packed >> 36 << 36 | num_samples).to_bytes(8) + content[26:]
