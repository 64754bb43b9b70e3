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
from av.stream import Discard
from numpy.typing import NDArray

from pipeline.audio import whole_file
from pipeline.audio.mono_16k import PCM16_STEPS
from pipeline.audio.unreadable import ROUNDED_S, UnreadableAudio

_RUN_UP_S = 1.0  # a decoder needs some audio before the first right sample: MP3 10 frames, Opus 80 ms

# formats that consist of a header and samples, if the codec is PCM; the header declares the length
_PLAIN = {"wav", "w64", "aiff", "caf", "au", "nistsphere"}
# other formats whose header declares the length; FFmpeg estimates it by the bit rate or the last packet in the rest
_DECLARING = {"mov", "matroska", "asf", "avi", "flac", "caf", "ogg"}
# how much longer than its samples a stream may be by its header
_ROUNDED_UP_S = 0.002
_DELAY_S = 0.22  # the longest delay of an encoder is 5,186 samples, of HE-AAC at 24 kHz
_AVI_SHARE = 0.02  # FFmpeg itself writes AVI files whose header declares 1.2 % too much

# formats in which FFmpeg knows the time of a packet after a jump; in Ogg FLAC and in ADPCM it is up to 0.6 s off
_SEEKABLE = {"mp3", "mov", "matroska", "aac", "flac"}
_SEEKABLE_IN_OGG = {"opus", "libopus", "vorbis"}

_MOST_PLANES = 7  # that PyAV counts right: it reads the pointers up to a zero, and there are eight

_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


class FfmpegRecording:
    """The best audio stream of a file; `dtype` is int16 if its samples have 16 bits, otherwise float32.

    Raises UnreadableAudio if the file has no audio that FFmpeg can decode.
    """

    def __init__(self, path: Path, *, length_is_checked: bool) -> None:
        """Open a file; if the caller has checked the length in its header, it is not checked again."""
        self.path = path
        self.length_is_checked = length_is_checked
        self._open()
        context = self.stream.codec_context
        self.samplerate: int = context.sample_rate
        self.channels: int = context.channels
        self.dtype = "int16" if context.format is not None and context.format.name in ("s16", "s16p") else "float32"
        # the last page of an Ogg file says at which sample it ends
        self.length_s = self._declared_s() if self.format == "ogg" else None

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
        self.is_at_start = True
        self.num_bytes = 0  # of all packets so far
        self.last_packet: av.Packet[av.AudioStream] | None = None

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def read(self, start_s: float, duration_s: float | None, longest_s: float, dtype: str) -> NDArray[Any]:
        """Decode a segment as (frames, channels); a duration of None means up to the end.

        Raises UnreadableAudio if the file ends before the segment, or if the segment is longer than `longest_s`.
        """
        planes: list[list[NDArray[Any]]] = []  # of each channel, or one with all channels in turn
        frames, position_s = self._frames_from(start_s)
        skip = decoded = dropped = 0  # samples of each channel from `position_s` on
        enough = math.inf
        for frame in frames:
            if not decoded:
                self.samplerate, self.channels = frame.sample_rate, frame.layout.nb_channels
                skip = round((start_s - position_s) * self.samplerate)
                enough = skip + (longest_s if duration_s is None else duration_s) * self.samplerate
            decoded += frame.samples
            if decoded > skip:
                _append(planes, frame, self.dtype)
            else:
                dropped = decoded
            if decoded > enough + 1:
                break
        else:
            length_s = position_s + decoded / self.samplerate
            if duration_s is None:
                self._check_whole(length_s)
            elif length_s < start_s + duration_s - ROUNDED_S:
                raise UnreadableAudio("truncated", f"the file ends at {length_s:.2f} s")
        if duration_s is None and decoded > enough + 1:
            raise UnreadableAudio("too-long", f"{max((self._declared_s() or 0.0) - start_s, longest_s):.1f} s or more")
        if decoded <= skip:
            raise UnreadableAudio("truncated", "no samples")
        channels = [np.concatenate(plane) for plane in planes]
        samples = np.stack(channels, axis=1) if len(channels) > 1 else channels[0].reshape(-1, self.channels)
        samples = samples[skip - dropped :]
        samples = samples if duration_s is None else samples[: round(duration_s * self.samplerate)]
        return samples if dtype == self.dtype else samples.astype(np.float32) / np.float32(PCM16_STEPS)

    def _frames_from(self, start_s: float) -> tuple[Iterator[av.AudioFrame], float]:
        """Return the frames from shortly before `start_s` on, or all frames; and the time of the first one."""
        if start_s > 2 * _RUN_UP_S and self._seeks_exactly():
            self.is_at_start = False
            try:
                self.container.seek(round((start_s - _RUN_UP_S + self._origin_s()) * av.time_base))
                frames = self._frames()
                first = next(frames, None)
            except (av.FFmpegError, UnreadableAudio, OverflowError):  # such as a time that the file does not have
                first = None
            if first is not None and first.pts is not None and first.time_base is not None:
                position_s = float(first.pts * first.time_base) - self._origin_s()
                if 0 < position_s <= start_s:
                    return chain([first], frames), position_s
        if not self.is_at_start:
            self.close()
            self._open()
        self.is_at_start = False
        return self._frames(), 0.0

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Yield frames of one sample format; raises UnreadableAudio if the audio is damaged, or changes its rate."""
        resampler = av.AudioResampler("s16" if self.dtype == "int16" else "flt")
        first, is_resampled = None, False
        with _errors():
            for packet in self.container.demux(self.stream):
                # the last packet is never complete if a header may say that the samples reach to the end of the file
                if packet.is_corrupt and not (self.length_is_checked or self.format == "caf"):
                    raise UnreadableAudio("truncated", "a packet is not complete")
                if packet.size:
                    self.last_packet = packet
                    self.num_bytes += packet.size
                for frame in self._decode(packet):
                    kind = (frame.sample_rate, frame.layout.name, frame.format.name)
                    first = first or kind
                    if kind != first:
                        raise UnreadableAudio("unreadable", f"begins with {first} and goes on with {kind}")
                    is_resampled = not _is_direct(frame, self.dtype)
                    if is_resampled:
                        yield from resampler.resample(frame)
                    else:
                        yield frame
            if is_resampled:
                yield from resampler.resample(None)

    def _decode(self, packet: "av.Packet[av.AudioStream]") -> Sequence[av.AudioFrame]:
        """Decode a packet; in MP3 and AAC a packet may be a tag, such as that of a joined file, or zeros."""
        try:
            return packet.decode()
        except av.InvalidDataError:
            content = bytes(packet).strip(b"\0")
            if self.format in ("mp3", "aac") and (not content or content.startswith(_TAGS)):
                return []
            raise

    def _check_whole(self, length_s: float) -> None:
        """Raise UnreadableAudio if a file that was decoded to its end is cut, or holds more than was decoded."""
        declared_s = self._declared_s() or 0.0
        if length_s < declared_s - self._tolerance_s(declared_s):
            raise UnreadableAudio("truncated", f"{length_s:.3f} s of the {declared_s:.3f} s in the header")
        last = self.last_packet
        if last is None:
            return
        if self.stream.codec_context.name.startswith(("mp2", "mp3")) and whole_file.is_cut_mpeg_frame(bytes(last)):
            raise UnreadableAudio("truncated", "the last frame is not complete")
        if self.format == "ogg":
            if not whole_file.has_last_page(self.path):
                raise UnreadableAudio("truncated", "the last Ogg page is missing")
        elif whole_file.has_second_file(self.path, self.format):
            raise UnreadableAudio("more-audio", "several files one after another")
        if self._is_plain() and not self.length_is_checked and last.pos is not None:
            rest = self.container.size - last.pos - last.size
            if rest * length_s > whole_file.LONGEST_REST_S * self.num_bytes:
                raise UnreadableAudio("more-audio", f"{rest} bytes follow the length in the header")

    def _declared_s(self) -> float | None:
        """Return the length in the header; None if the header contains none, or if it was checked before."""
        if self.length_is_checked or not self._declares_length():
            return None
        stream = self.stream
        # FFmpeg shortens the durations of AVI and CAF to the size of the file
        units = (
            stream.frames if self.format == "avi" or (self.format == "caf" and self._is_plain()) else stream.duration
        )
        if units is not None and stream.time_base is not None:
            return float(units * stream.time_base)
        # Matroska declares the time of the end
        if written := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
            hours, minutes, seconds = map(float, written.groups())
            return 3600 * hours + 60 * minutes + seconds - self._origin_s()
        if self.container.duration is not None and len(self.container.streams) == 1:
            return self.container.duration / av.time_base - self._origin_s()
        return None

    def _declares_length(self) -> bool:
        if self.format == "mp3":
            return whole_file.has_mp3_length(self.path)
        return self.format in _DECLARING or self._is_plain()

    def _tolerance_s(self, declared_s: float) -> float:
        if self.format == "flac" or self._is_plain():
            return _ROUNDED_UP_S
        return _DELAY_S + (_AVI_SHARE * declared_s if self.format == "avi" else 0.0)

    def _origin_s(self) -> float:
        """Return the time of the first sample."""
        return float((self.stream.start_time or 0) * (self.stream.time_base or 0))

    def _seeks_exactly(self) -> bool:
        in_ogg = self.format == "ogg" and self.stream.codec_context.name in _SEEKABLE_IN_OGG
        if not (self.format in _SEEKABLE or in_ogg or self._is_plain()):
            return False
        return not whole_file.has_second_file(self.path, self.format)  # its times begin at zero again

    def _is_plain(self) -> bool:
        return self.format in _PLAIN and self.stream.codec_context.name.startswith("pcm_")


def _is_direct(frame: av.AudioFrame, dtype: str) -> bool:
    """Whether the samples of a frame can be copied; PyAV reads beyond the last plane if there are more than seven."""
    wanted = ("s16",) if dtype == "int16" else ("flt", "fltp")
    return frame.format.name in wanted and (frame.format.is_packed or frame.layout.nb_channels <= _MOST_PLANES)


def _append(planes: list[list[NDArray[Any]]], frame: av.AudioFrame, dtype: str) -> None:
    """Append the samples of a frame to its planes; this is twice as fast as PyAV's to_ndarray or its AudioFifo."""
    if not planes:
        planes.extend([] for _ in frame.planes)
    count = frame.samples if frame.format.is_planar else frame.samples * frame.layout.nb_channels
    for plane, blocks in zip(frame.planes, planes, strict=True):
        blocks.append(np.frombuffer(bytes(plane), dtype, count))


@contextmanager
def _errors() -> Iterator[None]:
    """Turn FFmpeg's errors into UnreadableAudio."""
    try:
        yield
    except av.FFmpegError as error:
        raise UnreadableAudio("unreadable", (error.strerror or "not decodable").lower()) from None
