"""Compute scores from predictions: results/metrics.json and the tables of `dvc plots`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from evaluate import claims, training_curves
from evaluate.counterfactuals import score_counterfactuals
from evaluate.groups import FACTS_SCHEMA, MIN_CLIPS, read_trained_speakers, score_groups
from evaluate.judgements import describe, score_judgements
from evaluate.kept_words import score_semantics, score_transcripts
from evaluate.metrics import (
    CONFUSION_SYSTEMS,
    Metrics,
    ScoreParams,
    confusion_rows,
    score_calibration,
    score_divergence,
    score_prompts,
    score_recognition,
)
from evaluate.output import write_text
from evaluate.own_answers import score_own_answers
from evaluate.predictions import (
    DEV_HEAD,
    PROBE,
    read_divergence,
    read_own_answers,
    read_own_written,
    read_prompts,
    read_recognition,
    read_semantics,
    read_transcripts,
)
from evaluate.protocols.definition import load_protocols
from evaluate.protocols.scoring import score_protocols
from evaluate.protocols.selection import read_facts
from evaluate.training_curves import ALIGNMENTS
from evaluate.written_answers import score_written
from pipeline.params import ParamsFile, load
from pipeline.stage import run_stage, say
from pipeline.tables import parquet
from pipeline.tables.emotions import read_classes


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in [header, *rows])


def _calibration(recognised: pa.Table, dev_head: Path, manifests: Path, emotions: Sequence[str]) -> Metrics:
    dev = read_recognition(dev_head, emotions, [DEV_HEAD], allow_empty=True)
    if not dev.num_rows:
        say(f"score: {dev_head}: found no dev clips, expected some to fit a temperature; it is left out")
    return score_calibration(recognised, dev, parquet.read(manifests / "emotion.parquet", FACTS_SCHEMA), emotions)


def _by_group(
    recognised: pa.Table, own: pa.Table | None, manifests: Path, emotions: Sequence[str], confidence: float
) -> Metrics:
    file = manifests / "emotion.parquet"
    if not file.is_file():
        say(f"score: {file}: found no such file, expected the manifest; there are no scores by gender and duration")
        return {}
    facts, trained = parquet.read(file, FACTS_SCHEMA), read_trained_speakers(manifests)
    groups = score_groups(recognised, own, facts, trained, emotions, confidence)
    if groups.too_small:
        say(f"score: groups of fewer than {MIN_CLIPS} clips have no scores: {', '.join(groups.too_small)}")
    return groups.metrics


def _add(numbers: Metrics, more: Metrics) -> None:
    """Add metrics of systems to tests that may have other metrics of the same systems."""
    for test, systems in more.items():
        for system, scores in systems.items():
            numbers.setdefault(test, {}).setdefault(system, {}).update(scores)


def _write_plots(recognised: pa.Table, models: Path | None, plots: Path) -> None:
    if models is not None:
        for kind in ALIGNMENTS:
            curves = training_curves.read(models, kind).train
            write_text(_csv(list(curves), list(zip(*curves.values(), strict=True))), plots / f"loss_{kind}.csv")
    for system in CONFUSION_SYSTEMS:
        rows = confusion_rows(recognised, system)
        write_text(_csv(["corpus", "actual", "predicted"], rows), plots / f"confusion_{system}.csv")


def _tell(numbers: Metrics, own: Metrics | None, judged: Metrics) -> None:
    heads = ", ".join(f"{name} {of['head']['ua']:.3f}" for name, of in numbers.items() if "head" in of)
    gaps = ", ".join(f"{name} {of['hearing']['gap']:.3f}" for name, of in numbers.items() if "hearing" in of)
    say(f"score: unweighted accuracy of the emotion head: {heads}; KL increase with a wrong clip: {gaps}")
    if own is not None:
        chosen = (f"{name} {of['voice']['ua']:.3f} (chance {of['chance']['ua']:.3f})" for name, of in own.items())
        say(f"score: own answers, unweighted accuracy: {', '.join(chosen) or 'no test clip has them'}")
    if judged:
        say(f"score: {describe(judged)}")


def main(
    divergence: Annotated[Path, typer.Option(help="Stage-1 KL, written by respond.")],
    recognition: Annotated[Path, typer.Option(help="Recognised emotions, written by respond.")],
    metrics: Annotated[Path, typer.Option(help="JSON file of scores to write.")],
    confusions: Annotated[Path, typer.Option(help="JSON file of confusion counts to write.")],
    plots: Annotated[Path, typer.Option(help="Folder for the CSV files of `dvc plots`.")],
    models: Annotated[Path | None, typer.Option(help="Folder of the trained models, to plot their losses.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Emotions recognised by the probe of the encoder.")] = None,
    dev_head: Annotated[Path | None, typer.Option(help="Emotions heard in dev clips, to fit a temperature.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Labels scored under several prompts.")] = None,
    own_answers: Annotated[Path | None, typer.Option(help="Scores of told continuations, written by respond.")] = None,
    written: Annotated[Path | None, typer.Option(help="Written answers of respond.")] = None,
    transcripts: Annotated[Path | None, typer.Option(help="Whisper's transcripts, written by transcribe.")] = None,
    semantics: Annotated[list[Path] | None, typer.Option(help="Tables written by semantics, one per model.")] = None,
    judge: Annotated[Path | None, typer.Option(help="Folder of the judge's marks and choices.")] = None,
    manifests: Annotated[Path, typer.Option(help="Folder of the manifests that split wrote.")] = Path("manifests"),
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Compute scores from predictions: metrics.json and the tables of `dvc plots`."""
    settings = load(params_file, "score", ScoreParams)
    confidence, protocols = settings.confidence, load_protocols(settings.protocols)
    emotions = read_classes(params_file)
    recognised = read_recognition(recognition, emotions)
    if probe is not None:
        recognised = pa.concat_tables([recognised, read_recognition(probe, emotions, [PROBE])])
    recognition_scores = score_recognition(recognised, emotions, confidence)
    diverged = read_divergence(divergence)
    numbers = score_divergence(diverged, confidence) | recognition_scores.metrics
    if dev_head is not None:
        _add(numbers, _calibration(recognised, dev_head, manifests, emotions))
    if prompts is not None:
        _add(numbers, score_prompts(read_prompts(prompts, emotions), emotions, confidence))
    if protocols:
        numbers |= score_protocols(protocols, recognised, read_facts(params_file, manifests), confidence)
    scored = None if own_answers is None else read_own_answers(own_answers, emotions)
    own: Metrics = {}
    if scored is not None:
        found = score_own_answers(scored, emotions, confidence)
        own = found.metrics
        numbers |= own | score_counterfactuals(scored, emotions, confidence)
        for corpus, counts in found.confusions.items():
            recognition_scores.confusions.setdefault(corpus, {})["own_answers"] = counts
    if written is not None:
        numbers |= score_written(read_own_written(written, emotions), emotions, confidence)
    if transcripts is not None:
        numbers |= score_transcripts(read_transcripts(transcripts), confidence)
    for table in semantics or []:
        numbers |= score_semantics(read_semantics(table), confidence)
    judged = {} if judge is None else score_judgements(judge, confidence)
    numbers |= judged
    _write_plots(recognised, models, plots)
    write_text(json.dumps(recognition_scores.confusions, indent=1) + "\n", confusions)
    by_group = _by_group(recognised, scored, manifests, emotions, confidence)
    compared = claims.compare_systems(recognised, diverged, scored, emotions, confidence)
    write_text(json.dumps(numbers | by_group | compared, indent=2) + "\n", metrics)
    _tell(numbers, None if scored is None else own, judged)


if __name__ == "__main__":
    run_stage(main)
