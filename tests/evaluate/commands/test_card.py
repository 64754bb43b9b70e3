"""The model card: what the record says, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluate.commands.card import main
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_scores, kl_scores, model_config, utterance, weights, write_table
from tests.evaluate.verdict.test_statement import own_metrics
from tests.train.commands.test_info import hashed
from train.fit import run_record
from train.fit.run_record import (
    BaseModelRecord,
    DataRecord,
    DevLoss,
    PloraRecord,
    RunRecord,
    SplitRecord,
    TrainedRecord,
)

SOURCES = {"encoder": "openai/whisper-large-v2", "llm": "models/semantic"}


def record_of(kind: Any, init: str | None, rows: dict[str, int]) -> RunRecord:
    split = SplitRecord(rows=sum(rows.values()), hours=1.5, corpora=rows, continuations=3, continuations_hash="c0ffee")
    return RunRecord(
        kind=kind,
        run=f"{kind}-0123",
        init=init,
        models={
            name: BaseModelRecord(source=source, revision="abc", sha256=None, weights=source)
            for name, source in SOURCES.items()
        },
        emotions=["sad", "happy"],
        data=DataRecord(folder=kind, fingerprint="f00d", train=split, dev=None),
        trained=TrainedRecord(
            parameters={"adapter": 1234},
            plora=PloraRecord(rank=16, alpha=16, targets=["q_proj"]) if kind == "emotion" else None,
        ),
        parameters={},
        versions={"torch": "2.13"},
        steps=1000,
        epochs=2,
        dev_losses={"dev_ce": DevLoss(last=1.5, best=1.25, best_step=900)},
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models of both stages, manifests, and metrics that dvc.lock knows."""
    monkeypatch.chdir(tmp_path)
    for kind, init, rows in (("semantic", None, {"libri": 2}), ("emotion", "semantic-0123", {"acted": 2, "other": 1})):
        folder = tmp_path / "models" / kind
        folder.mkdir(parents=True)
        models = ModelsParams.model_validate({name: weights(source) for name, source in SOURCES.items()})
        config = model_config(models, plora=kind == "emotion")
        (folder / "config.json").write_text(config.model_dump_json())
        run_record.write(record_of(kind, init, rows), folder / "run.json")
    said = {"language": "en", "licence": "CC-BY-4.0", "split": "train"}
    libri = [utterance(f"libri/{i}", corpus="libri", **said) for i in range(2)]
    acted = [
        utterance(f"acted/{i}", corpus="acted", **said | {"licence": "ODbL-1.0", "language": "fr"}) for i in range(2)
    ]
    write_table(tmp_path / "manifests" / "semantic.parquet", libri)
    write_table(tmp_path / "manifests" / "emotion.parquet", acted)
    (tmp_path / "params.yaml").write_text("score: {confidence: 0.95, protocols: []}\nsynthesise: {libri: {seed: 1}}\n")
    own = own_metrics(NEW_WORDS) | own_metrics(OWN_ANSWERS)
    metrics = {"continuation_kl_libri": kl_scores(0.1, 0.2), "emotion_acted": emotion_scores(head=0.9), **own}
    answers = Path("results/predictions/emotion/recognition.parquet")
    answers.parent.mkdir(parents=True)
    answers.write_text("answers")
    Path("results/metrics.json").write_text(json.dumps(metrics))
    stages = {
        "respond-emotion": {"deps": hashed("models/emotion"), "outs": hashed(str(answers.parent))},
        "score": {"deps": hashed(str(answers)), "outs": hashed("results/metrics.json")},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return tmp_path


def card(folder: str = "models/emotion", **options: Any) -> tuple[dict[str, Any], str]:
    """Write the card; return its front matter and its text."""
    main(Path(folder), Path("card.md"), **options)
    _, front, text = Path("card.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), " ".join(text.split())


def test_the_front_matter_has_what_the_hub_reads(project: Path) -> None:
    from huggingface_hub import ModelCard

    front, _ = card(licence="cc-by-4.0")
    assert front == {
        "language": ["en", "fr"],
        "license": "cc-by-4.0",
        "base_model": ["openai/whisper-large-v2"],
        "datasets": ["libri", "acted", "other"],
        "metrics": ["recall"],
        "pipeline_tag": "audio-text-to-text",
        "tags": ["speech", "blsp-emo"],
    }
    assert ModelCard.load("card.md").data.license == "cc-by-4.0"
    assert card()[0]["license"] == "unknown"


def test_the_card_tells_data_training_and_scores_with_their_limits(project: Path, capsys: Any) -> None:
    _, text = card()
    assert capsys.readouterr().out == "card: card.md\n"
    for said in (
        "# emotion",
        "| stage 1 | libri (synthetic speech) | 2 | en | CC-BY-4.0 |",
        "Scores on synthetic speech say nothing about human voices.",
        "| stage 2 | acted | 2 | fr | ODbL-1.0 |",
        "| stage 2 | other | 1 | unknown | unknown |",
        "1,000 in 2 epochs of 3 rows (1.5 h)",
        "adapter 1,234",
        "P-LoRA: rank 16, alpha 16, on q_proj",
        "dev ce: 1.5 at the end; lowest 1.25 at step 900",
        "time and machine: unknown",
        "The licence of the weights is not stated.",
        "- acted: **shown**. The continuation that the clip makes likeliest",
        "| recognition, acted, unweighted accuracy in % | emotion head, given the clip | 90.0 | 80.0 to 100.0 |",
        "| own answers, new words, acted, unweighted accuracy in % | voice | 60.0 | 50.0 to 70.0 | 25.0 | 80 | 8 |",
        "What would falsify it: Other speakers",
        "may not be read as: That the model writes this answer",
        "- Word errors of the whole Whisper: the stage transcribe",
    ):
        assert said in text


def test_scores_that_are_not_known_to_be_of_this_model_are_left_out(project: Path, capsys: Any) -> None:
    (project / "models" / "emotion" / "losses.jsonl").write_text("another model")
    front, text = card()
    assert "there are no scores that are known to be of this model" in text
    assert "90.0" not in text
    assert "metrics" not in front
    assert "dvc.lock does not say that results/metrics.json is of this model" in capsys.readouterr().out


def test_a_model_without_a_record_is_said_to_be_unknown(project: Path) -> None:
    (project / "models" / "emotion" / "run.json").unlink()
    front, text = card()
    assert text.count("Unknown: the model folder has no record of its training.") == 2
    assert not {"language", "datasets"} & front.keys()


def test_the_data_of_another_stage_1_are_unknown(project: Path) -> None:
    run_record.write(record_of("emotion", "semantic-other", {"acted": 2}), project / "models/emotion/run.json")
    _, text = card()
    assert "The data of stage 1 are unknown" in text
    assert "| libri" not in text
    assert "synthetic" not in text


def test_a_manifest_with_fewer_rows_than_training_read_is_not_that_of_the_model(project: Path) -> None:
    run_record.write(record_of("emotion", None, {"acted": 3}), project / "models/emotion/run.json")
    assert "| stage 2 | acted | 3 | unknown | unknown |" in card()[1]


def test_the_card_is_not_written_into_the_model_folder(project: Path) -> None:
    with pytest.raises(UserError, match=r"--output: found models/emotion/README.md in the model folder, expected a"):
        main(Path("models/emotion"), Path("models/emotion/README.md"))


def test_a_folder_without_a_model_is_refused(project: Path) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        main(project / "manifests", Path("card.md"))
