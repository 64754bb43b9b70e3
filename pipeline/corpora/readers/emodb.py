"""EmoDB: 10 speakers say 10 German sentences in 7 emotions, `wav/03a01Fa.wav`.

A name consists of the speaker, the sentence, the emotion's German initial, and the version.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
SPEAKERS = {
    "03": ("male", "31"), "08": ("female", "34"), "09": ("female", "21"), "10": ("male", "32"), "11": ("male", "26"),
    "12": ("male", "30"), "13": ("female", "32"), "14": ("female", "35"), "15": ("male", "25"), "16": ("female", "31"),
}  # fmt: skip
# Wut (anger), Langeweile, Ekel, Angst, Freude, Trauer, neutral
LABELS = {
    "W": "angry", "L": "boredom", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral",
}  # fmt: skip

_NAME = re.compile(rf"({'|'.join(SPEAKERS)})({'|'.join(SENTENCES)})([A-Z])([a-z])")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of wav/."""
    for path in audio_files(*find(root, "wav/")):
        audio = path.relative_to(root).as_posix()
        match = _NAME.fullmatch(path.stem)
        if match is None:
            fault = Fault("bad-name", "expected 03a01Fa")
            yield Clip(utterance=path.stem, audio=audio, text="", speaker="", fault=fault)
            continue
        speaker, sentence, emotion, version = match.groups()
        gender, age = SPEAKERS[speaker]
        yield Clip(
            utterance=path.stem,
            audio=audio,
            text=SENTENCES[sentence],
            speaker=speaker,
            gender=gender,
            emotion=emotion,
            attributes={"version": version, "age": age},
        )


CORPUS = Corpus(
    title="EmoDB",
    layout="wav/03a01Fa.wav",
    licence="CC0-1.0",
    source="http://emodb.bilderbar.info",
    archives={"all": Archive(url="http://emodb.bilderbar.info/download/download.zip", md5=None)},
    language="de",
    read=read,
    labels=LABELS,
    counts={"clips": 535, "speakers": 10, "W": 127, "L": 81, "E": 46, "A": 69, "F": 71, "T": 62, "N": 79},
)
