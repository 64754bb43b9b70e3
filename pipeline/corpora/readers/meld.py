"""MELD: dialogues of the series Friends, `train_sent_emo.csv` and `train_splits/dia0_utt0.mp4` for each official split.

The official splits share speakers: the six main characters speak in all three. Tables and media may be in the folders
that the published archives add. Converted media, WAV or FLAC files, may replace the videos.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import find, names
from pipeline.corpora.table_rows import read_csv
from pipeline.stage import UserError

SPLITS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
GENDERS = dict.fromkeys(("Chandler", "Joey", "Ross"), "male") | dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female")
_MEDIA = "https://huggingface.co/datasets/declare-lab/MELD/resolve/main/MELD.Raw.tar.gz"
_TABLES = "https://raw.githubusercontent.com/declare-lab/MELD/master/data/MELD"
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")


def read(root: Path) -> Iterator[Clip]:
    """Yield the utterances of the tables, whether their media are there or not."""
    for split, folder in SPLITS.items():
        for table in _find(root, f"{split}_sent_emo.csv")[:1]:
            media = next(iter(_find(root, f"{folder}/")), table.parent / folder)
            yield from _read_split(root, split, table, media)


def _read_split(root: Path, split: str, table: Path, media: Path) -> Iterator[Clip]:
    # the archives contain more than the tables: other cuts, named final_videos_testdia0_utt0.mp4
    files = set(names(media)) if media.is_dir() else set()
    for line, row in read_csv(table, _COLUMNS):
        dialogue, turn = row["Dialogue_ID"], row["Utterance_ID"]
        if not (dialogue.isdecimal() and turn.isdecimal()):
            raise UserError(f"{table}: line {line}: expected numbers as ids, found {dialogue} and {turn}")
        name = f"dia{dialogue}_utt{turn}"
        file = next((name + suffix for suffix in (".mp4", ".flac", ".wav") if name + suffix in files), f"{name}.mp4")
        yield Clip(
            utterance=f"{split}/{name}",
            audio=(media / file).relative_to(root).as_posix(),
            text=row["Utterance"],
            speaker=row["Speaker"],
            gender=GENDERS.get(row["Speaker"]),
            dialogue=f"{split}/dia{dialogue}",
            turn=int(turn),
            emotion=row["Emotion"],
            split=split,
            attributes={column: row[column] for column in ("Season", "Episode", "Sentiment")},
        )


def _find(root: Path, name: str) -> list[Path]:
    """Return files or folders with this name in `root` or up to two folders below; the shallowest come first."""
    return [path for pattern in (name, f"*/{name}", f"*/*/{name}") for path in find(root, pattern)]


CORPUS = Corpus(
    title="MELD",
    layout="train_sent_emo.csv, train_splits/dia0_utt0.mp4, dev_splits_complete/, output_repeated_splits_test/",
    licence="GPL-3.0-only",
    source="https://affective-meld.github.io",
    # the media archive has older tables, with control characters in place of quotation marks
    archives={"media": Archive(url=_MEDIA, md5=None)}
    | {f"{split}-table": Archive(url=f"{_TABLES}/{split}_sent_emo.csv", md5=None) for split in SPLITS},
    language="en",
    read=read,
    labels={"neutral": "neutral", "joy": "happy", "sadness": "sad", "anger": "angry"}
    | {"surprise": "surprise", "fear": "fear", "disgust": "disgust"},
    counts={"clips": 13708, "train": 9989, "dev": 1109, "test": 2610, "speakers": 304}
    | {"neutral": 6436, "joy": 2308, "sadness": 1002, "anger": 1607, "surprise": 1636, "fear": 358, "disgust": 361},
    faults={
        "train/dia125_utt3": "cannot be decoded",
        "train/dia309_utt0": "cut wrongly, 41 s long",
        "dev/dia110_utt7": "missing",
        "test/dia38_utt4": "cut wrongly, 305 s long",
        "test/dia220_utt0": "cut wrongly, 235 s long",
    },
)
