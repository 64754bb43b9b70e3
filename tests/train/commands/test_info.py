"""The command that prints what a model folder is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section
from train.__main__ import app
from train.commands.info import main
from train.fit import run
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders

METRICS = {
    "continuation_kl_corpus": {"after": {"kl": 1.5, "n": 4}, "hearing": {"gap": 0.4}},
    "emotion_corpus": {"chance": {"ua": 0.5}, "head": {"ua": 0.875, "wa": 0.9}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModelsParams, packed_folder: Path) -> Path:
    """A folder with the models of both stages and their logs."""
    folder = tmp_path_factory.mktemp("trained")
    places = {"data": packed_folder, "checkpoints": folder / "checkpoints", "logs": folder / "logs"}
    semantic, emotion = folder / "models" / "semantic", folder / "models" / "emotion"
    settings = SemanticFitParams.model_validate(semantic_fit_section())
    run.fit(settings, tiny_models, ["sad", "happy"], RunFolders(init=None, output=semantic, **places), resume=False)
    second = EmotionFitParams.model_validate(emotion_fit_section())
    run.fit(second, tiny_models, ["sad", "happy"], RunFolders(init=semantic, output=emotion, **places), resume=False)
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained models with answers, metrics and DVC's lock of them, as the working folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    predictions = Path("results/predictions/emotion")
    predictions.mkdir(parents=True)
    for name in ("recognition", "examples"):
        (predictions / f"{name}.parquet").write_text(name)
    Path("results/metrics.json").write_text(json.dumps(METRICS))
    answers = str(predictions / "recognition.parquet")
    stages = {
        "respond-emotion": {"deps": hashed("models/emotion"), "outs": hashed(str(predictions))},
        "score": {"deps": hashed(answers, "models/emotion/losses.jsonl"), "outs": hashed("results/metrics.json")},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return tmp_path


def hashed(*paths: str) -> list[dict[str, Any]]:
    """Return paths as dvc.lock lists them, hashed by DVC itself."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    files = LocalFileSystem()  # type: ignore[no-untyped-call]
    store = HashFileDB(files, str(Path("cache").absolute()))
    found = []
    for path in paths:
        _, _, made = build(store, str(Path(path).absolute()), files, "md5", dry_run=True)
        found.append({"path": path, "hash": "md5", "md5": made.hash_info.value})
    return found


def shown(capsys: pytest.CaptureFixture[str], folder: str = "models/emotion") -> str:
    capsys.readouterr()
    main(Path(folder))
    return " ".join(capsys.readouterr().out.split())


def test_a_model_of_stage_2_is_shown_on_one_screen(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Path("models/emotion"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "models/emotion: stage 2, emotion alignment"
    assert len(lines) < 50
    assert all(len(line) <= 80 for line in lines if "/" not in line)
    text = " ".join(" ".join(lines).split())
    assert "train 12 rows, 0.0 h: corpus 12" in text
    assert "P-LoRA rank 2, alpha 2, on down_proj" in text
    assert "origin semantic-" in text
    assert "steps 6 in 2 epochs" in text
    assert "plora.dropout 0.1" in text
    assert "dev emotion" in text
    assert "on cpu, ended on 20" in text


def test_a_model_of_stage_1_is_shown_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "models/semantic")
    assert text.startswith("models/semantic: stage 1, semantic alignment")
    assert "trained adapter" in text
    assert "P-LoRA" not in text
    assert "dev kl" in text


def test_json_holds_the_records(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Path("models/emotion"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == json.loads(Path("models/emotion/run.json").read_text())
    assert found["config"] == json.loads(Path("models/emotion/config.json").read_text())
    assert found["execution"]["run"] == found["run"]["run"]
    assert found["metrics"] == {"emotion_corpus": METRICS["emotion_corpus"]}


def test_metrics_are_shown_of_the_model_that_dvc_names(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "emotion corpus chance: unweighted accuracy 0.500; head: unweighted accuracy 0.875" in shown(capsys)
    assert "unweighted" not in shown(capsys, "models/semantic")  # the lock says nothing of its answers
    shutil.copytree("models/emotion", "elsewhere")
    assert "unweighted" in shown(capsys, "elsewhere")


@pytest.mark.parametrize(
    "changed",
    ["models/emotion/losses.jsonl", "results/predictions/emotion/recognition.parquet", "results/metrics.json"],
)
def test_metrics_are_left_out_if_anything_has_changed_since(
    project: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    with Path(changed).open("a") as file:
        file.write("\n")
    assert "unweighted" not in shown(capsys)


@pytest.mark.parametrize("missing", ["dvc.lock", "results/metrics.json", "results/predictions/emotion"])
def test_metrics_are_left_out_if_a_file_is_missing(
    project: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    shutil.rmtree(missing) if Path(missing).is_dir() else Path(missing).unlink()
    assert "unweighted" not in shown(capsys)


def test_a_model_of_an_earlier_version_is_shown_with_what_is_unknown(
    project: Path, capsys: pytest.CaptureFixture[str], tiny_models: ModelsParams
) -> None:
    Path("models/emotion/run.json").unlink()
    text = shown(capsys)
    assert "emotions sad, happy" in text
    assert "unknown data, trained parameters, steps and losses: the model has no run.json" in text


def test_a_model_without_its_logs_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("logs")
    assert "unknown time, machine and commit: the folder of logs has no record of emotion-" in shown(capsys)


def test_a_folder_that_is_no_model_is_one_line(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        main(tmp_path)
    with pytest.raises(UserError, match=r"config\.json: models: Field required; expected the one of a model that"):
        main(Path(tiny_models.llm.source))


def test_the_command_is_listed() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "info" in result.output
