"""RAVDESS: 24 actors say 2 sentences in 8 emotions, `Actor_15/03-01-EE-II-SS-RR-15.wav`.

A name consists of modality, channel, emotion, intensity, statement, repetition and actor. The actor folders are in the
root, or in a folder of it that unzipping creates. Sung clips are set aside.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

EMOTIONS = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad", "05": "angry", "06": "fearful", "07": "disgust",
    "08": "surprised",
}  # fmt: skip
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
FOLDS = ("01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22")  # of EmoBox

_SPOKEN = re.compile(r"03-01-(\d\d)-(01|02)-(01|02)-(\d\d)-(\d\d)")
_SUNG = re.compile(r"03-02(-\d\d){5}")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of all actor folders."""
    for path in audio_files(*find(root, "Actor_*/"), *find(root, "*/Actor_*/")):
        audio = path.relative_to(root).as_posix()
        match = _SPOKEN.fullmatch(path.stem)
        if match is None:
            sung = _SUNG.fullmatch(path.stem)
            fault = Fault("not-speech", "sung") if sung else Fault("bad-name", "expected 03-01-EE-II-SS-RR-AA")
            yield Clip(utterance=path.stem, audio=audio, text="", speaker="", fault=fault)
            continue
        emotion, intensity, statement, repetition, actor = match.groups()
        yield Clip(
            utterance=path.stem,
            audio=audio,
            text=STATEMENTS[statement],
            speaker=actor,
            gender="male" if int(actor) % 2 else "female",
            emotion=EMOTIONS.get(emotion, emotion),
            intensity=INTENSITIES[intensity],
            attributes={"repetition": repetition},
        )


CORPUS = Corpus(
    title="RAVDESS",
    layout="Actor_01/03-01-01-01-01-01-01.wav",
    licence="CC-BY-NC-SA-4.0",
    source="https://zenodo.org/records/1188976",
    archives={
        "speech": Archive(
            url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
            md5="bc696df654c87fed845eb13823edef8a",
        )
    },
    language="en",
    read=read,
    labels={
        "neutral": "neutral",
        "calm": "calm",
        "happy": "happy",
        "sad": "sad",
        "angry": "angry",
        "fearful": "fear",
        "disgust": "disgust",
        "surprised": "surprise",
    },
    counts={"clips": 1440, "speakers": 24, "neutral": 96} | dict.fromkeys(list(EMOTIONS.values())[1:], 192),
    doubles=("03-01-03-01-02-02-07",),  # equals 03-01-03-01-02-01-07
    folds={f"emobox-{i}": actors.split() for i, actors in enumerate(FOLDS, start=1)},
)
