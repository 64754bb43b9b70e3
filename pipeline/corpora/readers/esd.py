"""ESD: 10 Mandarin and 10 English speakers say 350 sentences in 5 emotions, `0001/Angry/0001_000351.wav`.

Each emotion has 350 consecutive numbers: 20 of the official evaluation split, 30 of the test split, then 300 of train.
Some copies have a folder for each split (`0001/Angry/evaluation/`). Transcripts, `0001/0001.txt`, have three encodings,
and some of their lines a space for a tab: https://github.com/HLTSingapore/Emotional-Speech-Data/issues/1
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import audio_files, find, read_text
from pipeline.tables.quarantine import Fault

LABELS = {"Neutral": "neutral", "Angry": "angry", "Happy": "happy", "Sad": "sad", "Surprise": "surprise"}
MALE = {4, 5, 6, 8, 10, 11, 12, 13, 14, 20}

_SPLITS = {"train": "train", "evaluation": "dev", "test": "test"}
_NAME = re.compile(r"(\d{4})_(\d{6})")
_LABEL = "|".join([*LABELS, "中立", "生气", "快乐", "伤心", "惊喜"])
_LINE = re.compile(rf"(\d{{4}}_\d{{6}})\s+(.*?)(?:\s+(?:{_LABEL}))?")


def read(root: Path) -> Iterator[Clip]:
    """Yield the clips of all speaker folders, which are in the root or in a folder of it."""
    for folder in sorted([*find(root, "00[012][0-9]/"), *find(root, "*/00[012][0-9]/")]):
        texts = _texts(folder / f"{folder.name}.txt")
        for path in audio_files(*find(folder, "*/"), *find(folder, "*/*/")):
            audio = path.relative_to(root).as_posix()
            match = _NAME.fullmatch(path.stem)
            if match is None or match[1] != folder.name:
                fault = Fault("bad-name", f"expected {folder.name}_NNNNNN")
                yield Clip(utterance=path.stem, audio=audio, text="", speaker="", fault=fault)
                continue
            speaker = int(folder.name)
            yield Clip(
                utterance=path.stem,
                audio=audio,
                text=texts.get(path.stem, ""),
                speaker=folder.name,
                language="zh" if speaker <= 10 else "en",
                gender="male" if speaker in MALE else "female",
                emotion=path.relative_to(folder).parts[0],
                split=_SPLITS.get(path.parent.name) or _split_of(int(match[2])),
            )


def _split_of(number: int) -> str:
    position = (number - 1) % 350
    return "dev" if position < 20 else "test" if position < 50 else "train"


def _texts(path: Path) -> dict[str, str]:
    """Read lines of id, text and label."""
    lines = read_text(path, _encoding(path)).splitlines() if path.is_file() else []
    matches = (_LINE.fullmatch(line.strip()) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def _encoding(path: Path) -> str:
    if (data := path.read_bytes()).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "gb18030"  # also two English files, because of their quotation marks
    return "utf-8-sig"


CORPUS = Corpus(
    title="ESD",
    layout="0001/Angry/0001_000351.wav with 0001/0001.txt",
    licence="LicenseRef-ESD",
    source="https://hltsingapore.github.io/ESD/",
    language="en",
    read=read,
    labels=LABELS,
    counts={"clips": 35000, "speakers": 20, "train": 30000, "dev": 2000, "test": 3000} | dict.fromkeys(LABELS, 7000),
)
