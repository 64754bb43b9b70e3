"""CREMA-D: 91 actors say 12 sentences in 6 emotions, `AudioWAV/1001_IEO_ANG_HI.wav`.

SentenceFilenames.csv, if it exists, is the index: its names are clips even without a file; other files are set aside.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus, audio_files, read_csv
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.", "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.", "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.", "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.", "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.", "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes."}  # fmt: skip
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
_NAME = re.compile(rf"(\d{{4}})_({'|'.join(SENTENCES)})_([A-Z]{{3}})_({'|'.join(INTENSITIES)})")
_ALIASES = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}  # the file was misnamed until 2022, the tables were right


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of AudioWAV/ and of the index, sorted by name."""
    files = [(_ALIASES.get(path.stem, path.stem), path.name) for path in audio_files(root / "AudioWAV")]
    index, people = root / "SentenceFilenames.csv", root / "VideoDemographics.csv"
    listed = {row["Filename"] for row in read_csv(index, ["Filename"])} if index.is_file() else set()
    files += [(name, f"{name}.wav") for name in listed - {name for name, _ in files}]
    actors = {row["ActorID"]: row for row in read_csv(people, ["ActorID", "Sex"])} if people.is_file() else {}
    votes = _votes(root / "processedResults" / "tabulatedVotes.csv")
    for name, file in sorted(files):
        match, foreign = _NAME.fullmatch(name), bool(listed) and name not in listed
        if foreign or match is None:
            fault = Fault("not-listed") if foreign else Fault("bad-name", "expected 1001_IEO_ANG_HI")
            yield Clip(utterance=name, audio=f"AudioWAV/{file}", text="", speaker="", fault=fault)
            continue
        speaker, sentence, emotion, intensity = match.groups()
        actor = actors.get(speaker, {})
        yield Clip(
            utterance=name,
            audio=f"AudioWAV/{file}",
            text=SENTENCES[sentence],
            speaker=speaker,
            gender={"Female": "female", "Male": "male"}.get(actor.get("Sex", "")),
            emotion=emotion,
            votes=votes.get(("1", name)),
            votes_face=votes.get(("2", name)),
            votes_both=votes.get(("3", name)),
            intensity=INTENSITIES[intensity],
            attributes={key: actor[key] for key in ("Age", "Race", "Ethnicity") if actor.get(key)} or None,
        )


def _votes(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Read votes by clip and first digit of the row's number: 1 for only the voice, 2 for only the face, 3 for both."""
    votes = {}
    for line, row in enumerate(read_csv(path, ["", *"ADFHNS", "fileName"]) if path.is_file() else [], start=2):
        counts = [row[emotion[0]] for emotion in EMOTIONS]
        if not all(map(str.isdecimal, counts)):
            raise UserError(f"{path}: line {line}: expected counts of votes, found {', '.join(counts)}")
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
