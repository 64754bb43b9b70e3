"""RESD: Russian dialogues in which each actor keeps to one of 7 emotions; train.csv and test.csv with their audio.

The hub has the same rows as Parquet, https://huggingface.co/datasets/Aniemore/resd_annotated. Write them to `train.csv`
and `test.csv` with the columns name, path, emotion and text (which Aniemore/resd lacks), and the audio to `train/` and
`test/`. A name, `32_happiness_enthusiasm_h_120`, consists of the dialogue, its two emotions, the initial of the actor's
emotion, and the position. An actor is known only within a dialogue, and the splits share dialogues.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.table_rows import read_csv
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
        for _, row in read_csv(table, ("name", "path", "emotion"), ("text",)):
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
