"""The folds of an own protocol, run for real on made-up corpora and tiny models, and pooled."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.weights.source import ModelsParams
from tests.builders import change_params, write_clip
from tests.dvc_graph import PACKAGES

FOLDS = {"first": ["1001", "1002", "1003"], "second": ["1004", "1005", "1006"]}
OWN = {
    "name": "acted-folds-2", "about": "", "reader": "cremad", "classes": ["sad", "angry"], "headline": ["ua"],
    "folds": FOLDS, "counts": {"sad": 12, "angry": 12}, "source": "ours",
}  # fmt: skip


@pytest.fixture
def repository(root: Path, tmp_path: Path, tiny_models: ModelsParams, whisper_folder: Path) -> Path:
    """A copy of the repository with a recipe named small."""
    folder = tmp_path / "repository"
    for name in PACKAGES:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "recipes").mkdir()
    (folder / ".dvc").mkdir()
    for name in ("recipes/run.sh", "recipes/folds.sh", "dvc.yaml", ".dvcignore", ".dvc/config"):
        shutil.copy(root / name, folder / name)
    small = {"max_steps": 2, "trackers": [], "answers": 0, "workers": 0}
    changes = {f"fit.{kind}.{key}": value for kind in ("semantic", "emotion") for key, value in small.items()}
    for kind in ("semantic", "emotion"):  # the tiny LLM's tokens are single characters
        changes |= {f"filter.{kind}.max_tokens": 2_000, f"fit.{kind}.batches.max_positions": 4_000}
    changes |= {
        "models": tiny_models.model_dump(), "synthesise": {}, "fit.semantic.warm_start": None,
        "transcribe.model": {"source": str(whisper_folder), "revision": None, "sha256": None}, "transcribe.clips": 4,
        "emotions": ["angry", "sad"], "generate.engine": "echo", "generate.agreement": None,
        "ingest": {name: {"reader": name, "root": f"data/corpora/{name}", "check": "samples"}
                   for name in ("librispeech", "cremad")},
        "split.semantic": ["librispeech"], "split.emotion": ["cremad"],
        "respond.max_new_tokens": 4, "respond.examples": 2, "processes": 1,
    }  # fmt: skip
    change_params(changes, root / "params.yaml", folder / "recipes" / "small.yaml")
    return folder


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    """Six actors of CREMA-D with two sentences in two emotions, and three splits of LibriSpeech."""
    for speaker in (speaker for fold in FOLDS.values() for speaker in fold):
        for sentence in ("IEO", "TIE"):
            for emotion in ("SAD", "ANG"):
                write_clip(tmp_path / "corpora/cremad/AudioWAV" / f"{speaker}_{sentence}_{emotion}_XX.wav", 20_000)
    for number, split in enumerate(("train-clean-100", "dev-clean", "test-clean"), start=1):
        for speaker in (str(10 * number), str(10 * number + 1)):
            chapter = tmp_path / "corpora/librispeech" / split / speaker / "7"
            for utterance in range(2):
                write_clip(chapter / f"{speaker}-7-{utterance:04}.flac", 20_000)
            texts = ("KIDS ARE TALKING BY THE DOOR", "DOGS ARE SITTING BY THE DOOR")
            lines = [f"{speaker}-7-{utterance:04} {text}" for utterance, text in enumerate(texts)]
            (chapter / f"{speaker}-7.trans.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "corpora"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_fold_runs_once_and_the_pooled_clips_are_scored_as_one(
    repository: Path, corpora: Path, tmp_path: Path
) -> None:
    (tmp_path / "acted-folds-2.yaml").write_text(yaml.safe_dump(OWN))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}

    def run() -> str:
        command = ["recipes/folds.sh", "small", str(corpora), str(tmp_path / "acted-folds-2.yaml")]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run()
    folds = [repository / "runs" / f"small-acted-folds-2-{fold}" for fold in FOLDS]
    for stage in ("ingest@librispeech", "generate@semantic", "fit-semantic", "respond-semantic"):  # equal in both
        assert said.count(f"Running stage '{stage}'") == 1, said
        assert said.count(f"Stage '{stage}' is cached") == 1, said
    assert said.count("Running stage 'fit-emotion'") == 2
    assert said.count("score: acted-folds-2: head ua 0.") == 2
    assert said.count("partial: 12 of 24 rows") == 2
    assert "pool: 2 folds: acted-folds-2: head ua 0." in said.splitlines()[-1]
    pooled = json.loads((repository / "runs/small-acted-folds-2/metrics.json").read_text())["acted-folds-2"]
    assert pooled["protocol"] == {"rows": 24, "rows_expected": 24, "rows_left_out": 0, "classes": 2, "options": 2}
    one = json.loads((folds[0] / "results/metrics.json").read_text())["acted-folds-2"]
    assert (one["head"]["n"], pooled["head"]["n"]) == (12, 24)
    again = run()
    assert "Running stage" not in again
    assert again.splitlines()[-1] == said.splitlines()[-1]
