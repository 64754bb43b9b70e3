"""What a training writes about itself: equal trainings write equal bytes into the model folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section
from train.fit import checkpoint, described_run, run
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders
from train.fit.run_record import ExecutionRecord, RunRecord, dev_losses, read

EMOTIONS = ["sad", "happy"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def record_of(folders: RunFolders) -> RunRecord:
    found = read(folders.output / "run.json", RunRecord)
    assert found is not None
    return found


def execution_of(folders: RunFolders) -> ExecutionRecord:
    found = ExecutionRecord.of(record_of(folders), folders.logs)
    assert found is not None
    return found


def test_both_stages_record_what_they_trained_and_on_what(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    first = record_of(folders)
    assert (first.kind, first.init, first.steps, first.epochs) == ("semantic", None, 6, 2.0)
    assert set(first.trained.parameters) == {"adapter"}
    assert first.trained.plora is None
    assert first.models["llm"].source == tiny_models.llm.source
    assert first.models["llm"].weights.startswith("folder ")
    assert first.data.fingerprint == packed.fingerprint(folders.data)
    assert (first.data.folder, first.data.train.rows, first.data.train.corpora) == ("kind", 12, {"corpus": 12})
    assert first.data.dev is not None
    assert first.data.dev.rows == 3  # the fourth has no continuation
    assert first.parameters["temperature"] == 2.0
    assert "workers" not in first.parameters
    losses = [json.loads(line) for line in (folders.output / "losses.jsonl").read_text().splitlines()]
    assert first.dev_losses["dev_kl"].last == losses[-1]["dev_kl"]

    second = replace(folders, init=folders.output, output=folders.output.with_name("emotion"))
    settings = EmotionFitParams.model_validate(emotion_fit_section(max_steps=3))
    run.fit(settings, tiny_models, EMOTIONS, second, resume=False)
    found = record_of(second)
    assert (found.kind, found.init, found.steps, found.epochs) == ("emotion", first.run, 3, 1.0)
    assert set(found.trained.parameters) == {"encoder", "adapter", "emotion head", "P-LoRA"}
    assert found.trained.plora is not None
    assert found.trained.plora.rank == 2
    attention, mlp = ["k_proj", "o_proj", "q_proj", "v_proj"], ["down_proj", "gate_proj", "up_proj"]
    assert found.trained.plora.targets == sorted([*attention, *mlp])


def test_an_equal_training_writes_equal_bytes_though_it_was_interrupted(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    whole = {file.name: file.read_bytes() for file in folders.output.iterdir()}
    save = checkpoint.save

    def save_late_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
        save(folder, replace(state, seconds=7200.0), keep)
        if state.step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_late_and_die)
        with pytest.raises(KeyboardInterrupt):
            run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    run.fit(semantic(workers=0), tiny_models, EMOTIONS, folders, resume=True)
    assert {file.name: file.read_bytes() for file in folders.output.iterdir()} == whole
    assert 2.0 <= execution_of(folders).hours < 2.1


def test_the_execution_is_recorded_in_the_logs_of_the_run(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    found = execution_of(folders)
    assert found.run == record_of(folders).run
    assert (found.processes, found.device) == (1, "cpu")
    assert found.parameters == {
        "workers": 0, "log_every": 1, "evaluate_every": 3, "save_every": 2, "keep_checkpoints": 2, "stall": None,
        "checkpoint_layers": False, "shard_llm": False, "init": None,
        "hang_minutes": 30.0, "answers": 0, "trackers": ["tensorboard"],
    }  # fmt: skip
    assert found.commit == described_run.commit_of_code()


def test_code_outside_a_repository_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert described_run.commit_of_code() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert described_run.commit_of_code() is None


def test_the_hash_of_the_continuations_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    audio = {"bytes": b"", "path": None}
    rows = [
        {"id": f"{i}", "corpus": "c", "audio": audio, "num_samples": 16_000, "continuation_key": f"key {i}"}
        for i in range(3)
    ]
    shell = packed.PromptShell(before_speech=[1], before_text=None, after=[2])
    with packed.Writer(tmp_path / "packed", shell, 1) as writer:
        writer.write("train", rows)
        writer.write("dev", reversed(rows))
        writer.write("test", [*rows[:2], rows[2] | {"continuation_key": None}])
    one, other, lacking = (
        described_run.describe_split(packed.load(tmp_path / "packed", name)) for name in ("train", "dev", "test")
    )
    assert one == other
    assert (one.continuations, lacking.continuations) == (3, 2)
    assert one.continuations_hash != lacking.continuations_hash


def test_the_best_dev_loss_is_the_lowest_and_the_earliest() -> None:
    records: list[dict[str, float]] = [
        {"step": 0, "dev_kl": 3.0}, {"step": 2, "dev_kl": 1.0}, {"step": 3, "loss": 0.1}, {"step": 4, "dev_kl": 1.0},
        {"step": 6, "dev_kl": 2.0},
    ]  # fmt: skip
    loss = dev_losses(records)["dev_kl"]
    assert (loss.last, loss.best, loss.best_step) == (2.0, 1.0, 2)
    assert dev_losses([{"step": 1, "loss": 1.0}]) == {}


@pytest.mark.parametrize(
    ("content", "found"),
    [(b'{"run": 1}', "run: Input should be a valid string"), (b"{", "Invalid JSON"), (b"\xff", "invalid start byte")],
)
def test_a_damaged_record_is_one_line(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"run\.json: .*{found}.*; expected the record of a training by this version"):
        read(tmp_path / "run.json", ExecutionRecord)
    assert read(tmp_path / "other.json", RunRecord) is None
