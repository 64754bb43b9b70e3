"""CREMA-D: 91 actors say 12 sentences in 6 emotions, `AudioWAV/1001_IEO_ANG_HI.wav`.

SentenceFilenames.csv, if it exists, is the index: its names are clips even without a file; other files are set aside.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import audio_files, find
from pipeline.corpora.genders import gender_at
from pipeline.corpora.table_rows import read_csv
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.", "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.", "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.", "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.", "DFA": "Don't forget a jacket.", "TSI": "The surface is slick.",
    "ITS": "I think I've seen this before.", "WSI": "We'll stop in a couple of minutes."}  # fmt: skip
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_ATTRIBUTES = ("Age", "Race", "Ethnicity")
_NAME = re.compile(rf"(\d{{4}})_({'|'.join(SENTENCES)})_([A-Z]{{3}})_({'|'.join(INTENSITIES)})")
_ALIASES = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # the file was misnamed until 2022, the tables were right


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of AudioWAV/ and of the index, sorted by name."""
    paths = [path.relative_to(root) for path in audio_files(*find(root, "AudioWAV/"))]
    files = [(_ALIASES.get(path.stem, path.stem), path.as_posix()) for path in paths]
    index, people = root / "SentenceFilenames.csv", root / "VideoDemographics.csv"
    listed = {row["Filename"] for _, row in read_csv(index, ["Filename"])}
    files += [(name, f"AudioWAV/{name}.wav") for name in listed - {name for name, _ in files}]
    actors = {row["ActorID"]: row for _, row in read_csv(people, ["ActorID", "Sex"], _ATTRIBUTES)}
    votes = _votes(root / "processedResults" / "tabulatedVotes.csv")
    for name, file in sorted(files, key=lambda file: file[0]):
        match, foreign = _NAME.fullmatch(name), bool(listed) and name not in listed
        if foreign or match is None:
            fault = Fault("not-listed") if foreign else Fault("bad-name", "expected 1001_IEO_ANG_HI")
            yield Clip(utterance=name, audio=file, text="", speaker="", fault=fault)
            continue
        speaker, sentence, emotion, intensity = match.groups()
        actor = actors.get(speaker, {})
        yield Clip(
            utterance=name,
            audio=file,
            text=SENTENCES[sentence],
            speaker=speaker,
            gender=gender_at(f"{people}: actor {speaker}", actor.get("Sex", "")),
            emotion=emotion,
            votes=votes.get(("1", name)),
            votes_face=votes.get(("2", name)),
            votes_both=votes.get(("3", name)),
            intensity=INTENSITIES[intensity],
            attributes={key: actor[key] for key in _ATTRIBUTES if actor.get(key)} or None,
        )


def _votes(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Read votes by clip and first digit of the row's number: 1 for only the voice, 2 for only the face, 3 for both."""
    votes = {}
    for line, row in read_csv(path, ["", *"ADFHNS", "fileName"]):
        counts = [row[emotion[0]] for emotion in EMOTIONS]
        if not all(map(str.isdecimal, counts)):
            found = f"{', '.join(counts)} (clip {row['fileName']})"
            raise UserError(f"{path}: line {line}: expected counts of votes, found {found}")
        votes[row[""][:1], row["fileName"]] = dict(zip(EMOTIONS, map(float, counts), strict=True))
    return votes


CORPUS = Corpus(
    title="CREMA-D",
    layout="AudioWAV/1001_IEO_ANG_HI.wav",
    licence="ODbL-1.0",
    source="https://github.com/CheyneyComputerScience/CREMA-D",
    language="en",
    read=read,
    labels=EMOTIONS,
    counts={"clips": 7442, "speakers": 91, "NEU": 1087} | dict.fromkeys(("ANG", "DIS", "FEA", "HAP", "SAD"), 1271),
    # 1076_MTI_NEU_XX, 1064_TIE_SAD_XX and 1064_IEO_DIS_MD are broken only as FLV and MP3 (README.md)
    faults={"1076_MTI_SAD_XX": "silent"},
)
