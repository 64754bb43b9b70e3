"""Probe: how much of the emotion a linear classifier finds in the frozen encoder, before anything is trained.

It is the yardstick of the emotion head and of the answers: what the encoder does not hold, no training can bring out,
and a head below the probe wastes what it is given.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer

from evaluate.output import write_text
from evaluate.predictions import PROBE, RECOGNITION_SCHEMA
from evaluate.probe.labels import labelled
from evaluate.probe.params import ProbeParams
from pipeline import params
from pipeline.params import ParamsFile
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import packed, parquet
from pipeline.tables.emotions import read_classes
from pipeline.weights.source import Weights, fetch


def main(
    data: Annotated[Path, typer.Option(help="Folder of the packed data of emotional speech.")],
    output: Annotated[Path, typer.Option(help="Folder to write: probe.parquet and probe.json.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Fit logistic regression to the states of the frozen encoder, and write what it recognises in the test split."""
    settings = params.load(params_file, "probe", ProbeParams)
    weights = params.load(params_file, "models.encoder", Weights)
    pads = params.load(params_file, "fit.semantic.pad_to_30s", bool)
    emotions = read_classes(params_file)
    train, test = packed.load(data, "train"), packed.load(data, "test")
    known, labels = labelled(train, emotions)
    if len(set(labels.tolist())) < 2:
        raise UserError(f"{data}: found train rows of {len(set(labels.tolist()))} classes, expected at least 2")
    if len(known) > settings.max_rows:
        drawn = np.sort(np.random.default_rng(settings.seed).choice(len(known), settings.max_rows, replace=False))
        known, labels = known[drawn], labels[drawn]
    tested, _ = labelled(test, emotions)
    from evaluate.probe import classifier  # scikit-learn and torch load only after the parameters are checked
    from evaluate.probe.features import layer_means
    from pipeline.weights.encoder import load_encoder
    from train.data.log_mel import LogMel
    from train.model.encoder import SpeechEncoder
    from train.precision import best_device

    folder = fetch(weights)
    encoder = SpeechEncoder(load_encoder(folder), pads).eval().to(best_device())
    log_mel = LogMel(folder, pads)
    x = layer_means(encoder, log_mel, train, known, range(len(encoder.whisper.layers) + 1))
    speakers = train.column("speaker").take(pa.array(known)).to_pylist()
    choice = classifier.choose(x, labels, speakers)
    fitted = classifier.fit(x[:, choice.layer], labels, choice.strength)
    of_test = layer_means(encoder, log_mel, test, tested, [choice.layer])[:, 0]
    scores = classifier.log_probabilities(fitted, of_test, len(emotions))
    parquet.write(as_table(test, tested, scores, emotions), output / "probe.parquet")
    write_text(json.dumps(asdict(choice) | {"rows": len(known)}, indent=1) + "\n", output / "probe.json")
    say(
        f"probe: layer {choice.layer} of {x.shape[1] - 1}, unweighted accuracy {max(choice.ua_by_strength):.3f} for "
        f"train speakers left out; {len(known):,} train rows, {len(tested):,} test rows"
    )


def as_table(rows: packed.Rows, places: np.ndarray, scores: np.ndarray, emotions: list[str]) -> pa.Table:
    """Return the recognition table of the probe."""
    about = pa.table({name: rows.column(name) for name in ("id", "corpus", "speaker", "emotion")})
    predicted = [emotions[number] for number in scores.argmax(1).tolist()]
    return (
        about.take(pa.array(places))
        .append_column("system", pa.array([PROBE.name] * len(places)))
        .append_column("answer", pa.nulls(len(places), pa.string()))
        .append_column("predicted", pa.array(predicted, pa.string()))
        .append_column("scores", pa.array(scores.tolist(), pa.list_(pa.float64())))
        .cast(RECOGNITION_SCHEMA)
    )


if __name__ == "__main__":
    run_stage(main)
