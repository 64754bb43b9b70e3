"""SAVEE: 4 men say 15 sentences in each of 6 emotions and 30 neutral ones, `AudioData/DC/a01.wav` or `ALL/DC_a01.wav`.

A name consists of the emotion's initials and the sentence. The sentences are not published with the audio.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

SPEAKERS = ("DC", "JE", "JK", "KL")
LABELS = {
    "a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise",
}  # fmt: skip

_NAME = re.compile(rf"({'|'.join(SPEAKERS)})_([a-z]+)(\d\d)")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips in the root and in its folders; ids contain the speaker in both layouts."""
    for path in audio_files(root, *find(root, "*/"), *find(root, "AudioData/*/")):
        audio = path.relative_to(root).as_posix()
        name = f"{path.parent.name}_{path.stem}" if path.parent.name in SPEAKERS else path.stem
        match = _NAME.fullmatch(name)
        if match is None:
            fault = Fault("bad-name", "expected DC/a01 or DC_a01")
            yield Clip(utterance=name, audio=audio, text=None, speaker="", fault=fault)
            continue
        speaker, emotion, sentence = match.groups()
        yield Clip(
            utterance=name,
            audio=audio,
            text=None,
            speaker=speaker,
            gender="male",
            emotion=emotion,
            attributes={"sentence": sentence},
        )


CORPUS = Corpus(
    title="SAVEE",
    layout="AudioData/DC/a01.wav",
    licence="LicenseRef-SAVEE",
    source="http://kahlan.eps.surrey.ac.uk/savee/",
    language="en",
    read=read,
    labels=LABELS,
    counts={"clips": 480, "speakers": 4} | dict.fromkeys(LABELS, 60) | {"n": 120},
)
