"""The path from voice to words carries: 16 short clips are learnt by ear, with the real weights.

What the KL loses with the right clip and keeps with a wrong one is what the model owes to hearing.
"""

from pathlib import Path

import pytest
import yaml

from evaluate.asking.finished import FinishedBatches
from evaluate.respond import divergence
from evaluate.respond.params import RespondParams
from pipeline import params
from pipeline.generate import __main__ as generate
from pipeline.ingest import __main__ as ingest
from pipeline.pack import __main__ as pack
from pipeline.synthesise import __main__ as synthesise
from pipeline.tables import manifest, packed
from pipeline.tables.continuations import DROPPED_SCHEMA
from tests.builders import write_table
from train.fit import __main__ as fit

KL_LEFT = 0.3  # at most, of the KL before training
KL_LEFT_SHUFFLED = 0.8  # at least


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    """A parameter file like the demo's, for 16 clips and as many steps as they need."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["synthesise"] = {
        "speech": {
            "layout": "librispeech",
            "root": str(tmp_path / "corpus"),
            "seed": 3,
            "speakers": 4,
            "utterances_per_speaker": 8,
        }
    }
    values["ingest"] = {"speech": {"reader": "librispeech", "root": str(tmp_path / "corpus"), "check": "samples"}}
    values["generate"]["engine"] = "transformers"
    steps = {
        "epochs": 40,
        "max_steps": None,
        "batches": {
            "layout": "padded",
            "max_frames": 20_000,
            "max_positions": 20_000,
            "per_step": 1,
            "round_up": False,
        },
        "log_every": 20,
        "evaluate_every": 1000,
        "save_every": 1000,
    }
    values["fit"]["semantic"] |= steps | {"warm_start": None, "temperature": 1.0, "learning_rate": 2e-3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
def test_sixteen_clips_are_learnt_by_ear(folder: Path) -> None:
    params_file = folder / "params.yaml"
    synthesise.main(name="speech", output=folder / "corpus", params_file=params_file)
    ingest.main(reader="librispeech", root=folder / "corpus", output=folder / "speech.parquet", name="speech")
    rows = [row for row in manifest.read(folder / "speech.parquet").to_pylist() if row["split"] == "train"]
    assert len(rows) == 16
    write_table(folder / "manifest.parquet", rows)
    generate.main(
        kind="semantic",
        manifest_file=folder / "manifest.parquet",
        output=folder / "continuations.parquet",
        choices_file=folder / "choices.csv",
        params_file=params_file,
    )
    pack.main(
        kind="semantic",
        manifest_file=folder / "manifest.parquet",
        kept_file=folder / "continuations.parquet",
        dropped_file=write_table(folder / "dropped.parquet", [], DROPPED_SCHEMA),
        output=folder / "packed",
        params_file=params_file,
    )
    fit.main(
        kind="semantic",
        data=folder / "packed",
        output=folder / "model",
        checkpoints=folder / "checkpoints",
        logs=folder / "logs",
        params_file=params_file,
    )
    rows_of_training = packed.load(folder / "packed", "train")
    shell = packed.load_shell(folder / "packed")
    settings = params.load(params_file, "respond", RespondParams)
    finished = FinishedBatches(folder / "predictions", {})
    measured = divergence.measure(folder / "model", rows_of_training, shell, settings, finished).to_pandas()
    kl = measured.groupby("condition").apply(lambda rows: (rows.kl * rows.num_tokens).sum() / rows.num_tokens.sum())
    print(f"KL before {kl.before:.3f}, after {kl.after:.3f}, shuffled {kl.shuffled:.3f}")
    assert kl.after <= KL_LEFT * kl.before
    assert kl.shuffled >= KL_LEFT_SHUFFLED * kl.before
