"""Pairs of clips in which a speaker says the same words in two emotions: does the model's choice follow the emotion?

Speaker and words are the same, so only the way of speaking differs. The choice is that of own answers, less the mean.
Pairs are never listed: a speaker with many takes has very many. They are counted by group, which is a speaker's clips
of one sentence. If the emotions of a group have the sums a_e, the products of all pairs of emotions sum to

    sum over e < f of a_e a_f  =  ((sum of a_e)^2 - sum of a_e^2) / 2
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import intervals
from evaluate.intervals import Floats, Ints
from evaluate.metrics import DIGITS, Metrics, bounded
from evaluate.own_answers import TIE_NATS, Clips, less_mean, select_clips
from evaluate.predictions import OWN_BASELINES

COUNTERFACTUAL = "counterfactual_"
"""Prefix of the test names; the corpus follows."""
SYSTEMS = ("voice", "silence", "stage1", "told_true", "told_head", *OWN_BASELINES, "prompted_head", "prompted_true")


def score_counterfactuals(table: pa.Table, emotions: Sequence[str], confidence: float) -> Metrics:
    """Score the systems on every corpus of own answers in which a speaker says the same words in two emotions.

    `changes` is the share of pairs whose choices differ, and `toward` the share of pairs in which both choices are
    right. Chance is a guess among the different continuations, for each clip anew.
    """
    metrics: Metrics = {}
    for corpus in sorted(table["corpus"].unique().to_pylist()):
        rows = table.filter(pc.field("corpus") == corpus)
        by_system = {name: select_clips(rows, name, emotions) for name in SYSTEMS}
        groups = _Groups(by_system["voice"])
        if not groups.num_pairs.any():
            continue
        candidates = np.stack(rows.filter(pc.field("system") == "voice").sort_by("id")["candidates"].to_numpy())
        test = metrics[COUNTERFACTUAL + corpus] = {"chance": _chance(groups, candidates)}
        for name, clips in by_system.items():
            if len(clips.truth):
                test[name] = _score(groups, less_mean(clips)[0], confidence)
    return metrics


class _Groups:
    """The clips of a speaker and a sentence; the clips are those of one system, in the order of their ids."""

    def __init__(self, clips: Clips) -> None:
        speakers = np.unique(clips.speakers, return_inverse=True)[1]
        first, codes = np.unique(
            np.stack([speakers, clips.texts], axis=1), axis=0, return_index=True, return_inverse=True
        )[1:]
        self.of_clip: Ints = codes.ravel()
        self.speakers = [clips.speakers[clip] for clip in first.tolist()]
        self.truth, self.shape = clips.truth, (len(first), clips.scores.shape[1])
        self.num_pairs = self.products(np.ones(len(clips.truth)))

    def products(self, values: Floats) -> Floats:
        """Sum the products of the values of all pairs of clips of two emotions, for each group."""
        sums = np.zeros(self.shape)
        np.add.at(sums, (self.of_clip, self.truth), values)
        products: Floats = (sums.sum(axis=1) ** 2 - (sums**2).sum(axis=1)) / 2
        return products

    def num_equal(self, choices: Ints) -> Floats:
        """Count the pairs of clips of two emotions that have the same choice, for each group."""
        cells, counts = np.unique(np.stack([self.of_clip, choices, self.truth], axis=1), axis=0, return_counts=True)
        same_choice, codes = np.unique(cells[:, :2], axis=0, return_inverse=True)
        codes = codes.ravel()
        pairs = (np.bincount(codes, counts) ** 2 - np.bincount(codes, counts.astype(float) ** 2)) / 2
        return np.bincount(same_choice[:, 0], pairs, minlength=self.shape[0]).astype(np.float64)


def _score(groups: _Groups, clips: Clips, confidence: float) -> dict[str, float]:
    top = clips.scores >= clips.scores.max(axis=1, keepdims=True) - TIE_NATS
    choices = top @ (1 << np.arange(top.shape[1]))  # equal continuations are chosen together
    right = clips.chosen()[np.arange(len(clips.truth)), clips.truth]
    hits = {"changes": groups.num_pairs - groups.num_equal(choices), "toward": groups.products(right)}
    has_pair = groups.num_pairs > 0
    speakers = [speaker for speaker, has in zip(groups.speakers, has_pair.tolist(), strict=True) if has]
    by = intervals.by_speaker_or_row(speakers)
    found: dict[str, float] = {}
    for name, of_group in hits.items():
        pairs = np.stack([of_group, groups.num_pairs], axis=1)[has_pair]
        sums = intervals.sum_by_cluster(pairs, by)
        found |= bounded(name, intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest=0, highest=1)
    found = {name: round(float(value), DIGITS) for name, value in found.items()}
    return found | {"pairs": int(groups.num_pairs.sum()), "speakers": by.num_speakers}


def _chance(groups: _Groups, candidates: Ints) -> dict[str, float]:
    """Return the metrics of a guess; `candidates` (n, K) numbers the different continuations of a clip's sentence."""
    num_candidates = candidates.max(axis=1) + 1
    own = candidates[np.arange(len(candidates)), groups.truth]
    shared_by = (candidates == own[:, np.newaxis]).sum(axis=1)
    total = groups.num_pairs.sum()
    num_of_group = np.zeros(groups.shape[0])
    num_of_group[groups.of_clip] = num_candidates  # the clips of a group have the same sentence
    changes = (groups.num_pairs * (1 - 1 / num_of_group)).sum() / total
    toward = groups.products(1 / (num_candidates * shared_by)).sum() / total
    return {"changes": round(float(changes), DIGITS), "toward": round(float(toward), DIGITS)}
