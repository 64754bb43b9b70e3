"""Paired comparisons behind the claims of the report: is system A better than system B on the same clips?

The interval of one system cannot answer this: two intervals may overlap although A is better for every speaker. So the
difference is computed on the same clips, with its interval over speakers (evaluate/intervals.py), and tested by swaps
of A and B for whole speakers (evaluate/paired.py). Such a test also says what a number of speakers cannot show:
`smallest_p`.

Chance counts as a system that predicts each emotion of the test clips with the same share. Its test is a sign-flip test
of the speakers' distances from chance, which assumes that these are symmetric around 0 if the system is at chance.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import confusions, intervals, paired
from evaluate.intervals import Floats, Ints, Statistic
from evaluate.metrics import CONTINUATION_KL, DIGITS, EMOTION, Metrics, bounded, kl_and_tokens, label_codes
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS, less_mean, select_clips
from pipeline.stage import UserError

CLAIMS = "claims_"
"""Prefix of the test names; the name of the test whose systems are compared follows."""
CHANCE = "chance"

RECOGNITION_PAIRS = (
    ("head", CHANCE), ("head", "transcript_logprob"), ("head", "probe"), ("logprob", CHANCE),
    ("logprob", "transcript_logprob"), ("logprob", "silence_logprob"), ("logprob", "heard_logprob"),
)  # fmt: skip
OWN_PAIRS = (
    *(("voice", other) for other in (CHANCE, "transcript", "silence", "stage1", "told_head", "heard_told_head")),
    *(("prompted_head", other) for other in (CHANCE, "prompted_even", "told_head", "voice")),
)
"""System A, system B; a pair without rows of both is left out."""
WRONG_CLIP_PAIR = ("prompted_head", "shuffled_prompted_head")
"""A pair that is compared on the clips for which there is a wrong clip."""


def compare_systems(
    recognised: pa.Table, divergence: pa.Table, own: pa.Table | None, emotions: Sequence[str], confidence: float
) -> Metrics:
    """Make all comparisons of a run; `own` are the scores of told continuations, if there are any."""
    found = compare_recognition(recognised, emotions, confidence) | compare_divergence(divergence, confidence)
    return found if own is None else found | compare_own_answers(own, emotions, confidence)


def compare_recognition(table: pa.Table, emotions: Sequence[str], confidence: float) -> Metrics:
    """Compare the unweighted accuracy of systems of emotion recognition on every corpus."""
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(table):
        of_system = _systems(rows, RECOGNITION_PAIRS)
        speakers, (truth, _) = of_system["head"]["speaker"].to_pylist(), label_codes(of_system["head"], emotions)
        size = len(emotions)
        shares = {
            name: np.eye(size + 1)[label_codes(some, emotions)[1]] for name, some in of_system.items()
        }  # -1, no emotion, is the last column
        metrics[CLAIMS + EMOTION + corpus] = _compare_shares(RECOGNITION_PAIRS, shares, speakers, truth, confidence)
    return metrics


def compare_own_answers(table: pa.Table, emotions: Sequence[str], confidence: float) -> Metrics:
    """Compare the unweighted accuracy, less the mean, of systems of own answers: all, seen and new words."""
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(table):
        seen = rows["seen_words"]
        subsets = {OWN_ANSWERS: rows, SEEN_WORDS: rows.filter(seen), NEW_WORDS: rows.filter(pc.invert(seen))}
        for prefix, some in subsets.items():
            if some.num_rows == 0:
                continue
            found = _compare_choices(some, OWN_PAIRS, emotions, confidence)
            has_wrong = some["id"].filter(pc.equal(some["system"], WRONG_CLIP_PAIR[1]))
            with_wrong = some.filter(pc.is_in(some["id"], value_set=has_wrong))
            if with_wrong.num_rows:
                found |= _compare_choices(with_wrong, [WRONG_CLIP_PAIR], emotions, confidence)
            metrics[CLAIMS + prefix + corpus] = found
    return metrics


def _compare_choices(
    rows: pa.Table, pairs: Sequence[tuple[str, str]], emotions: Sequence[str], confidence: float
) -> dict[str, dict[str, float]]:
    """Compare what pairs of systems of own answers choose, less the mean, on the clips of one corpus."""
    clips = {name: less_mean(select_clips(rows, name, emotions))[0] for name in _systems(rows, pairs)}
    first = next(iter(clips.values()))
    shares = {name: each.chosen() for name, each in clips.items()}
    return _compare_shares(pairs, shares, first.speakers, first.truth, confidence)


def compare_divergence(table: pa.Table, confidence: float) -> Metrics:
    """Compare the KL of stage 1 with a wrong clip and with the right one, on every corpus."""
    metrics: Metrics = {}
    for corpus, rows in _by_corpus(table):
        wrong, right = (rows.filter(pc.field("condition") == name).sort_by("id") for name in ("shuffled", "after"))
        right = right.filter(pc.is_in(right["id"], wrong["id"]))
        if wrong.num_rows == 0:
            continue
        by = intervals.by_speaker(wrong["speaker"].to_pylist())
        a, b = (intervals.sum_by_cluster(kl_and_tokens(some), by) for some in (wrong, right))
        found = _difference(a, b, intervals.ratio, a[:, 1], wrong.num_rows, confidence)
        metrics[CLAIMS + CONTINUATION_KL + corpus] = {"shuffled_minus_after": found}
    return metrics


def _compare_shares(
    pairs: Sequence[tuple[str, str]],
    shares: Mapping[str, Floats],
    speakers: Sequence[str],
    truth: Ints,
    confidence: float,
) -> dict[str, dict[str, float]]:
    """Compare pairs of systems; `shares` (clips, classes) is what each system predicts, in the order of the clips."""
    by = intervals.by_speaker(speakers)
    width = next(iter(shares.values())).shape[1]
    present = np.isin(np.arange(width), truth)
    everything = {**shares, CHANCE: np.tile(present / present.sum(), (len(truth), 1))}
    sums = {name: np.zeros((by.count, width, width)) for name in everything}
    for name, share in everything.items():
        np.add.at(sums[name], (by.codes, truth), share)
    clips = np.bincount(by.codes).astype(np.float64)
    return {
        f"{a}_minus_{b}": _difference(sums[a], sums[b], confusions.unweighted_accuracy, clips, len(truth), confidence)
        for a, b in pairs
        if a in sums and b in sums
    }


def _systems(rows: pa.Table, pairs: Sequence[tuple[str, str]]) -> dict[str, pa.Table]:
    """Return the rows of each system of the pairs, by id; raises UserError if they are not of the same clips."""
    names = dict.fromkeys(name for pair in pairs for name in pair)
    found = {name: rows.filter(pc.field("system") == name).sort_by("id") for name in names}
    found = {name: some for name, some in found.items() if some.num_rows}
    first, *others = found.items()
    for name, some in others:
        if not some["id"].equals(first[1]["id"]):
            numbers = f"{some.num_rows:,} clips of {name} and {first[1].num_rows:,} of {first[0]}"
            raise UserError(f"{rows['corpus'][0]}: found {numbers}, expected the same clips of both")
    return found


def _by_corpus(table: pa.Table) -> list[tuple[str, pa.Table]]:
    return [
        (corpus, table.filter(pc.field("corpus") == corpus)) for corpus in sorted(table["corpus"].unique().to_pylist())
    ]


def _difference(
    a: Floats, b: Floats, statistic: Statistic, sizes: Floats, num_clips: int, confidence: float
) -> dict[str, float]:
    """Return A minus B with its interval and p values, from sums (speakers, *columns) over the same clips."""
    both = np.stack([a, b], axis=1)
    axis = 1 - both.ndim  # of A and B, also where the speakers are summed

    def a_minus_b(sums: Floats) -> Floats:
        of_a, of_b = np.moveaxis(sums, axis, 0)
        return statistic(of_a) - statistic(of_b)

    found = bounded("difference", intervals.estimate(both, a_minus_b, sizes), confidence)
    test = paired.swap_test(a, b, statistic)
    values = {**found, "p": test.p, "smallest_p": test.smallest_p}
    return {name: round(value, DIGITS) for name, value in values.items()} | {"n": num_clips, "speakers": len(a)}
