"""Readers of corpora from their published layouts, by name.

A reader yields a clip for each utterance that the corpus names, in a fixed order, and opens no audio.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.corpora import cremad, librispeech, ravdess
from pipeline.corpora.clip import Clip

READERS: dict[str, Callable[[Path], Iterator[Clip]]] = {
    "cremad": cremad.read,
    "librispeech": librispeech.read,
    "ravdess": ravdess.read,
}
