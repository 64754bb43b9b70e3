"""Write the report: one self-contained page that shows the results and their uncertainty."""

import base64
from collections.abc import Mapping, Sequence
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
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS, SEEN_WORDS
from evaluate.protocols.definition import load_protocols
from evaluate.report import plots
from evaluate.report.audio_matters import WORDS, Row, overviews, rows_of
from evaluate.report.corpora import read_continuations, read_leaks, read_rejected, summarise_splits
from evaluate.report.examples import gather_examples
from evaluate.report.published import protocol_tables
from evaluate.report.reliability import Bins, read_reliability
from evaluate.training_curves import ALIGNMENTS
from evaluate.verdict import wording
from evaluate.verdict.statement import state_claims
from evaluate.verdict.systems import OWN_ROWS, RECOGNITION_ROWS
from evaluate.verdict.unmeasured import find_unmeasured
from evaluate.verdict.wording import Scores, describe_intervals, describe_speakers
from pipeline.params import Alignment, ParamsFile, Section, load
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import manifest
from pipeline.tables.emotions import read_classes

Manifests = Mapping[Alignment, pa.Table]
"""alignment -> manifest"""

FOLDER = Path(__file__).parent


_WITH_CHANCE = {**OWN_ROWS, "chance": ("nothing: chance", "")}


class ReportParams(Section):
    """The settings of the page."""

    title: str


@dataclass(frozen=True, slots=True)
class Test:
    """The scores of one task on one corpus, with their rows, notes and figures."""

    corpus: str
    scores: Scores
    rows: list[Row]
    notes: str
    """On intervals, speakers and absent emotions."""
    groups: dict[str, Scores]
    """Name of a group of clips, such as gender=female: its scores."""
    figures: dict[str, Markup]


@dataclass(frozen=True, slots=True)
class OwnTest:
    """Own answers on one corpus: the scores by words, and what the voice chose."""

    corpus: str
    by_words: dict[str, Scores]
    rows: list[Row]
    groups: dict[str, Scores]
    counterfactual: list[Row]
    """The same words in another emotion; chance is the last row."""
    written: list[Row]
    """Whether the written answer is one of the told continuations; chance is the last row."""
    figure: Markup | None


def recognition_tests(
    metrics: Metrics,
    confusions: Confusions,
    reliability: Mapping[str, Bins],
    rows: Manifests,
    emotions: Sequence[str],
) -> list[Test]:
    """Describe and draw the emotion recognition on each corpus."""
    tests = []
    for corpus, scores in _of_kind(metrics, EMOTION).items():
        counts = confusions[corpus]
        figures = {
            name: plots.draw_confusion(np.array(counts[name]), emotions, f"{RECOGNITION_ROWS[name][1]}, {corpus}")
            for name in CONFUSION_SYSTEMS
        }
        if corpus in reliability:
            figures["reliability"] = plots.draw_reliability(reliability[corpus], f"Emotion head, {corpus}")
        notes = _notes(rows, "emotion", corpus, scores["head"])
        if texts_are_neutral(_test_rows(rows["emotion"], corpus)):
            notes += " Every sentence is spoken in every emotion, so the words alone do not tell it."
        absent = [emotion for emotion, of in zip(emotions, counts["head"], strict=True) if not sum(of)]
        if absent:
            notes += f" No test clip has the emotion {' or '.join(absent)}."
        tests.append(
            Test(
                corpus=corpus,
                scores=scores,
                rows=rows_of(scores, RECOGNITION_ROWS),
                notes=notes,
                groups=_groups(metrics, EMOTION + corpus),
                figures={name: Markup(svg) for name, svg in figures.items()},
            )
        )
    return tests


def hearing_tests(metrics: Metrics, rows: Manifests) -> list[Test]:
    """Describe and draw the stage-1 KL on each corpus."""
    return [
        Test(
            corpus=corpus,
            scores=scores,
            rows=[],
            notes=_notes(rows, "semantic", corpus, scores["after"]),
            groups={},
            figures={"divergences": Markup(plots.draw_divergences(scores, corpus))},
        )
        for corpus, scores in _of_kind(metrics, CONTINUATION_KL).items()
    ]


def own_tests(metrics: Metrics, confusions: Confusions, emotions: Sequence[str]) -> list[OwnTest]:
    """Describe and draw own answers on each corpus."""
    tests = []
    for corpus, scores in _of_kind(metrics, OWN_ANSWERS).items():
        counts = confusions.get(corpus, {}).get("own_answers")
        tests.append(
            OwnTest(
                corpus=corpus,
                by_words={
                    prefix: metrics[prefix + corpus]
                    for prefix in (NEW_WORDS, SEEN_WORDS, OWN_ANSWERS)
                    if prefix + corpus in metrics
                },
                rows=rows_of(scores, OWN_ROWS),
                groups=_groups(metrics, OWN_ANSWERS + corpus),
                counterfactual=rows_of(metrics.get(f"counterfactual_{corpus}", {}), _WITH_CHANCE),
                written=rows_of(metrics.get(f"written_{corpus}", {}), _WITH_CHANCE),
                figure=Markup(plots.draw_confusion(np.array(counts), emotions, f"own answers, {corpus}"))
                if counts
                else None,
            )
        )
    return tests


def texts_are_neutral(rows: pa.Table) -> bool:
    """Return whether every sentence is spoken in every emotion, so that the words do not reveal the emotion."""
    spoken: dict[str, set[str]] = {}
    for text, emotion in zip(rows["text"].to_pylist(), rows["emotion"].to_pylist(), strict=True):
        spoken.setdefault(text, set()).add(emotion)
    every = set(rows["emotion"].to_pylist())
    return len(every) > 1 and all(emotions == every for emotions in spoken.values())


def render(**content: object) -> str:
    """Fill the template; all content except our own figures is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": wording.share,
        "signed": wording.signed,
        "interval": _interval,
        "base64": lambda data: base64.b64encode(data).decode(),
    }
    return environment.get_template("report.html.jinja").render(**content)


def _interval(score: Mapping[str, float], name: str) -> str:
    """Write the interval of a share in percent."""
    if f"{name}_low" not in score:
        return "no interval"
    return " to ".join(wording.share(bound) for bound in wording.bounds(score, name))


def _notes(rows: Manifests, kind: Alignment, corpus: str, score: Mapping[str, float]) -> str:
    test = set(_test_rows(rows[kind], corpus)["speaker"].unique().to_pylist())
    trained = (table.filter(pc.field("split") == "train")["speaker"].unique().to_pylist() for table in rows.values())
    return f"{describe_intervals(int(score['speakers']))} {describe_speakers(test, set().union(*trained))}"


def _test_rows(rows: pa.Table, corpus: str) -> pa.Table:
    return rows.filter((pc.field("corpus") == corpus) & (pc.field("split") == "test"))


def _of_kind(metrics: Metrics, prefix: str) -> dict[str, Scores]:
    """Return the scores of the tests with this prefix, by corpus."""
    return {name.removeprefix(prefix): scores for name, scores in metrics.items() if name.startswith(prefix)}


def _groups(metrics: Metrics, test: str) -> dict[str, Scores]:
    return {name.removesuffix(f"/{test}"): scores for name, scores in metrics.items() if name.endswith(f"/{test}")}


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


def _page_of_params(params_file: Path) -> dict[str, object]:
    """Return what the page shows of the parameter file."""
    models = load(params_file, "models", dict[str, dict[str, Any]])
    generate = load(params_file, "generate", dict[str, Any])
    return {
        "title": load(params_file, "report", ReportParams).title,
        "synthetic": load(params_file, "synthesise", dict[str, Any]).keys(),
        "models": models,
        "generator": None if generate["generator"] == models["llm"] else generate["generator"],
        "echoed": generate["engine"] == "echo",
        "prompts": load(params_file, "prompts", dict[str, Any]),
        "parameters": params_file.read_text(encoding="utf-8"),
    }


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
    shown = _page_of_params(params_file)
    emotions = read_classes(params_file)
    settings = load(params_file, "score", ScoreParams)
    percent = f"{100 * settings.confidence:g}{wording.SPACE}%"
    numbers = _read_metrics(metrics)
    counts = _read_confusions(confusions, emotions)
    rows: Manifests = {kind: manifest.read(manifests / f"{kind}.parquet") for kind in ALIGNMENTS}
    leaks, rejected = read_leaks(manifests), read_rejected(manifests)
    missing = [name for name, table in {"leaks": leaks, "rejected": rejected or None}.items() if table is None]
    reliability = read_reliability(predictions / "emotion" / "recognition.parquet", emotions)
    page = render(
        **shown,
        percent=percent,
        emotions=emotions,
        claims=state_claims(numbers, percent, 1 - settings.confidence),
        overviews=overviews(numbers),
        recognition=recognition_tests(numbers, counts, reliability, rows, emotions),
        own=own_tests(numbers, counts, emotions),
        words=WORDS,
        hearing=hearing_tests(numbers, rows),
        metrics=numbers,
        protocols=protocol_tables(load_protocols(settings.protocols), numbers),
        examples=gather_examples(predictions, emotions),
        splits=[size for kind in ALIGNMENTS for size in summarise_splits(kind, rows[kind])],
        continuations=[read_continuations(manifests / "continuations", kind) for kind in ALIGNMENTS],
        rejected=rejected,
        leaks=leaks,
        curves={
            kind: Markup(plots.draw_losses(training_curves.read(models_folder, kind), f"fit-{kind}"))
            for kind in ALIGNMENTS
        },
        unmeasured=find_unmeasured(numbers, tables=missing),
    )
    write_text(page, output)
    say(f"report: {output}")


if __name__ == "__main__":
    run_stage(main)
