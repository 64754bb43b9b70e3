"""RESD: Russian dialogues in which each actor keeps to one of 7 emotions; train.csv and test.csv with their audio.

The Hub has the same rows as Parquet, https://huggingface.co/datasets/Aniemore/resd_annotated: to be written out as
`train.csv` with the columns name, path, emotion and text (which Aniemore/resd lacks), and `train/` with the audio.
A name, `32_happiness_enthusiasm_h_120`, is dialogue, its two emotions, the one of this actor, and place. Actors are
not told apart beyond a dialogue, and the parts share dialogues.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus, read_csv
from pipeline.tables.quarantine import Fault

LABELS = {
    "anger": "angry",
    "disgust": "disgust",
    "enthusiasm": "enthusiasm",
    "fear": "fear",
    "happiness": "happy",
    "neutral": "neutral",
    "sadness": "sad",
}

_NAME = re.compile(r"(\d+)_[a-z]+_[a-z]+[_ ]([a-z])_\d+")


def read(root: Path) -> Iterator[Clip]:
    """Yield the rows of both tables."""
    for split in ("train", "test"):
        table = root / f"{split}.csv"
        for row in read_csv(table, ("name", "path", "emotion")) if table.is_file() else []:
            match = _NAME.fullmatch(row["name"])
            yield Clip(
                utterance=row["name"],
                audio=f"{split}/{row['path']}",
                text=row.get("text"),
                speaker=f"{match[1]}_{match[2]}" if match else "",
                dialogue=match[1] if match else None,
                emotion=row["emotion"],
                split=split,
                fault=None if match else Fault("bad-name", "expected 32_happiness_enthusiasm_h_120"),
            )


CORPUS = Corpus(
    title="RESD",
    layout="train.csv and test.csv with train/happiness_enthusiasm_32/32_happiness_enthusiasm_h_120.wav",
    licence="MIT",
    source="https://huggingface.co/datasets/Aniemore/resd_annotated",
    language="ru",
    read=read,
    labels=LABELS,
    counts={"clips": 1396, "train": 1116, "test": 280},
)
