"""Speech synthesis with espeak-ng, from the shared library in the PyPI package espeakng-loader.

The library keeps its state in globals that outlive a restart, such as the flutter of the pitch. So each synthesiser
loads its own copy of the library. Then equal calls in equal order give equal samples.
"""

import ctypes
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.stage import UserError

# constants of espeak-ng's speak_lib.h
_SYNCHRONOUS = 2  # the callback gets the samples, and espeak_Synth returns after the last ones
_DONT_EXIT = 0x8000
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_FULL_VOLUME = 100

_NOISE_SEED = 1  # for the noise of breathy voices; otherwise the library takes the time of day

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How an utterance is said, in espeak-ng's own units."""

    name: str
    """Language and voice variant, such as en-us+f2."""
    rate_wpm: int
    """Words a minute, 80 to 450; 175 is usual."""
    pitch: int
    """0 to 100; 50 is the variant's own pitch."""
    pitch_range: int
    """0 (monotone) to 100; 50 is the variant's own range."""


class Synthesiser:
    """The started library; made by `synthesiser`."""

    def __init__(self, library: ctypes.CDLL, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._library = library
        self._chunks: list[NDArray[np.int16]] = []
        self._callback = _Callback(self._receive)
        library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: Voice) -> NDArray[np.float32]:
        """Return the samples of `text`; full scale is 1."""
        status = self._library.espeak_SetVoiceByName(voice.name.encode())
        assert status == 0, f"espeak-ng has no language of voice {voice.name}"
        settings = {_RATE: voice.rate_wpm, _VOLUME: _FULL_VOLUME, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_NOISE_SEED))
        self._chunks.clear()
        data = text.encode()
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        assert status == 0, f"espeak_Synth returned {status}"
        return np.concatenate(self._chunks).astype(np.float32) / np.float32(32_768)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # continue


@contextmanager
def synthesiser() -> Iterator[Synthesiser]:
    """Start espeak-ng and stop it at the end."""
    import espeakng_loader

    data_folder = espeakng_loader.get_data_path()
    with tempfile.TemporaryDirectory() as folder:
        # the system loads a file only once, but it loads a copy again
        copy = shutil.copy(espeakng_loader.get_library_path(), Path(folder) / "espeak-ng.so")
        library = ctypes.CDLL(str(copy))
    sample_rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, data_folder.encode(), _DONT_EXIT)
    if sample_rate_hz <= 0:
        raise UserError(f"espeak-ng: found no data in {data_folder}, expected the data of the package espeakng-loader")
    try:
        yield Synthesiser(library, sample_rate_hz)
    finally:
        library.espeak_Terminate()
