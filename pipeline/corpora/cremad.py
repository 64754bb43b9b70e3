"""CREMA-D: 91 actors say 12 sentences in 6 emotions, `AudioWAV/1001_IEO_ANG_HI.wav`.

Gender comes from VideoDemographics.csv and the crowd's votes from processedResults/tabulatedVotes.csv,
where they lie beside the audio. Only the votes of listeners who heard the voice alone are taken.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.clip import AUDIO_SUFFIXES, Clip, read_text, wrong_layout

LICENCE = "ODbL-1.0"

SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}

# audio files whose name differs from the one in all of the corpus' tables
_ALIASES = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}

# columns of tabulatedVotes.csv by the emotion code of file names
VOTE_COLUMNS = {"ANG": "A", "DIS": "D", "FEA": "F", "HAP": "H", "NEU": "N", "SAD": "S"}
# first digit of its row number: 1 voice alone, 2 face alone, 3 both
_VOICE_ALONE = "1"

_NAME = re.compile(rf"(\d{{4}})_({'|'.join(SENTENCES)})_([A-Z]{{3}})_({'|'.join(INTENSITIES)})")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of AudioWAV/; raises UserError when `root` has none."""
    folder = root / "AudioWAV"
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise wrong_layout(root, "CREMA-D's layout (AudioWAV/1001_IEO_ANG_HI.wav)")
    genders = _genders(root / "VideoDemographics.csv")
    votes = _votes(root / "processedResults" / "tabulatedVotes.csv")
    for path in files:
        audio = path.relative_to(root).as_posix()
        name = _ALIASES.get(path.stem, path.stem)
        match = _NAME.fullmatch(name)
        if match is None:
            fault = "name is not of the form 1001_IEO_ANG_HI"
            yield Clip(utterance=name, audio=audio, text="", speaker="", licence=LICENCE, fault=fault)
            continue
        actor, sentence, emotion, intensity = match.groups()
        yield Clip(
            utterance=name,
            audio=audio,
            text=SENTENCES[sentence],
            speaker=actor,
            licence=LICENCE,
            gender=genders.get(actor),
            emotion=emotion,
            votes=votes.get(name),
            intensity=INTENSITIES[intensity],
        )


def _genders(path: Path) -> dict[str, str]:
    return {row["ActorID"]: row["Sex"].lower() for row in _rows(path)}


def _votes(path: Path) -> dict[str, dict[str, float]]:
    """Read the votes for each emotion code by clip; the row number's column has no name."""
    return {
        row["fileName"]: {code: float(row[column]) for code, column in VOTE_COLUMNS.items()}
        for row in _rows(path)
        if row[""].startswith(_VOICE_ALONE)
    }


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(read_text(path).splitlines())) if path.is_file() else []
