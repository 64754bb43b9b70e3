"""IEMOCAP: ten actors improvise and act scripts, two in each session, `Session1` to `Session5`.

A dialogue's index, `dialog/EmoEvaluation/Ses01F_impro01.txt`, lists each utterance and then the evaluators' labels.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.files import find, read_text
from pipeline.stage import UserError

_LABELS = {
    "neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry", "sur": "surprise", "fea": "fear",
    "dis": "disgust", "fru": "frustration", "oth": "other", "xxx": None, "Neutral": "neutral",
    "Neutral state": "neutral", "Happiness": "happy", "Excited": "happy", "Sadness": "sad", "Anger": "angry",
    "Surprise": "surprise", "Fear": "fear", "Disgust": "disgust", "Frustration": "frustration", "Other": "other",
}  # fmt: skip
_INDEX = "Session[1-5]/dialog/EmoEvaluation/Ses*.txt"
_HEAD = re.compile(
    r"\[(?P<start>\d+\.\d+) - \d+\.\d+\]\s+"
    r"(?P<utterance>(?P<dialogue>(?P<session>Ses0[1-5])[FM]_(?P<style>impro|script)\w+)_(?P<speaker>[FM])\d{3})\s+"
    r"(?P<emotion>\S+)\s+\[(?P<valence>-?[\d.]+), (?P<activation>-?[\d.]+), (?P<dominance>-?[\d.]+)\]\s*"
)
_VOTE = re.compile(r"C-E\d+:([^(]*)(\(.*)?")  # labels, each with a semicolon, then a remark
_PASSED_OVER = re.compile(r"%.*|A-\w+:.*|C-[FM]\w*:.*|\s*")  # C-F1 and C-M1 are the actors' own labels, not votes
_SPOKEN = re.compile(r"^ *(Ses\w+) \[.*?\]: *(.*)$", re.MULTILINE)


def read(root: Path) -> Iterator[Clip]:
    """Yield the evaluated utterances; the utterances of a dialogue are in time order."""
    for index in sorted([*find(root, _INDEX), *find(root, f"*/{_INDEX}")]):
        session = index.relative_to(root).parents[2].as_posix()
        spoken = index.parents[1] / "transcriptions" / index.name
        transcripts = dict(_SPOKEN.findall(read_text(spoken, "latin-1"))) if spoken.is_file() else {}
        evaluations = sorted(_evaluations(index), key=lambda evaluation: float(evaluation[0]["start"]))
        for turn, (head, votes) in enumerate(evaluations):
            yield Clip(
                utterance=head["utterance"],
                audio=f"{session}/sentences/wav/{head['dialogue']}/{head['utterance']}.wav",
                text=transcripts.get(head["utterance"], ""),
                speaker=head["session"] + head["speaker"],
                gender={"F": "female", "M": "male"}[head["speaker"]],
                session=head["session"],
                dialogue=head["dialogue"],
                turn=turn,
                emotion=head["emotion"],
                votes_both=votes or None,
                attributes={key: head[key] for key in ("style", "valence", "activation", "dominance")},
            )


def _evaluations(path: Path) -> list[tuple[re.Match[str], dict[str, float]]]:
    """Read utterances, sorted by speaker, with votes; several labels share a vote. Only a line feed ends a line."""
    evaluations: list[tuple[re.Match[str], dict[str, float]]] = []
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), start=1):
        if head := _HEAD.fullmatch(line):
            evaluations.append((head, defaultdict(float)))
        elif evaluations and (vote := _VOTE.fullmatch(line)):
            labels = [label.strip() for label in vote[1].split(";") if label.strip()]
            for label in labels:
                evaluations[-1][1][label] += 1 / len(labels)
        elif not _PASSED_OVER.fullmatch(line):
            raise UserError(f"{path}: line {number}: expected an utterance or an evaluator's line, found {line}")
    return evaluations


CORPUS = Corpus(
    title="IEMOCAP",
    layout="Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/sentences/wav",
    licence="LicenseRef-IEMOCAP",
    source="https://sail.usc.edu/iemocap/",
    language="en",
    read=read,
    labels=_LABELS,
    counts={"clips": 10039, "speakers": 10, "neu": 1708, "hap": 595, "exc": 1041, "sad": 1084, "ang": 1103}
    | {"sur": 107, "fea": 40, "dis": 2, "fru": 1849, "oth": 3, "xxx": 2507},
    folds={f"session-{number}": (f"Ses0{number}F", f"Ses0{number}M") for number in range(1, 6)},
)
