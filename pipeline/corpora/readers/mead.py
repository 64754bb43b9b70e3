"""MEAD: actors say sentences in 8 emotions at 3 levels, `M003/audio/angry/level_1/001.m4a`.

The number of a clip does not identify its sentence, because later takes moved up if a take was lost. So clips have no
text.
See https://github.com/uniBruce/Mead/issues/12
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

LABELS = {
    "angry": "angry",
    "contempt": "contempt",
    "disgusted": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "surprised": "surprise",
}

_NAME = re.compile(r"([MW])\d{3}/audio/([a-z]+)/(level_[123])/\d{3}")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of all actors; an id consists of the folders and the number."""
    for path in audio_files(*find(root, "[MW]*/audio/*/level_*/")):
        audio = path.relative_to(root).as_posix()
        name = audio.removesuffix(path.suffix)
        utterance = name.replace("/audio/", "/").replace("/", "_")
        match = _NAME.fullmatch(name)
        if match is None:
            fault = Fault("bad-name", "expected M003/audio/angry/level_1/001.m4a")
            yield Clip(utterance=utterance, audio=audio, text=None, speaker="", fault=fault)
            continue
        gender, emotion, level = match.groups()
        yield Clip(
            utterance=utterance,
            audio=audio,
            text=None,
            speaker=path.relative_to(root).parts[0],
            gender={"M": "male", "W": "female"}[gender],
            emotion=emotion,
            intensity=level,
        )


CORPUS = Corpus(
    title="MEAD",
    layout="M003/audio/angry/level_1/001.m4a",
    licence="LicenseRef-MEAD",
    source="https://wywu.github.io/projects/MEAD/MEAD.html",
    language="en",
    read=read,
    labels=LABELS,
    counts={"speakers": 48},  # of 60 recorded actors, those in part 0, the only published part
)
