"""Compute scores from predictions: results/metrics.json and the tables of `dvc plots`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from evaluate import claims, training_curves
from evaluate.metrics import CONFUSION_SYSTEMS, ScoreParams, confusion_rows, score_divergence, score_recognition
from evaluate.output import write_text
from evaluate.own_answers import score_own_answers
from evaluate.predictions import PROBE, read_divergence, read_own_answers, read_recognition
from evaluate.protocols.definition import load_protocols
from evaluate.protocols.scoring import score_protocols
from evaluate.protocols.selection import read_facts
from evaluate.training_curves import ALIGNMENTS
from pipeline.params import ParamsFile, load
from pipeline.stage import run_stage, say
from pipeline.tables.emotions import read_classes


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in [header, *rows])


def main(
    divergence: Annotated[Path, typer.Option(help="Stage-1 KL, written by respond.")],
    recognition: Annotated[Path, typer.Option(help="Recognised emotions, written by respond.")],
    metrics: Annotated[Path, typer.Option(help="JSON file of scores to write.")],
    confusions: Annotated[Path, typer.Option(help="JSON file of confusion counts to write.")],
    plots: Annotated[Path, typer.Option(help="Folder for the CSV files of `dvc plots`.")],
    models: Annotated[Path | None, typer.Option(help="Folder of the trained models, to plot their losses.")] = None,
    probe: Annotated[Path | None, typer.Option(help="Emotions recognised by the probe of the encoder.")] = None,
    own_answers: Annotated[Path | None, typer.Option(help="Scores of told continuations, written by respond.")] = None,
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
    if protocols:
        numbers |= score_protocols(protocols, recognised, read_facts(params_file, manifests), confidence)
    compared = claims.compare_recognition(recognised, emotions, confidence)
    compared |= claims.compare_divergence(diverged, confidence)
    if own_answers is not None:
        own_rows = read_own_answers(own_answers, emotions)
        own = score_own_answers(own_rows, emotions, confidence)
        numbers |= own.metrics
        compared |= claims.compare_own_answers(own_rows, emotions, confidence)
        for corpus, counts in own.confusions.items():
            recognition_scores.confusions.setdefault(corpus, {})["own_answers"] = counts
    if models is not None:
        for kind in ALIGNMENTS:
            curves = training_curves.read(models, kind).train
            write_text(_csv(list(curves), list(zip(*curves.values(), strict=True))), plots / f"loss_{kind}.csv")
    for system in CONFUSION_SYSTEMS:
        rows = confusion_rows(recognised, system)
        write_text(_csv(["corpus", "actual", "predicted"], rows), plots / f"confusion_{system}.csv")
    write_text(json.dumps(recognition_scores.confusions, indent=1) + "\n", confusions)
    numbers |= compared
    write_text(json.dumps(numbers, indent=2) + "\n", metrics)
    heads = ", ".join(f"{name} {of['head']['ua']:.3f}" for name, of in numbers.items() if "head" in of)
    gaps = ", ".join(f"{name} {of['hearing']['gap']:.3f}" for name, of in numbers.items() if "hearing" in of)
    say(f"score: unweighted accuracy of the emotion head: {heads}; KL increase with a wrong clip: {gaps}")
    if own_answers is not None:
        chosen = (
            f"{name} {of['voice']['ua']:.3f} (chance {of['chance']['ua']:.3f})" for name, of in own.metrics.items()
        )
        say(f"score: own answers, unweighted accuracy: {', '.join(chosen) or 'no test clip has them'}")


if __name__ == "__main__":
    run_stage(main)
