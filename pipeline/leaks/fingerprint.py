"""Acoustic fingerprints: find copies of a recording with another codec, level, sample rate, trim or quiet noise.

A fingerprint has a word of 32 bits for each 16 ms. The range from 300 to 3,000 Hz has 33 bands. Each bit compares two
neighbouring bands: it is 1 if the difference of their energies is larger now than it was 64 ms earlier (Haitsma and
Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002). If two clips have a word in common, they are aligned
there and compared bit by bit.

Share of differing bits at the best alignment, measured on 100 clips of RAVDESS and 84 of LibriSpeech:

    copy                      median  largest  found  |  other recording             pairs  smallest  median
    a quarter of the level     0.00     0.00    all   |  RAVDESS, same actor and
    both ends trimmed          0.03     0.06    all   |    same sentence            15,659    0.26     0.45
    noise at 20 dB             0.06     0.17    all   |  RAVDESS, another actor,
    noise at 10 dB             0.14     0.30    84 %  |    same sentence            15,459    0.33     0.45
    MP3, 24 kbit/s             0.08     0.11    all   |  LibriSpeech                 3,486    0.37     0.46
    MP3 of 8 kHz, 17 kbit/s    0.09     0.14    all   |
    Opus, 22 kbit/s            0.05     0.12    all   |
    Opus, 16 kbit/s            0.08     0.21    99 %  |
    Opus, 7 kbit/s             0.22     0.37    17 %  |

If the clips are cut to 1 s, at least 97 % of the copies of each kind are found, except noise at 10 dB and Opus at
7 kbit/s. If they are cut to 0.7 s, it is at least 64 %. Among all pairs of 2,474 clips, some of them synthetic, the
only match was the recording that RAVDESS has twice. A copy at another speed or pitch counts as another recording.

69,254 clips of 78 h on one core: fingerprints are computed 1,200 times faster than real time. An index of a fifth of
the clips takes 0.5 s, and looking up one of the other clips takes 1.1 ms. All of them together need 0.5 GB of memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ, Samples

FRAME = 4_096  # samples: 256 ms, long enough to resolve the harmonics of a voice
HOP = 256  # samples: 16 ms, so that few bits differ if a copy starts between two frames
LAG = 4  # frames between the energies that are compared
EDGES = np.round(np.geomspace(300, 3_000, num=34) * FRAME / SAMPLE_RATE_HZ).astype(int)  # of the bands, in FFT bins

QUIET = 10**-3.5  # -35 dB of the loudest frame; bits of quieter frames are noise
FLIPS = 4  # number of least certain bits in a word; one of them at a time may differ in a look-up
COMMON = 1_000  # frames; a word that is in more frames than this is not looked up

# maps a minimum number of overlapping sounding frames to the largest allowed share of differing bits; with fewer frames
# than the smallest key there is no match
LIMITS = {96: 0.20, 32: 0.15, 16: 0.10}
MIN_FRAMES = min(LIMITS)
OVERLAP = 0.5  # least overlap, as a share of the sounding frames of the clip that has fewer

_BLOCK = 8  # frames; larger arrays, above 128 kB, come from the system each time, which costs three times as much
_SPAN = 2**32  # more than the number of alignments of two clips

Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The fingerprint of a clip; all arrays have one row per frame."""

    words: Words
    flips: Words
    """The FLIPS least certain bits of each word, as masks."""
    sounding: NDArray[np.bool_]
    """Whether the frame is louder than QUIET."""


@dataclass(frozen=True, slots=True)
class Match:
    """A clip of the index that contains the same recording."""

    clip: int
    """Position in the index."""
    errors: float
    """Share of differing bits."""
    frames: int
    """Number of sounding frames that were compared."""


def take(samples: Samples) -> Fingerprint:
    """Return the fingerprint of a clip at 16 kHz; a clip shorter than 0.32 s has no frame."""
    energies = _energies(samples)
    steps = energies[:, :-1] - energies[:, 1:]
    changes = steps[LAG:] - steps[:-LAG]
    words = np.packbits(changes > 0, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)
    weakest = np.argpartition(np.abs(changes), FLIPS, axis=1)[:, :FLIPS]
    loudness = energies[LAG:].sum(axis=1)
    return Fingerprint(words, np.uint32(1) << weakest.astype(np.uint32), loudness > QUIET * loudness.max(initial=0))


def _energies(samples: Samples) -> NDArray[np.float32]:
    """Return the energy of each frame in each band."""
    if len(samples) < FRAME:
        return np.zeros((0, len(EDGES) - 1), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    blocks = []
    for i in range(0, len(frames), _BLOCK):
        spectra = np.fft.rfft(frames[i : i + _BLOCK] * window)[:, : EDGES[-1]]
        blocks.append(np.add.reduceat(spectra.real**2 + spectra.imag**2, EDGES[:-1], axis=1))
    return np.concatenate(blocks)


class Index:
    """A searchable index of fingerprints: their words, sorted, each with its clip and frame. A word takes 12 bytes."""

    def __init__(self, fingerprints: Sequence[Fingerprint]) -> None:
        self._fingerprints = fingerprints
        frames = [np.flatnonzero(fingerprint.sounding).astype(np.int32) for fingerprint in fingerprints]
        words = [fingerprint.words[sounding] for fingerprint, sounding in zip(fingerprints, frames, strict=True)]
        clips = np.repeat(np.arange(len(frames), dtype=np.int32), [len(sounding) for sounding in frames])
        all_words = np.concatenate([np.zeros(0, np.uint32), *words])
        order = np.argsort(all_words, kind="stable")
        self._words, self._clips = all_words[order], clips[order]
        self._frames = np.concatenate([np.zeros(0, np.int32), *frames])[order]

    def find(self, fingerprint: Fingerprint) -> list[Match]:
        """Return the clips that contain the same recording, in the order of the index."""
        best: dict[int, Match] = {}
        for clip, offset in self._candidates(fingerprint):
            match = _compare(fingerprint, self._fingerprints[clip], clip, offset)
            if match and (clip not in best or match.errors < best[clip].errors):
                best[clip] = match
        return list(best.values())

    def _candidates(self, fingerprint: Fingerprint) -> Iterator[tuple[int, int]]:
        """Yield the clips and alignments at which a word is equal, or differs only in one uncertain bit."""
        frames = np.flatnonzero(fingerprint.sounding)
        words = fingerprint.words[frames, np.newaxis]
        probes = np.concatenate([words, words ^ fingerprint.flips[frames]], axis=1)
        first, last = (np.searchsorted(self._words, probes.ravel(), side) for side in ("left", "right"))
        counts = np.where(last - first > COMMON, 0, last - first)
        hits = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        offsets = np.repeat(np.repeat(frames, 1 + FLIPS), counts) - self._frames[hits]
        for key in np.unique(self._clips[hits].astype(np.int64) * _SPAN + offsets + _SPAN // 2).tolist():
            clip, shifted = divmod(key, _SPAN)
            yield clip, shifted - _SPAN // 2


def _compare(a: Fingerprint, b: Fingerprint, clip: int, offset: int) -> Match | None:
    """Compare two clips, frame n + `offset` of `a` with frame n of `b`; None if they do not match."""
    start, end = max(offset, 0), min(len(a.words), offset + len(b.words))
    here, there = slice(start, end), slice(start - offset, end - offset)
    both = a.sounding[here] & b.sounding[there]
    frames = int(both.sum())
    if frames < max(MIN_FRAMES, OVERLAP * min(a.sounding.sum(), b.sounding.sum())):
        return None
    errors = float(np.bitwise_count((a.words[here] ^ b.words[there])[both]).sum()) / (32 * frames)
    limit = next(limit for at_least, limit in LIMITS.items() if frames >= at_least)
    return Match(clip, errors, frames) if errors <= limit else None
