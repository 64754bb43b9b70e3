"""Decode all formats of FFmpeg, by PyAV. The length of a stream is found by decoding it to its end."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.fifo import AudioFifo
from av.stream import Discard
from numpy.typing import NDArray

from pipeline.audio import whole_file
from pipeline.audio.mono_16k import PCM16_STEPS
from pipeline.audio.unreadable import ROUNDED_S, UnreadableAudio

_RUN_UP_S = 1.0  # a decoder needs some audio before the first right sample: MP3 10 frames, Opus 80 ms
_DELAY_S = 0.22  # the longest delay of an encoder, which some headers count: 5,186 samples of HE-AAC at 24 kHz
_TRAILING_S = 0.1  # bytes after the samples may last this long if they were samples

# formats whose header declares the length; FFmpeg estimates that of others by the bit rate or the last packet
_DECLARING = {"mov", "matroska", "asf", "flac", "caf", "ogg"}
# formats in which FFmpeg knows the time of each packet after a jump; in Ogg FLAC or ADPCM it is up to 0.6 s off
_SEEKABLE = {"mp3", "mov", "matroska", "aac", "flac"}
_PLAIN = {"wav", "w64", "aiff", "caf", "au", "nistsphere"}  # a header and samples; declares the length if these are PCM


_TAGS = (b"ID3", b"TAG", b"APETAGEX")


class FfmpegRecording:
    """The best audio stream of a file; `dtype` is int16 if its samples have 16 bits, otherwise float32.

    Raises UnreadableAudio if the file has no audio.
    """

    def __init__(self, path: Path, *, length_is_checked: bool) -> None:
        """Open a file; if the caller has checked the length in its header, it is not checked again."""
        self.path = path
        self.length_is_checked = length_is_checked
        self._open()
        context = self.stream.codec_context
        self.samplerate: int = context.sample_rate
        self.channels: int = context.channels
        self.length_s = self._declared_s() if self.format == "ogg" else None  # by the last page
        self.dtype = "int16" if context.format is not None and context.format.name in ("s16", "s16p") else "float32"

    def _open(self) -> None:
        with _errors():
            # "file:" is for names with a colon; without the option, a playlist could name other protocols
            self.container = av.open(
                f"file:{self.path}", options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        stream = self.container.streams.best("audio")
        if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
            self.close()
            raise UnreadableAudio("unreadable", "no audio stream" if stream is None else "no decoder for its audio")
        for other in self.container.streams:
            if other is not stream:
                other.discard = Discard.all
        self.stream = stream
        self.format = self.container.format.name.split(",")[0]
        self.is_new = True
        self.end = self.num_bytes = 0  # position after the last packet, and bytes of all packets

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def read(self, start_s: float, duration_s: float | None, longest_s: float, dtype: str) -> NDArray[Any]:
        """Decode a segment as (frames, channels); a duration of None means up to the end.

        Raises UnreadableAudio if the file ends before the segment, or if the segment is longer than `longest_s`.
        """
        fifo = AudioFifo()
        frames, position_s = self._frames_from(start_s)
        skip = decoded = dropped = 0
        enough = longest = math.inf
        for frame in frames:
            if not decoded:
                self.samplerate, self.channels = frame.sample_rate, frame.layout.nb_channels
                skip = round((start_s - position_s) * self.samplerate)
                longest = longest_s * self.samplerate
                enough = skip + (longest if duration_s is None else round(duration_s * self.samplerate))
            decoded += frame.samples
            if decoded > skip:
                frame.pts = None  # the queue expects no gap
                fifo.write(frame)
            else:
                dropped = decoded
            if decoded > enough:
                break
        else:
            self._check_end(position_s + decoded / self.samplerate, start_s, duration_s)
        if duration_s is None and decoded - skip > longest:
            raise UnreadableAudio("too-long", f"{max((self._declared_s() or 0.0) - start_s, longest_s):.1f} s or more")
        if decoded <= skip:
            raise UnreadableAudio("truncated", "no samples")
        kept = fifo.read(0, partial=True)
        assert kept is not None
        samples = kept.to_ndarray()
        samples = samples.T if self.dtype == "float32" else samples.reshape(-1, self.channels)
        samples = samples[skip - dropped :][: None if duration_s is None else round(duration_s * self.samplerate)]
        return samples if dtype == self.dtype else samples.astype(np.float32) / np.float32(PCM16_STEPS)

    def _frames_from(self, start_s: float) -> tuple[Iterator[av.AudioFrame], float]:
        """Return the frames from `start_s` or some time before on, and the time of the first one."""
        if start_s > 2 * _RUN_UP_S and self._seeks_exactly():
            self.is_new = False
            origin_s = float((self.stream.start_time or 0) * (self.stream.time_base or 0))
            try:
                self.container.seek(round((start_s - _RUN_UP_S + origin_s) * av.time_base))
            except av.FFmpegError:  # no seeking in this format
                pass
            else:
                frames = self._frames()
                first = next(frames, None)
                if first is not None and first.pts is not None and first.time_base is not None:
                    position_s = float(first.pts * first.time_base) - origin_s
                    if 0 < position_s <= start_s:
                        return chain([first], frames), position_s
        if not self.is_new:
            self.close()
            self._open()
        self.is_new = False
        return self._frames(), 0.0

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Yield frames of one sample format; raises UnreadableAudio if the audio is damaged, or changes its rate."""
        resampler = av.AudioResampler(format="s16" if self.dtype == "int16" else "fltp")
        kind = None
        with _errors():
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt and not (self.length_is_checked or self._is_plain()):
                    raise UnreadableAudio("truncated", "a packet is not complete")
                if packet.pos is not None:
                    self.end = max(self.end, packet.pos + packet.size)
                self.num_bytes += packet.size
                for frame in self._decode(packet):
                    found = f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels, {frame.format.name}"
                    kind = kind or found
                    if kind != found:
                        raise UnreadableAudio("unreadable", f"begins as {kind} and goes on as {found}")
                    yield from resampler.resample(frame)
            yield from resampler.resample(None)

    def _decode(self, packet: "av.Packet[av.AudioStream]") -> Sequence[av.AudioFrame]:
        """Decode a packet; one of MP3 or AAC without audio, such as the tag of a joined file, has no frame."""
        try:
            return packet.decode()
        except av.InvalidDataError:
            content = bytes(packet).strip(b"\0")
            if self.format in ("mp3", "aac") and (not content or content.startswith(_TAGS)):
                return []
            raise

    def _check_end(self, length_s: float, start_s: float, duration_s: float | None) -> None:
        """Raise UnreadableAudio if the file, decoded up to its end, is cut or holds more than was decoded."""
        if duration_s is not None:
            if length_s < start_s + duration_s - ROUNDED_S:
                raise UnreadableAudio("truncated", f"the file ends at {length_s:.2f} s")
            return
        declared_s = self._declared_s() or 0.0
        delay_s = 0.002 if self.format == "flac" or self._is_plain() else _DELAY_S
        if length_s < declared_s - delay_s:
            raise UnreadableAudio("truncated", f"{length_s:.3f} s of the {declared_s:.3f} s in the header")
        if self.format == "ogg" and not whole_file.ends_ogg(self.path):
            raise UnreadableAudio("truncated", "the last Ogg page is missing")
        if self.format != "ogg" and whole_file.has_second_file(self.path, self.format):
            raise UnreadableAudio("more-audio", "several files one after another")
        rest = self.container.size - self.end
        if self._is_plain() and not self.length_is_checked and rest * length_s > self.num_bytes * _TRAILING_S:
            raise UnreadableAudio("more-audio", f"{rest} bytes follow the length in the header")

    def _declared_s(self) -> float | None:
        """Return the length in the header; None if the header contains none, or if it was checked before."""
        stream = self.stream
        if self.length_is_checked or not (self.format in _DECLARING or self._is_plain() or self._has_mp3_length()):
            return None
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if written := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):  # Matroska
            hours, minutes, seconds = map(float, written.groups())
            return 3600 * hours + 60 * minutes + seconds
        duration = self.container.duration  # the longest stream's
        return duration / av.time_base if duration is not None and len(self.container.streams) == 1 else None

    def _seeks_exactly(self) -> bool:
        in_ogg = self.format == "ogg" and self.stream.codec_context.name in ("opus", "libopus", "vorbis")
        if not (self.format in _SEEKABLE or self._is_plain() or in_ogg):
            return False
        return not whole_file.has_second_file(self.path, self.format)  # in which times would begin again

    def _is_plain(self) -> bool:
        return self.format in _PLAIN and self.stream.codec_context.name.startswith("pcm_")

    def _has_mp3_length(self) -> bool:
        return self.format == "mp3" and whole_file.has_mp3_length(self.path)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn FFmpeg's errors into UnreadableAudio."""
    try:
        yield
    except av.FFmpegError as error:
        raise UnreadableAudio("unreadable", (error.strerror or "not decodable").lower()) from None
