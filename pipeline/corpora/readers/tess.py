"""TESS: 2 women say 200 words in 7 emotions, `OAF_angry/OAF_back_angry.wav` or without the folder.

A name consists of speaker, word and emotion. Folders are not read, because copies name them differently.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

AGES = {"OAF": "64", "YAF": "26"}  # older and younger adult female
LABELS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprise",  # pleasant surprise
    "sad": "sad",
}

_ALIASES = {"OA_bite_neutral": "OAF_bite_neutral"}  # the published name: the regular one
_NAME = re.compile(r"(OAF|YAF)_([a-z]+)_([a-z]+)")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips in the root and in its folders."""
    for path in audio_files(root, *find(root, "*/")):
        audio = path.relative_to(root).as_posix()
        name = _ALIASES.get(path.stem, path.stem)
        match = _NAME.fullmatch(name)
        if match is None:
            fault = Fault("bad-name", "expected OAF_back_angry")
            yield Clip(utterance=name, audio=audio, text="", speaker="", fault=fault)
            continue
        speaker, word, emotion = match.groups()
        yield Clip(
            utterance=name,
            audio=audio,
            text=f"Say the word {word}.",
            speaker=speaker,
            gender="female",
            emotion=emotion,
            attributes={"age": AGES[speaker]},
        )


CORPUS = Corpus(
    title="TESS",
    layout="OAF_angry/OAF_back_angry.wav",
    licence="CC-BY-NC-ND-4.0",
    source="https://doi.org/10.5683/SP2/E8H2MF",
    archives={
        "all": Archive(
            url="https://borealisdata.ca/api/access/dataset/:persistentId/?persistentId=doi:10.5683/SP2/E8H2MF",
            md5=None,
        )
    },
    language="en",
    read=read,
    labels=LABELS,
    counts={"clips": 2800, "speakers": 2} | dict.fromkeys(LABELS, 400),
)
