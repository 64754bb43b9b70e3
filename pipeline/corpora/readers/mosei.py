"""CMU-MOSEI: sentences of YouTube monologues, each rated by several viewers; in the folder Raw of the archive.

Viewers rate each of six emotions from 0 to 3. The label is the emotion with the largest sum, `neutral` if all sums are
0, and `tie` if several sums are the largest. A viewer's vote goes to the emotion with the highest rating by the same
rule, but equal emotions share it. Speakers are not published, so each video counts as one speaker. The official splits
are read from the SDK's cmu_mosei_std_folds.py at the root.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import find, read_text
from pipeline.corpora.table_rows import read_csv
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

EMOTIONS = {
    "happiness": "happy", "sadness": "sad", "anger": "angry", "fear": "fear", "disgust": "disgust",
    "surprise": "surprise",
}  # fmt: skip
SDK = (
    "CMU-MultiComp-Lab/CMU-MultimodalSDK/3e27d3781fe38b660432c7edfa7912bd0d256ee1"
    "/mmsdk/mmdatasdk/dataset/standard_datasets/CMU_MOSEI"
)
FOLDS = "cmu_mosei_std_folds.py"

_TRANSCRIPTS = "Transcript/Segmented/Combined"
_TIME = r"(-?\d+\.?\d*(?:e-\d+)?)"
_LINE = re.compile(rf"(.+?)___(\d+)___{_TIME}___{_TIME}___(.*)")  # ids may end in an underscore


def read(root: Path) -> Iterator[Clip]:
    """Yield the sentences of all transcripts; `root` is Raw, or contains Raw or CMU_MOSEI/Raw."""
    raw = next((root / name for name in ("", "Raw", "CMU_MOSEI/Raw") if (root / name / _TRANSCRIPTS).is_dir()), root)
    splits, ratings = _splits(root / FOLDS), _ratings(raw / "Labels")
    for path in find(raw, f"{_TRANSCRIPTS}/*.txt"):
        lines = enumerate(read_text(path).split("\n"), start=1)
        for number, line in ((number, line) for number, line in lines if line.strip()):
            match = _LINE.fullmatch(line)
            if match is None:
                raise UserError(f"{path}: line {number}: expected ID___CLIP___START___END___TEXT, found {line[:40]!r}")
            video, clip, start, end, text = match.groups()
            start_s, end_s = max(0.0, float(start)), float(end)  # some start just before 0
            emotion, votes = _label(ratings.get((video, clip), []))
            yield Clip(
                utterance=f"{video}_{clip}",
                audio=(raw / "Audio/Full/WAV_16000" / f"{video}.wav").relative_to(root).as_posix(),
                text=text,
                speaker=video,
                start_s=start_s,
                duration_s=end_s - start_s,
                dialogue=video,
                turn=int(clip),
                emotion=emotion,
                votes_both=votes,
                split=splits.get(video),
                fault=Fault("too-short", f"from {start} s to {end} s") if end_s <= start_s else None,
            )


def _label(ratings: Sequence[Sequence[int]]) -> tuple[str | None, dict[str, float] | None]:
    """Return the label and the votes that follow from the viewers' ratings."""
    if not ratings:
        return None, None
    votes: dict[str, float] = defaultdict(float)
    for strongest in map(_strongest, ratings):
        for emotion in strongest:
            votes[emotion] += 1 / len(strongest)
    overall = _strongest([sum(intensities) for intensities in zip(*ratings, strict=True)])
    return overall[0] if len(overall) == 1 else "tie", dict(votes)


def _strongest(intensities: Sequence[int]) -> list[str]:
    largest = max(intensities)
    pairs = zip(EMOTIONS, intensities, strict=True)
    return [emotion for emotion, intensity in pairs if intensity == largest] if largest else ["neutral"]


def _ratings(folder: Path) -> dict[tuple[str, str], list[list[int]]]:
    """Read the viewers' ratings by video and clip; leave out viewers who did not rate every emotion."""
    columns = [f"Answer.{emotion}" for emotion in EMOTIONS]
    ratings = defaultdict(list)
    for path in find(folder, "*.csv"):
        for line, row in read_csv(path, ["Input.VIDEO_ID", "Input.CLIP", *columns]):
            answers = [row[column] for column in columns]
            video = row["Input.VIDEO_ID"].rpartition("/")[2]  # some are folder/id
            if not all(answer.isdecimal() for answer in answers if answer):
                found = f"{', '.join(answers)} (clip {video}_{row['Input.CLIP']})"
                raise UserError(f"{path}: row {line}: expected ratings from 0 to 3, found {found}")
            if all(answers):
                ratings[video, row["Input.CLIP"]].append(list(map(int, answers)))
    return ratings


def _splits(path: Path) -> dict[str, str]:
    """Read the official split of each video from three lists in Python code."""
    if not path.is_file():
        return {}
    splits: dict[str, str] = {}
    for name, split in {"train": "train", "valid": "dev", "test": "test"}.items():
        videos = re.search(rf"standard_{name}_fold\s*=\s*\[([^]]*)\]", read_text(path))
        if videos is None:
            raise UserError(f"{path}: expected the list standard_{name}_fold, found no complete one")
        splits |= dict.fromkeys(re.findall(r"'([^']+)'", videos[1]), split)
    return splits


CORPUS = Corpus(
    title="CMU-MOSEI",
    layout="Raw/Transcript/Segmented/Combined/ID.txt with Raw/Audio/Full/WAV_16000/ID.wav and Raw/Labels/*.csv",
    licence="LicenseRef-CMU-MOSEI",
    source="http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset/",
    archives={
        "raw": Archive(url="http://immortal.multicomp.cs.cmu.edu/raw_datasets/CMU_MOSEI.zip", md5=None),
        "parts": Archive(url=f"https://raw.githubusercontent.com/{SDK}/{FOLDS}", md5=None),
    },
    language="en",
    read=read,
    # no counts: not every sentence of the transcripts is rated; 23,453 rated ones are published
    labels={"neutral": "neutral", "tie": None, **EMOTIONS},
)
