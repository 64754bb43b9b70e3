"""Write the report: one self-contained page that shows the results and their uncertainty."""

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from evaluate import training_curves
from evaluate.metrics import CONFUSION_SYSTEMS, CONTINUATION_KL, EMOTION, Confusions, Metrics, ScoreParams
from evaluate.output import write_text
from evaluate.predictions import GIVEN, PROMPTED, SYSTEMS, read_examples
from evaluate.report import plots
from evaluate.report.own_answers import GIVEN as OWN_GIVEN
from evaluate.report.own_answers import WORDS, own_answers_protocols
from evaluate.report.verdict import (
    Verdict,
    bounds,
    describe_intervals,
    describe_speakers,
    emotion_verdict,
    hearing_verdict,
    signed,
)
from evaluate.training_curves import ALIGNMENTS
from pipeline.params import Alignment, ParamsFile, Section, load
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import manifest, parquet
from pipeline.tables.continuations import DROPPED_SCHEMA, KEPT_SCHEMA, LENGTH
from pipeline.tables.emotions import read_classes

Manifests = Mapping[Alignment, pa.Table]
"""alignment -> manifest"""

TEMPLATE = Path(__file__).with_name("report.html.jinja")


class ReportParams(Section):
    """The settings of the page."""

    title: str


@dataclass(frozen=True, slots=True)
class SplitSize:
    """The size of one split of one corpus in the manifest of a training stage."""

    kind: str
    corpus: str
    split: str
    clips: int
    hours: float
    speakers: int


@dataclass(frozen=True, slots=True)
class Continuations:
    """The numbers of kept and dropped continuations of a training stage.

    `echo_share` and `truncated_share` are computed over the kept continuations.
    """

    kind: str
    kept: int
    dropped: list[tuple[str, int]]
    echo_share: float
    truncated_share: float
    engines: list[str]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The scores of one task on one corpus, with their verdict and their figures."""

    corpus: str
    verdict: Verdict
    intervals: str
    speakers: str
    absent: list[str]
    """The emotions of no test clip."""
    scores: dict[str, dict[str, float]]
    figures: dict[str, Markup]


def summarise_splits(kind: str, rows: pa.Table) -> list[SplitSize]:
    """Count clips, hours and speakers of each corpus and split."""
    grouped = rows.group_by(["corpus", "split"]).aggregate(
        [("id", "count"), ("duration_s", "sum"), ("speaker", "count_distinct")]
    )
    splits = [
        SplitSize(
            kind=kind,
            corpus=row["corpus"],
            split=row["split"],
            clips=row["id_count"],
            hours=row["duration_s_sum"] / 3600,
            speakers=row["speaker_count_distinct"],
        )
        for row in grouped.to_pylist()
    ]
    return sorted(splits, key=lambda size: (size.corpus, manifest.SPLITS.index(size.split)))


def summarise_continuations(kind: str, kept: pa.Table, dropped: pa.Table) -> Continuations:
    """Count the kept continuations, and the dropped ones by reason; compute the shares of the kept ones."""
    reasons = Counter(dropped["reason"].to_pylist()).most_common()
    return Continuations(
        kind=kind,
        kept=kept.num_rows,
        dropped=sorted(reasons, key=lambda pair: (-pair[1], pair[0])),
        echo_share=pc.mean(kept["echo"]).as_py(),
        truncated_share=pc.mean(pc.equal(kept["finish_reason"], LENGTH).cast(pa.float64())).as_py(),
        engines=sorted(set(kept["engine"].to_pylist())),
    )


def texts_are_neutral(rows: pa.Table) -> bool:
    """Return whether every sentence is spoken in every emotion, so that the words do not reveal the emotion."""
    spoken: dict[str, set[str]] = {}
    for text, emotion in zip(rows["text"].to_pylist(), rows["emotion"].to_pylist(), strict=True):
        spoken.setdefault(text, set()).add(emotion)
    every = set(rows["emotion"].to_pylist())
    return len(every) > 1 and all(emotions == every for emotions in spoken.values())


def emotion_protocols(
    metrics: Metrics, confusions: Confusions, rows: Manifests, emotions: Sequence[str], percent: str
) -> list[Protocol]:
    """Describe and draw the emotion recognition on each corpus."""
    protocols = []
    for corpus, scores in _of_kind(metrics, EMOTION).items():
        test_rows = rows["emotion"].filter((pc.field("corpus") == corpus) & (pc.field("split") == "test"))
        neutral = texts_are_neutral(test_rows)
        figures = {"accuracies": plots.draw_accuracies(scores)} | {
            system: plots.draw_confusion(np.array(confusions[corpus][system]), emotions) for system in CONFUSION_SYSTEMS
        }
        protocols.append(
            Protocol(
                corpus=corpus,
                verdict=emotion_verdict(scores, percent, texts_are_neutral=neutral),
                intervals=describe_intervals(int(scores["head"]["speakers"])),
                speakers=describe_speakers(_speakers(test_rows), _training_speakers(rows)),
                absent=[e for e, counts in zip(emotions, confusions[corpus]["head"], strict=True) if not sum(counts)],
                scores=scores,
                figures={name: Markup(svg) for name, svg in figures.items()},
            )
        )
    return protocols


def hearing_protocols(metrics: Metrics, rows: Manifests, percent: str) -> list[Protocol]:
    """Describe and draw the stage-1 KL on each corpus."""
    protocols = []
    for corpus, scores in _of_kind(metrics, CONTINUATION_KL).items():
        test_rows = rows["semantic"].filter((pc.field("corpus") == corpus) & (pc.field("split") == "test"))
        protocols.append(
            Protocol(
                corpus=corpus,
                verdict=hearing_verdict(scores, percent),
                intervals=describe_intervals(int(scores["after"]["speakers"])),
                speakers=describe_speakers(_speakers(test_rows), _training_speakers(rows)),
                absent=[],
                scores=scores,
                figures={"divergences": Markup(plots.draw_divergences(scores))},
            )
        )
    return protocols


def _training_speakers(rows: Manifests) -> set[str]:
    return set().union(*(_speakers(table.filter(pc.field("split") == "train")) for table in rows.values()))


def _speakers(rows: pa.Table) -> set[str]:
    return set(rows["speaker"].unique().to_pylist())


def render(**content: object) -> str:
    """Fill the template; all content except our own figures is escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "percent": _percent,
        "signed": signed,
        "interval": _interval,
        "base64": lambda data: base64.b64encode(data).decode(),
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**content)


def _read_metrics(path: Path) -> Metrics:
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluate.score has not run")
    try:
        metrics = TypeAdapter(Metrics).validate_json(path.read_bytes())
    except ValidationError:
        levels = "test (task and corpus), then system, then metric"
        raise UserError(f"{path}: expected nested JSON objects: {levels}, with numbers as values") from None
    for prefix in (EMOTION, CONTINUATION_KL):
        if not _of_kind(metrics, prefix):
            found = f"the keys {', '.join(metrics)}" if metrics else "no keys"
            raise UserError(f"{path}: found {found}, expected at least one key {prefix}<corpus>")
    return metrics


def _read_confusions(path: Path, emotions: Sequence[str]) -> Confusions:
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluate.score has not run")
    try:
        confusions = TypeAdapter(Confusions).validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path}: expected JSON counts by corpus and system") from None
    shape = (len(emotions), len(emotions) + 1)
    for corpus, systems in confusions.items():
        for system in CONFUSION_SYSTEMS:
            if np.shape(systems.get(system, [])) != shape:
                raise UserError(f"{path}: {corpus}: {system}: expected {shape[0]} rows of {shape[1]} counts; run score")
    return confusions


def _read_continuations(folder: Path, kind: str) -> Continuations:
    kept = parquet.read(folder / f"{kind}.kept.parquet", KEPT_SCHEMA)
    dropped = parquet.read(folder / f"{kind}.dropped.parquet", DROPPED_SCHEMA, allow_empty=True)
    return summarise_continuations(kind, kept, dropped)


def _of_kind(metrics: Metrics, prefix: str) -> dict[str, dict[str, dict[str, float]]]:
    return {name.removeprefix(prefix): scores for name, scores in metrics.items() if name.startswith(prefix)}


def _interval(score: Mapping[str, float], name: str, percent: str = "") -> str:
    """Write the interval of a metric, with `percent` as its coverage."""
    if f"{name}_low" not in score:
        return "no interval"
    writers: dict[str, Callable[[float], str]] = {"ua": _percent, "kl": "{:.3f}".format, "gap": signed}
    write = writers[name]
    low, high = map(write, bounds(score, name))
    return f"{percent} interval {low} to {high}" if percent else f"{low} to {high}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def main(
    metrics: Annotated[Path, typer.Option(help="Scores, written by score.")],
    confusions: Annotated[Path, typer.Option(help="Confusion counts, written by score.")],
    predictions: Annotated[Path, typer.Option(help="Folder of predictions, written by respond.")],
    models_folder: Annotated[Path, typer.Option("--models", help="Folder of the trained models, for their losses.")],
    manifests: Annotated[Path, typer.Option(help="Folder of the manifests and continuations.")],
    output: Annotated[Path, typer.Option(help="HTML file to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write the report: one self-contained page to open in a browser."""
    params = load(params_file, "report", ReportParams)
    emotions = read_classes(params_file)
    confidence = load(params_file, "score", ScoreParams).confidence
    percent = f"{100 * confidence:g}\N{NO-BREAK SPACE}%"
    models = load(params_file, "models", dict[str, dict[str, Any]])
    generate_params = load(params_file, "generate", dict[str, Any])
    numbers = _read_metrics(metrics)
    rows: Manifests = {kind: manifest.read(manifests / f"{kind}.parquet") for kind in ALIGNMENTS}
    counts = _read_confusions(confusions, emotions)
    page = render(
        title=params.title,
        percent=percent,
        synthetic=load(params_file, "synthesise", dict[str, Any]).keys(),
        emotions=emotions,
        systems={given: [system for system in SYSTEMS if system.given == given] for given in GIVEN},
        prompted=PROMPTED,
        emotion=emotion_protocols(numbers, counts, rows, emotions, percent),
        hearing=hearing_protocols(numbers, rows, percent),
        own=own_answers_protocols(numbers, percent, 1 - confidence),
        own_given=OWN_GIVEN,
        words=WORDS,
        examples=read_examples(predictions / "emotion" / "examples.parquet").to_pylist(),
        splits=[size for kind in ALIGNMENTS for size in summarise_splits(kind, rows[kind])],
        continuations=[_read_continuations(manifests / "continuations", kind) for kind in ALIGNMENTS],
        curves={kind: Markup(plots.draw_losses(training_curves.read(models_folder, kind))) for kind in ALIGNMENTS},
        models=models,
        generator=None if generate_params["generator"] == models["llm"] else generate_params["generator"],
        echoed=generate_params["engine"] == "echo",
        prompts=load(params_file, "prompts", dict[str, dict[str, str]]),
        parameters=params_file.read_text(encoding="utf-8"),
    )
    write_text(page, output)
    say(f"report: {output}")


if __name__ == "__main__":
    run_stage(main)
