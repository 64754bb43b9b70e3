"""RAVDESS: 24 actors say 2 sentences in 8 emotions, `Actor_15/03-01-EE-II-SS-RR-15.wav`.

The parts of a name are modality, channel, emotion, intensity, statement, repetition, actor. The actor
folders may lie in one further folder, as unzipping leaves them; sung clips are set aside.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.clip import AUDIO_SUFFIXES, Clip, wrong_layout

LICENCE = "CC-BY-NC-SA-4.0"

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}

_SPOKEN = re.compile(r"03-01-(\d\d)-(01|02)-(01|02)-\d\d-(\d\d)")
_SUNG = re.compile(r"03-02(-\d\d){5}")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of all actor folders; raises UserError when `root` has none."""
    folders = [*root.glob("Actor_*"), *root.glob("*/Actor_*")]
    files = sorted(path for folder in folders for path in folder.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise wrong_layout(root, "RAVDESS' layout (Actor_01/03-01-01-01-01-01-01.wav)")
    for path in files:
        audio = path.relative_to(root).as_posix()
        match = _SPOKEN.fullmatch(path.stem)
        if match is None:
            fault = "sung, not spoken" if _SUNG.fullmatch(path.stem) else "name is not of the form 03-01-EE-II-SS-RR-AA"
            yield Clip(utterance=path.stem, audio=audio, text="", speaker="", licence=LICENCE, fault=fault)
            continue
        emotion, intensity, statement, actor = match.groups()
        yield Clip(
            utterance=path.stem,
            audio=audio,
            text=STATEMENTS[statement],
            speaker=actor,
            licence=LICENCE,
            gender="male" if int(actor) % 2 else "female",
            emotion=EMOTIONS.get(emotion, emotion),
            intensity=INTENSITIES[intensity],
        )
