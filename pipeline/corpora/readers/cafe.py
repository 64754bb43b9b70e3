"""CaFE: 12 actors from Quebec say 6 French sentences in 7 emotions, `Colère/Faible/01-C-1-1.wav`.

A name consists of actor, emotion, intensity and sentence. The names of folders are not read, because zip programs write
their accents in different ways. Neutral clips, `Neutre/01-N-1-1.wav`, have no folder for the intensity.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.tables.quarantine import Fault

SENTENCES = {
    "1": "Un cheval fou dans mon jardin",
    "2": "Deux ânes aigris au pelage brun",
    "3": "Trois cygnes aveugles au bord du lac",
    "4": "Quatre vieilles truies éléphantesques",
    "5": "Cinq pumas fiers et passionnés",
    "6": "Six ours aimants domestiqués",
}
LABELS = {
    "colère": "angry", "dégoût": "disgust", "joie": "happy", "neutre": "neutral", "peur": "fear",
    "surprise": "surprise", "tristesse": "sad",
}  # fmt: skip
INTENSITIES = {"1": "faible", "2": "fort"}
AGES = ("46", "64", "18", "50", "22", "34", "15", "25", "42", "20", "35", "37")  # of actors 01 to 12

_EMOTIONS = {emotion[0].upper(): emotion for emotion in LABELS}
_NAME = re.compile(rf"(0[1-9]|1[012])-([{''.join(_EMOTIONS)}])-([12])-([1-6])")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of all folders."""
    for path in audio_files(*find(root, "*/"), *find(root, "*/*/"), *find(root, "*/*/*/")):
        audio = path.relative_to(root).as_posix()
        match = _NAME.fullmatch(path.stem)
        if match is None:
            fault = Fault("bad-name", "expected 01-C-1-1")
            yield Clip(utterance=path.stem, audio=audio, text="", speaker="", fault=fault)
            continue
        actor, emotion, intensity, sentence = match.groups()
        yield Clip(
            utterance=path.stem,
            audio=audio,
            text=SENTENCES[sentence],
            speaker=actor,
            gender="male" if int(actor) % 2 else "female",
            emotion=_EMOTIONS[emotion],
            intensity=INTENSITIES[intensity] if emotion != "N" else None,
            attributes={"age": AGES[int(actor) - 1]},
        )


CORPUS = Corpus(
    title="CaFE",
    layout="Colère/Faible/01-C-1-1.wav",
    licence="CC-BY-NC-SA-4.0",
    source="https://zenodo.org/records/1478765",
    archives={"48k": Archive(url="https://zenodo.org/records/1478765/files/CaFE_48k.zip", md5=None)},
    language="fr",
    read=read,
    labels=LABELS,
    counts={"clips": 936, "speakers": 12} | dict.fromkeys(LABELS, 144) | {"neutre": 72},
)
