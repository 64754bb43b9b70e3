"""LibriSpeech: read speech with transcripts, `<subset>/SPK/CHAP/SPK-CHAP-NNNN.flac` and `SPK-CHAP.trans.txt`.

A subset is any folder whose name begins with train-, dev- or test-; that beginning is its official part.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.clip import Clip, read_text, wrong_layout

LICENCE = "CC-BY-4.0"

_SUBSET = re.compile(r"(train|dev|test)-.+")
_EXPECTED = "LibriSpeech's layout (train-clean-100/SPK/CHAP/SPK-CHAP-NNNN.flac with SPK-CHAP.trans.txt)"


def read(root: Path) -> Iterator[Clip]:
    """Yield the utterances of all subsets; raises UserError when `root` holds none."""
    chapters = [path for path in sorted(root.glob("*/*/*")) if _SUBSET.fullmatch(path.parts[-3]) and path.is_dir()]
    if not chapters:
        raise wrong_layout(root, _EXPECTED)
    genders = _genders(root / "SPEAKERS.TXT")
    for chapter in chapters:
        yield from _read_chapter(root, chapter, genders)


def _read_chapter(root: Path, chapter: Path, genders: dict[str, str]) -> Iterator[Clip]:
    subset, speaker, number = chapter.parts[-3:]
    transcripts = _transcripts(chapter / f"{speaker}-{number}.trans.txt")
    recorded = {path.stem for path in chapter.glob("*.flac")}
    name = re.compile(rf"{re.escape(speaker)}-{re.escape(number)}-(\d+)")
    for utterance in sorted(transcripts.keys() | recorded):
        match = name.fullmatch(utterance)
        fault = "no transcript line" if utterance not in transcripts else None
        yield Clip(
            utterance=utterance,
            audio=(chapter / f"{utterance}.flac").relative_to(root).as_posix(),
            text=transcripts.get(utterance, ""),
            speaker=speaker,
            licence=LICENCE,
            gender=genders.get(speaker),
            session=number,
            turn=int(match[1]) if match else None,
            split=subset.split("-")[0],
            fault=fault if match else "name is not of the form SPK-CHAP-NNNN",
        )


def _transcripts(path: Path) -> dict[str, str]:
    """Read lines of `ID TEXT`."""
    if not path.is_file():
        return {}
    lines = (line.partition(" ") for line in read_text(path).splitlines() if line.strip())
    return {utterance: text.strip() for utterance, _, text in lines}


def _genders(path: Path) -> dict[str, str]:
    """Read gender by speaker from SPEAKERS.TXT: `ID | SEX | SUBSET | MINUTES | NAME`, comments after a semicolon."""
    if not path.is_file():
        return {}
    genders = {}
    for line in read_text(path).splitlines():
        fields = [field.strip() for field in line.split("|")]
        if not line.startswith(";") and len(fields) > 1 and fields[1] in ("F", "M"):
            genders[fields[0]] = {"F": "female", "M": "male"}[fields[1]]
    return genders
