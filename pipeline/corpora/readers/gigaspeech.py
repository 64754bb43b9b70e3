"""GigaSpeech: segments of long recordings, listed in one GigaSpeech.json of several GB that is read in constant memory.

Punctuation is published as tags, which become punctuation marks: as words they would look like speech. No speakers are
published, so each recording counts as one speaker, and all who speak in it stay in one split. Segments labelled as
music, noise or silence are set aside.
"""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.json_depth import Depth
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

MARKS = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}
NOT_SPEECH = dict.fromkeys(("<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"), "")

_FORM = "aid, path, source and segments with sid, begin_time, end_time, text_tts, subsets"
_BLOCK = 1 << 20  # bytes that are read at once
_NUMBERS = (float, int)  # but not bool, which is an int


def read(root: Path, subset: str | None = None) -> Iterator[Clip]:
    """Yield the segments of all subsets or of one; the segments of a recording are in time order."""
    path = root / "GigaSpeech.json"
    if not path.is_file():
        return
    audios = ijson.sendable_list()
    parser = ijson.items_coro(audios, "audios.item", use_float=True)
    line, depth = 1, Depth()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if depth.is_too_large(block):
                    raise UserError(f"{path}: after line {line}: expected {_FORM}, found too many brackets")
                for text in io.BytesIO(block):  # line by line, so that an error can name its line
                    parser.send(text)
                    for audio in audios:
                        yield from _read_audio(audio, subset)
                    audios.clear()
                    line += text.endswith(b"\n")
        parser.close()
    except ijson.JSONError:
        raise UserError(f"{path}: line {line}: expected JSON, found it cut short or broken") from None
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: line {line}: expected {_FORM} in this recording, found {error!r}") from None


def _read_audio(audio: dict[str, Any], subset: str | None) -> Iterator[Clip]:
    aid, path, source = audio["aid"], audio["path"], audio["source"]
    if not all(isinstance(value, str) for value in (aid, path, source)):
        raise TypeError(f"aid {aid}, path {path}, source {source}")
    for segment in sorted(audio["segments"], key=lambda segment: float(segment["begin_time"])):
        text = tagged = segment["text_tts" if "text_tts" in segment else "text_tn"].strip()  # one of two names
        sid, start, end, subsets = segment["sid"], segment["begin_time"], segment["end_time"], segment["subsets"]
        are_numbers = type(start) in _NUMBERS and type(end) in _NUMBERS and math.isfinite(end - start)
        if not (are_numbers and isinstance(sid, str) and isinstance(subsets, list)):
            raise TypeError(f"sid {sid}, begin_time {start}, end_time {end}, subsets {subsets} in {aid}")
        if subset is not None and f"{{{subset}}}" not in subsets:
            continue
        for tag, mark in (MARKS | NOT_SPEECH).items():
            text = text.replace(f" {tag}", mark).replace(tag, mark)
        yield Clip(
            utterance=sid,
            audio=path,
            text=text,
            speaker=aid,
            start_s=start,
            duration_s=round(end - start, 6),  # 8.2 - 6.1 is 2.0999999999999996
            session=aid,
            split="dev" if "{DEV}" in subsets else "test" if "{TEST}" in subsets else "train",
            attributes={"source": source},
            fault=Fault("not-speech", tagged) if tagged and set(tagged.split()) <= NOT_SPEECH.keys() else None,
        )


CORPUS = Corpus(
    title="GigaSpeech",
    layout="GigaSpeech.json and audio/podcast/P0000/POD0000000001.opus",
    licence="LicenseRef-GigaSpeech",  # non-commercial research and education, on application
    source="https://github.com/SpeechColab/GigaSpeech",
    language="en",
    read=read,
    headers_suffice=True,  # decoding 10,000 h of Opus takes 29 hours on one core
    subsets=("XS", "S", "M", "L", "XL", "DEV", "TEST"),  # a train subset contains the smaller ones
)
