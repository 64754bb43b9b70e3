"""The numbers of the judge: whether it passed its exam, and how empathetic it finds the answers of each system.

A reply that could not be read counts nowhere, except as a parse failure; in the exam, it is not right.

Empathy is also given as a share of a span. 0 is the LLM that reads the transcript and is told a random emotion, and 1
is the LLM that is told the true one. Both are marked on the same clips as the system. A ratio with an uncertain
denominator says nothing, so there is no share if the interval of the span holds 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from evaluate import intervals
from evaluate.intervals import Estimate, Floats
from evaluate.judge_tables import (
    COLD,
    EQUAL,
    EXAM,
    EXAM_MARKS,
    EXAM_PAIRS,
    MARKS,
    PAIRS,
    RANDOM_LABEL,
    TRUE_LABEL,
    WARM,
    read_marks,
    read_pairs,
)
from evaluate.metrics import DIGITS, Metrics, bounded
from pipeline.stage import UserError

JUDGE = "judge_"
"""Prefix of the test names; "exam" or the corpus follows."""

LEAST_RIGHT = 36
"""Pairs of the exam's 40 that a judge must get right: the smallest number whose exact 95 % interval is above 3/4.

So a judge that passes is right in more than three of four such pairs. One that guesses passes once in ten million.
"""

HIGHEST_MARK = 10


@dataclass(frozen=True, slots=True)
class Clips:
    """Means over the repeats, for the clips of one system that have any: n clips, C columns."""

    ids: npt.NDArray[np.object_]
    """Ids in order, (n)."""
    speakers: list[str]
    values: Floats
    """Means, (n, C)."""

    def where(self, is_kept: npt.NDArray[np.bool_]) -> "Clips":
        """Return some of the clips."""
        speakers = [speaker for speaker, kept in zip(self.speakers, is_kept.tolist(), strict=True) if kept]
        return Clips(self.ids[is_kept], speakers, self.values[is_kept])


def together(*systems: Clips) -> list[Clips]:
    """Return the clips that all systems have, in the same order for each."""
    common = set.intersection(*(set(clips.ids.tolist()) for clips in systems))
    return [clips.where(np.array([key in common for key in clips.ids.tolist()], bool)) for clips in systems]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamResult:
    """What a judge did in its exam."""

    right: int
    """Pairs whose better answer won in more than half of the repeats."""
    marks_right: int
    """Pairs whose better answer got the higher mean mark for empathy."""
    of: int
    """Number of pairs."""
    position_bias: float
    """Share of the first answer less that of the second among the choices; each pair is shown in both orders."""
    equal_first: float
    """Share of the first answer among the choices between equal answers."""
    equal_second: float
    parse_failures: int
    """Replies that could not be read."""
    replies: int

    @property
    def has_passed(self) -> bool:
        """Whether the judge may judge: both its choices and its marks tell the answers apart."""
        return min(self.right, self.marks_right) >= LEAST_RIGHT

    def __str__(self) -> str:
        """Describe the result in a line."""
        verdict = "passed" if self.has_passed else "failed"
        end = "" if self.has_passed else f"; expected {LEAST_RIGHT} of both, so it judges no answer"
        return (
            f"{verdict} the exam: {self.right} of {self.of} pairs right in both orders, {self.marks_right} by marks, "
            f"position bias {self.position_bias:+.2f}, {self.parse_failures:,} of "
            f"{self.replies:,} replies unreadable{end}"
        )


def grade(marks: pa.Table, pairs: pa.Table) -> ExamResult:
    """Grade the exam, from its marks and choices."""
    planted, equal = (pairs.filter(pc.equal(pairs["system"], name)) for name in (WARM, EQUAL))
    won = _outcomes(planted).group_by("id").aggregate([("win", "sum"), ([], "count_all")])
    warm, cold = together(*(_clip_means(marks, system, ["empathy"]) for system in (WARM, COLD)))
    first, second = _shares_of_places(planted)
    equal_first, equal_second = _shares_of_places(equal)
    return ExamResult(
        right=int((2 * won["win_sum"].to_numpy() > won["count_all"].to_numpy()).sum()),
        marks_right=int((warm.values > cold.values).sum()),
        of=len(won),
        position_bias=first - second,
        equal_first=equal_first,
        equal_second=equal_second,
        parse_failures=marks["empathy"].null_count + pairs["choice"].null_count,
        replies=len(marks) + len(pairs),
    )


def score_judgements(folder: Path, confidence: float) -> Metrics:
    """Score the tables of the stage judge; a run without a judge has no scores, and a judge that failed only its exam.

    Raises UserError if a corpus has the name of the exam.
    """
    exam_marks, exam_pairs = read_marks(folder / EXAM_MARKS), read_pairs(folder / EXAM_PAIRS)
    if not len(exam_pairs):
        return {}
    result = grade(exam_marks, exam_pairs)
    metrics: Metrics = {JUDGE + EXAM: _exam_metrics(result, exam_marks)}
    if not result.has_passed:
        return metrics
    marks, pairs = read_marks(folder / MARKS), read_pairs(folder / PAIRS)
    for corpus in sorted(marks["corpus"].unique().to_pylist()):
        if corpus == EXAM:
            raise UserError(f"{folder / MARKS}: found a corpus {EXAM}, expected another name: the exam has this one")
        own = [table.filter(pc.equal(table["corpus"], corpus)) for table in (marks, pairs)]
        metrics[JUDGE + corpus] = _score(own[0], own[1], confidence)
    return metrics


def describe(metrics: Metrics) -> str:
    """Describe the scores of the judge in a line: empathy by corpus and system, or why there is none."""
    exam = metrics[JUDGE + EXAM][EXAM]
    if not exam["passed"]:
        return (
            f"the judge got {exam['right']} (choices) and {exam['marks_right']} (marks) of {exam['of']} pairs of its "
            f"exam right, expected {LEAST_RIGHT}, so there is no figure of empathy"
        )
    lines = []
    for name, scores in metrics.items():
        if name == JUDGE + EXAM:
            continue
        marks = [
            f"{system} {of['empathy']:.2f}" for system, of in scores.items() if system != "span" and "empathy" in of
        ]
        span = scores.get("span", {})
        unsure = "" if span.get("empathy_low", 0) > 0 else "; no shares, because the interval of the span holds 0"
        lines.append(f"{name} {', '.join(marks)}{unsure}")
    return f"empathy of 10: {'; '.join(lines)}" if lines else "the judge passed its exam, but no clip had answers"


def _exam_metrics(result: ExamResult, marks: pa.Table) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {
        EXAM: {
            "passed": int(result.has_passed),
            **_rounded(asdict(result)),
        }
    }
    for system in (WARM, COLD):
        of_system = marks.filter(pc.equal(marks["system"], system))
        means = {name: pc.mean(of_system[name]).as_py() for name in ("quality", "empathy")}
        found[system] = {name: round(mean, DIGITS) for name, mean in means.items() if mean is not None}
    return found


def _score(marks: pa.Table, pairs: pa.Table, confidence: float) -> dict[str, dict[str, float]]:
    """Return the metrics of each system on clips of one corpus, and the span of empathy between the bounds."""
    means = {
        name: _clip_means(marks, name, ["quality", "empathy"]) for name in sorted(set(marks["system"].to_pylist()))
    }
    span = span_of(means[RANDOM_LABEL], means[TRUE_LABEL])
    scores: dict[str, dict[str, float]] = {}
    if span is not None:
        scores["span"] = _rounded(bounded("empathy", span, confidence, -HIGHEST_MARK, HIGHEST_MARK))
    has_share = span is not None and span.interval(confidence).low > 0
    for system, clips in means.items():
        compared = pairs.filter(pc.equal(pairs["system"], system))
        mine = marks.filter(pc.equal(marks["system"], system))
        unread = mine["empathy"].null_count + compared["choice"].null_count
        found = {"n": len(clips.ids), "speakers": len(set(clips.speakers)), "parse_failures": unread}
        found |= _mean("quality", clips.speakers, clips.values[:, 0], confidence, 0, HIGHEST_MARK)
        found |= _mean("empathy", clips.speakers, clips.values[:, 1], confidence, 0, HIGHEST_MARK)
        if has_share and len(clips.ids) and system not in (RANDOM_LABEL, TRUE_LABEL):
            found |= bounded("share", share_of(clips, means[RANDOM_LABEL], means[TRUE_LABEL]), confidence)
        scores[system] = _rounded(found | _comparison(compared, system, confidence))
    return scores


def span_of(random: Clips, true: Clips) -> Estimate | None:
    """Return the mean empathy for the true label less that for a random one, on their common clips; None without any.

    Empathy is the last column of the values.
    """
    random, true = together(random, true)
    if not len(true.ids):
        return None
    by = intervals.by_speaker_or_row(true.speakers)
    columns = np.stack([true.values[:, -1] - random.values[:, -1], np.ones(len(true.ids))], axis=1)
    sums = intervals.sum_by_cluster(columns, by)
    return intervals.estimate(sums, intervals.ratio, sums[:, 1])


def share_of(system: Clips, random: Clips, true: Clips) -> Estimate:
    """Return a system's share of the span between the bounds, on the clips that all three have."""
    each = together(system, random, true)
    by = intervals.by_speaker_or_row(each[0].speakers)
    columns = np.stack([*(clips.values[:, -1] for clips in each), np.ones(len(each[0].ids))], axis=1)
    sums = intervals.sum_by_cluster(columns, by)
    return intervals.estimate(sums, _share, sums[:, 3])


def _share(sums: Floats) -> Floats:
    return np.asarray((sums[..., 0] - sums[..., 1]) / (sums[..., 2] - sums[..., 1]))


def _mean(
    name: str, speakers: Sequence[str], values: Floats, confidence: float, lowest: float, highest: float
) -> dict[str, float]:
    """Return the mean of the clips' values and its interval; nothing without clips."""
    if not len(values):
        return {}
    by = intervals.by_speaker_or_row(speakers)
    sums = intervals.sum_by_cluster(np.stack([values, np.ones(len(values))], axis=1), by)
    return bounded(name, intervals.estimate(sums, intervals.ratio, sums[:, 1]), confidence, lowest, highest)


def _comparison(pairs: pa.Table, system: str, confidence: float) -> dict[str, float]:
    """Return how often a system wins, ties and loses against the random label, and its wins less its losses."""
    clips = _clip_means(_outcomes(pairs), system, ["win", "tie", "loss"])
    if not len(clips.ids):
        return {}
    shares = dict(zip(("win", "tie", "loss"), clips.values.mean(axis=0).tolist(), strict=True))
    return shares | _mean("net", clips.speakers, clips.values[:, 0] - clips.values[:, 2], confidence, -1, 1)


def _outcomes(pairs: pa.Table) -> pa.Table:
    """Return win, tie and loss (1 or 0) of each comparison; it is won or lost only if both orders agree.

    All three are null if one of the two replies could not be read.
    """
    is_mine = pc.equal(pc.equal(pairs["choice"], "A"), pairs["is_first"])
    vote = pc.if_else(pc.equal(pairs["choice"], "tie"), 0, pc.if_else(is_mine, 1, -1))
    both = (
        pairs.append_column("vote", pc.cast(vote, pa.int64()))
        .group_by(["system", "id", "speaker", "repeat"], use_threads=False)
        .aggregate([("vote", "sum", pc.ScalarAggregateOptions(skip_nulls=False))])
    )
    votes = both["vote_sum"]
    found = {"win": pc.equal(votes, 2), "tie": pc.less(pc.abs(votes), 2), "loss": pc.equal(votes, -2)}
    for name, column in found.items():
        both = both.append_column(name, pc.cast(column, pa.int64()))
    return both


def _clip_means(rows: pa.Table, system: str, columns: Sequence[str]) -> Clips:
    """Return the means of a system's columns over the repeats that have a value."""
    rows = rows.filter(pc.equal(rows["system"], system))
    grouped = rows.group_by(["id", "speaker"], use_threads=False).aggregate([(name, "mean") for name in columns])
    means = grouped.filter(pc.is_valid(grouped[f"{columns[0]}_mean"])).sort_by("id")
    values = np.stack([means[f"{name}_mean"].to_numpy() for name in columns], axis=1)
    return Clips(means["id"].to_numpy(), means["speaker"].to_pylist(), values)


def _shares_of_places(pairs: pa.Table) -> tuple[float, float]:
    """Return the shares of the first and the second answer among the choices that could be read."""
    read = pairs["choice"].drop_null()
    counts = [pc.sum(pc.equal(read, place), min_count=0).as_py() for place in ("A", "B")]
    first, second = (count / max(len(read), 1) for count in counts)
    return first, second


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in scores.items()}
