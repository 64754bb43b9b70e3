"""Compare two runs, or two systems of a run, on the same test clips."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from evaluate.comparison import Comparison, Difference, Side, compare_divergence, compare_recognition
from evaluate.predictions import BASELINES, CONDITIONS, SYSTEMS, VOICE, read_divergence, read_recognition
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import lay_out, lay_out_record, signed
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS

SYSTEM_NAMES = tuple(system.name for system in (*SYSTEMS, *BASELINES))
DEFAULT = (*(system.name for system in SYSTEMS if system.given == VOICE), "after")
"""What two runs are compared in: the trained model with the right clip."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All comparisons, by systems and corpus."""

    margin: float | None
    comparisons: list[Comparison]


def read_pairs(systems: str | None, *, one_run: bool) -> list[Pair]:
    """Return the systems of A and B to compare; raises UserError if there are no such ones."""
    if systems is None and not one_run:
        return [(name, name) for name in DEFAULT]
    names = [name.strip() for name in (systems or "").split(",") if name.strip()]
    for name in names:
        if name not in SYSTEM_NAMES + CONDITIONS:
            raise UserError(f"--systems: found {name}, expected names of {', '.join(SYSTEM_NAMES + CONDITIONS)}")
    if one_run and len(set(names)) != 2:
        found = f"found {', '.join(names) or 'nothing'}"
        raise UserError(f"--systems: {found}, expected two different names if there is only one folder")
    if len(names) not in (1, 2) or len({name in CONDITIONS for name in names}) > 1:
        expected = f"one or two names, both of {', '.join(SYSTEM_NAMES)} or both of {', '.join(CONDITIONS)}"
        raise UserError(f"--systems: found {', '.join(names) or 'nothing'}, expected {expected}")
    return [(names[0], names[-1])]


def compare(a: Path, b: Path, pairs: list[Pair], margin: float | None) -> Iterator[Comparison]:
    """Compare each pair of systems on every corpus; raises UserError if the rows of the two folders do not match."""
    tasks = (
        (
            SYSTEM_NAMES,
            "emotion/recognition.parquet",
            partial(read_recognition, emotions=EMOTIONS),
            compare_recognition,
        ),
        (CONDITIONS, "semantic/divergence.parquet", read_divergence, compare_divergence),
    )
    for names, file, read, compare_systems in tasks:
        chosen = [pair for pair in pairs if pair[0] in names]
        tables = {folder: read(folder / file) for folder in {a, b} if chosen}
        for name_a, name_b in chosen:
            side_a, side_b = Side(a / file, name_a, tables[a]), Side(b / file, name_b, tables[b])
            yield from compare_systems(side_a, side_b, margin)


def describe(found: Comparisons) -> str:
    """Lay out each comparison: what is compared, the verdict, and a table of the scores."""
    return "\n\n".join(f"{_describe_facts(one)}\n\n{_describe_scores(one.scores)}" for one in found.comparisons)


def _describe_facts(one: Comparison) -> str:
    size = f"{one.clips:,} clip{'s' * (one.clips != 1)} of {one.speakers:,} speaker{'s' * (one.speakers != 1)}"
    return lay_out_record(
        one.corpus,
        {
            "A": one.a,
            "B": one.b,
            "rows": f"{size}; their smallest possible p is {one.smallest_p:.3g}",
            "verdict": one.verdict,
        },
    )


def _describe_scores(scores: list[Difference]) -> str:
    has_margin = scores[0].equivalence_p is not None
    header = ["score", "A", "B", "B - A", "low", "high", "p", *(["p of equivalence"] * has_margin)]
    rows = [
        [
            one.score,
            f"{one.a:.3f}",
            f"{one.b:.3f}",
            *("none" if value is None else signed(value, 3) for value in (one.difference, one.low, one.high)),
            f"{one.p:.3g}",
            *([] if one.equivalence_p is None else [f"{one.equivalence_p:.3g}"]),
        ]
        for one in scores
    ]
    return lay_out([header, *rows])


def main(
    a: Annotated[Path, typer.Argument(help="Predictions of a run, such as results/predictions.", show_default=False)],
    b: Annotated[Path | None, typer.Argument(help="Predictions of another run; without it, those of A.")] = None,
    systems: Annotated[
        str | None, typer.Option(help="System of A and system of B, with a comma; or one of both.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Also test whether the difference is smaller than this.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, or two systems of a run, on the same clips.

    \b
    compare results/predictions runs/other/results/predictions
    compare results/predictions runs/other/results/predictions --systems head
    compare results/predictions --systems transcript_logprob,logprob

    Emotion recognition has the systems head, logprob, prompted (with the
    clip), transcript_logprob, transcript_prompted, shuffled_head,
    shuffled_logprob and shuffled_prompted. The KL of stage 1 has the conditions
    before, after and shuffled. Two runs are compared in head, logprob, prompted
    and after, if --systems names nothing else. Both runs must have the same
    test rows.

    The difference is B's score minus A's, with a 95 % interval over speakers.
    p: share of all ways to swap A and B for some speakers that change the score
    at least as much (above 16 speakers: of 100,000 random ways). With n
    speakers, p cannot be below 2 / 2^n; if that is above 0.05, the speakers
    cannot decide. --margin tests equivalence by two one-sided t tests: a share
    for accuracies (0.02 is two points), nats per token for the KL.
    docs/evaluation.md explains the tests.

    \b
    JSON: margin; comparisons: corpus, a, b, clips, speakers, smallest_p,
    scores (score, a, b, difference, low, high, p, equivalence_p), verdict.
    """
    if margin is not None and not margin > 0:
        raise UserError(f"--margin: found {margin:g}, expected a number above 0")
    pairs = read_pairs(systems, one_run=b is None)
    found = Comparisons(margin, list(compare(a, b or a, pairs, margin)))
    print_found(found, describe(found), as_json)
