"""AESDD: 6 actors say 19 Greek sentences and one of their own in 5 emotions, `anger/a01 (1).wav`.

A name consists of the emotion's initial, the sentence and the speaker. Further takes have a letter, `a06 (5)b.wav`, and
some speakers a leading zero, `f10 (01).wav`. The sentences are not published. There are no counts, because the corpus
still grows.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import alike, audio_files, find
from pipeline.tables.quarantine import Fault

EMOTIONS = {"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"}

_NAME = re.compile(r"([adfhs])(\d\d) \(0?([1-9]\d*)[a-z]?\)[a-z]?")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of the emotions' folders, which are in the root or in a folder of it."""
    folders = (*find(root, "*/"), *find(root, "*/*/"))
    for path in audio_files(*(folder for folder in folders if alike(folder.name) in EMOTIONS.values())):
        audio = path.relative_to(root).as_posix()
        match = _NAME.fullmatch(path.stem)
        if match is None:
            fault = Fault("bad-name", "expected a01 (1)")
            yield Clip(utterance=path.stem, audio=audio, text=None, speaker="", fault=fault)
            continue
        emotion, sentence, speaker = match.groups()
        yield Clip(
            utterance=path.stem,
            audio=audio,
            text=None,
            speaker=speaker,
            emotion=EMOTIONS[emotion],
            attributes={"utterance": sentence},
        )


CORPUS = Corpus(
    title="AESDD",
    layout="anger/a01 (1).wav",
    licence="LicenseRef-AESDD",
    source="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
    language="el",
    read=read,
    labels={"anger": "angry", "disgust": "disgust", "fear": "fear", "happiness": "happy", "sadness": "sad"},
    faults={"s05 (3)": "no samples in the WAV file"},
)
