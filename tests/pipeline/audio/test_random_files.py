"""Random audio files, damaged at random: each is read as a whole, or refused with a reason."""

from collections import Counter
from pathlib import Path
from random import Random

import av
import pytest
from hypothesis import given
from hypothesis.strategies import randoms

from pipeline.ingest.inspection import Segment, inspect_samples
from pipeline.tables.quarantine import Fault
from tests.audio_files import FFMPEG_FORMATS, SNDFILE_FORMATS, by_ffmpeg, by_libsndfile, decoded_s, voice

pytestmark = pytest.mark.fuzz

DELAY_S = 0.05  # a codec's delay: 1,105 samples of MP3 at 22 kHz
PADDING_S = 0.3  # a codec's delay before the samples, and an incomplete frame after them, at 8 kHz
SIZES = (0, 0xFFFFFFFF, 0x7FFFF000, 0x00F0FF7F, 0x00000080)  # 4 bytes, big-endian


class Draw:
    """A random file: its content, what was done to it, and the seconds of audio that were put into it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rate, self.channels = random.choice((8_000, 16_000, 22_050, 44_100, 48_000)), random.choice((1, 1, 2))
        self.form: tuple[str, str] = random.choice((random.choice(FFMPEG_FORMATS)[:2], random.choice(SNDFILE_FORMATS)))
        self.options = random.choice([known[2] for known in FFMPEG_FORMATS if known[:2] == self.form] or [{}])
        self.duration_s = random.choice((0.4, 1.0, 2.3))
        self.content = self.encode(self.duration_s)
        self.damage = random.choice(("none", "cut", "joined", "field", "bytes"))
        if self.damage == "joined":
            more_s = random.choice((0.4, self.duration_s, 2.0))
            self.content += self.encode(more_s)
            self.duration_s += more_s
        elif self.damage == "cut":
            self.content = self.content[: random.randrange(1, len(self.content))]
        elif self.damage == "field":
            self.overwrite(random.randrange(random.choice((64, 256, 2_000))), random.choice(SIZES).to_bytes(4))
        elif self.damage == "bytes":
            for _ in range(random.randrange(1, 20)):
                self.overwrite(random.randrange(len(self.content)), random.randbytes(1))

    def encode(self, duration_s: float) -> bytes:
        samples = voice(duration_s, self.rate, self.channels, self.random.randrange(1_000_000))
        if self.form in SNDFILE_FORMATS:
            return by_libsndfile(samples, self.rate, *self.form)
        form, codec = self.form
        return by_ffmpeg(samples, self.rate, form, codec, self.options)

    def overwrite(self, place: int, content: bytes) -> None:
        place = min(place, len(self.content) - len(content))
        self.content = self.content[:place] + content + self.content[place + len(content) :]

    def __str__(self) -> str:
        return f"{self.damage}: {self.form} {self.options}, {self.rate} Hz, {self.channels} channels"


def draw(random: Random) -> Draw:
    while True:
        try:
            return Draw(random)
        except (av.FFmpegError, RuntimeError):  # the codec does not have this rate
            continue


def test_a_random_file_has_the_length_that_ffmpeg_decodes_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"  # whatever it is
    outcomes: Counter[str] = Counter()

    @given(random=randoms(use_true_random=False))
    def read(random: Random) -> None:
        drawn = draw(random)
        path.write_bytes(drawn.content)
        (found,) = inspect_samples(path, [Segment(0.0, None)])
        outcomes[type(found).__name__] += 1
        if isinstance(found, Fault):
            assert found.detail.isprintable(), str(drawn)
            assert drawn.damage != "none", f"{drawn}: {found}"
            return
        expected_s = decoded_s(path) or drawn.duration_s  # some headers only libsndfile understands
        assert found.duration_s == pytest.approx(expected_s, abs=DELAY_S), str(drawn)
        if drawn.damage in ("none", "joined"):
            pieces = 2 if drawn.damage == "joined" else 1
            assert found.duration_s == pytest.approx(drawn.duration_s, abs=pieces * PADDING_S), str(drawn)

    read()
    assert outcomes["Fault"]
    assert outcomes["Fault"] < 3 * outcomes.total() // 4  # some files are read
