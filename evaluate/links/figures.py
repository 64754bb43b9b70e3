"""The figures of the links: unweighted accuracies with intervals over speakers, for trained and for other words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import confusions, intervals
from evaluate.intervals import Ints
from evaluate.links.clips import TRAINED_WORDS, WORDS, Clips
from evaluate.links.path import HEAD, LABEL, OWN, PROMPTED, Link
from evaluate.metrics import DIGITS, EMOTION, bounded, score_recognition
from evaluate.own_answers import NEW_WORDS, SEEN_WORDS, score_own_answers
from evaluate.predictions import read_own_answers, read_recognition
from pipeline.stage import UserError

if TYPE_CHECKING:
    from evaluate.links.probes import Probe

_SYSTEMS = {"head": HEAD, "logprob": LABEL, "prompted": PROMPTED}

SCHEMA = pa.schema(
    [
        ("corpus", pa.string()),
        ("words", pa.string()),  # words of the training, or other words
        ("link", pa.string()),
        ("layer", pa.int32()),  # number of layers that the states have passed; null if the link has none
        ("ua", pa.float64()),  # unweighted accuracy on test clips; null without clips
        ("ua_low", pa.float64()),  # bounds of its interval over speakers; null for a single clip
        ("ua_high", pa.float64()),
        ("chance", pa.float64()),  # 1 / number of emotions of these clips
        (
            "control",
            pa.float64(),
        ),  # mean UA of the same probe after permutations of labels within speakers; null without one
        ("choice_ua", pa.float64()),  # UA on the clips that chose the regularisation; null without a probe
        ("strength", pa.float64()),  # the chosen regularisation, scikit-learn's C; null without a probe
        ("clips", pa.int32()),
        ("speakers", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The figure of a link on clips of a corpus: SCHEMA says what the values are."""

    corpus: str
    words: str
    link: str
    layer: int | None
    ua: float | None = None
    ua_low: float | None = None
    ua_high: float | None = None
    chance: float | None = None
    control: float | None = None
    choice_ua: float | None = None
    strength: float | None = None
    clips: int = 0
    speakers: int = 0

    @property
    def place(self) -> Link:
        """The link."""
        return Link(self.link, self.layer)


def probe_figures(
    links: Sequence[Link], probes: "Sequence[Probe]", test: Clips, words: Sequence[str | None], confidence: float
) -> list[Figure]:
    """Score the probes of all links on the test clips of each corpus, separately for each of WORDS.

    Clips without a transcript belong to neither.
    """
    speakers, corpora = np.array(test.column("speaker")), np.array(test.column("corpus"))
    found = []
    for corpus in sorted(set(corpora.tolist())):
        for of_words in WORDS:
            chosen = (corpora == corpus) & np.array([each == of_words for each in words])
            for link, probe in zip(links, probes, strict=True):
                scores = _score(test.labels[chosen], probe.predicted[chosen], speakers[chosen].tolist(), confidence)
                found.append(
                    Figure(
                        corpus=corpus,
                        words=of_words,
                        link=link.group,
                        layer=link.layer,
                        control=_control(test.labels[chosen], [each[chosen] for each in probe.controls]),
                        choice_ua=round(probe.choice_ua, DIGITS),
                        strength=probe.strength,
                        chance=_chance(test.labels[chosen]),
                        clips=int(chosen.sum()),
                        speakers=len(set(speakers[chosen].tolist())),
                        ua=scores.get("ua"),
                        ua_low=scores.get("ua_low"),
                        ua_high=scores.get("ua_high"),
                    )
                )
    return found


def answer_figures(
    predictions: Path, test: Clips, words: Sequence[str | None], emotions: Sequence[str], confidence: float
) -> list[Figure]:
    """Score what the model says in the tables of `evaluate.respond`, on the same clips.

    Raises UserError if a test clip is not in the tables. Own answers are left out if respond has not scored any.
    """
    file = predictions / "emotion" / "recognition.parquet"
    recognition = read_recognition(file, emotions)
    ids = test.column("id")
    known = set(recognition["id"].to_pylist())
    if missing := [each for each in ids if each not in known]:
        raise UserError(f"{file}: found no predictions for {missing[0]}, expected those of all test clips")
    own_file = predictions / "emotion" / "own_answers.parquet"
    own = read_own_answers(own_file, emotions) if own_file.is_file() else None
    found = []
    for of_words in WORDS:
        chosen = pa.array([each for each, its in zip(ids, words, strict=True) if its == of_words], pa.string())
        for test_name, systems in score_recognition(_where(recognition, chosen), emotions, confidence).metrics.items():
            corpus, chance = test_name.removeprefix(EMOTION), systems["chance"]["ua"]
            found += [
                _answer(corpus, of_words, link, systems[name], chance)
                for name, link in _SYSTEMS.items()
                if name in systems
            ]
        found += [] if own is None else _own_figures(_where(own, chosen), of_words, emotions, confidence)
    return found


def _own_figures(own: pa.Table, words: str, emotions: Sequence[str], confidence: float) -> list[Figure]:
    """Return the figures of own answers to the voice; the words are those of this command, not of respond."""
    of_voice = own.filter(pc.field("system") == "voice")
    seen = pa.array([words == TRAINED_WORDS] * len(of_voice), pa.bool_())
    of_voice = of_voice.set_column(of_voice.column_names.index("seen_words"), "seen_words", seen)
    prefix = SEEN_WORDS if words == TRAINED_WORDS else NEW_WORDS
    return [
        _answer(name.removeprefix(prefix), words, OWN, systems["voice"], systems["chance"]["ua"])
        for name, systems in score_own_answers(of_voice, emotions, confidence).metrics.items()
        if name.startswith(prefix)
    ]


def _where(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["id"], value_set=ids))


def _answer(corpus: str, words: str, link: str, scores: dict[str, float], chance: float) -> Figure:
    return Figure(
        corpus=corpus,
        words=words,
        link=link,
        layer=None,
        ua=scores["ua"],
        ua_low=scores.get("ua_low"),
        ua_high=scores.get("ua_high"),
        chance=chance,
        clips=int(scores["n"]),
        speakers=int(scores["speakers"]),
    )


def _score(truth: Ints, predicted: Ints, speakers: Sequence[str], confidence: float) -> dict[str, float]:
    if not len(truth):
        return {}
    by = intervals.by_speaker_or_row(speakers)
    num_classes = 1 + int(max(truth.max(), predicted.max()))
    counts = confusions.count_confusions(truth, predicted, num_classes, by)
    accuracy = intervals.estimate(counts, confusions.unweighted_accuracy, counts.sum(axis=(1, 2)))
    found = bounded("ua", accuracy, confidence, lowest=0, highest=1)
    return {name: round(value, DIGITS) for name, value in found.items()}


def _control(truth: Ints, predicted: Sequence[Ints]) -> float | None:
    if not len(truth):
        return None
    everyone = [""] * len(truth)
    return round(float(np.mean([_score(truth, each, everyone, 0.95)["ua"] for each in predicted])), DIGITS)


def _chance(labels: Ints) -> float | None:
    return round(1 / len(np.unique(labels)), DIGITS) if len(labels) else None
