"""Training on small random models: it resumes exactly, counts tokens rightly, and saves what it trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section, write_packed
from train import saved_model
from train.data import stored_teacher
from train.fit import checkpoint, run, stage_model
from train.fit.data import open_data
from train.fit.identity import fingerprint, identify
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams, WarmStartParams
from train.fit.run import RunFolders
from train.fit.schedule import Schedule
from train.fit.trainer import Trainer
from train.model import Batch
from train.model.inputs import sequences
from train.model_config import ModelConfig, load_config

EMOTIONS = ["sad", "happy"]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def emotion(**changes: Any) -> EmotionFitParams:
    return EmotionFitParams.model_validate(emotion_fit_section(**changes))


def stage_2(folders: RunFolders) -> RunFolders:
    return replace(folders, init=folders.output, output=folders.output.with_name("emotion"))


def losses(folders: RunFolders) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folders.output / "losses.jsonl").read_text().splitlines()]


def test_both_stages_learn_and_save_what_they_trained(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(epochs=20.0), tiny_models, EMOTIONS, folders, resume=False)
    kls = [record["kl"] for record in losses(folders) if "kl" in record]
    assert len(kls) == 60
    assert sum(kls[-10:]) < 0.9 * sum(kls[:10])
    assert not (folders.output / "plora").exists()
    run.fit(emotion(), tiny_models, EMOTIONS, stage_2(folders), resume=False)
    assert sorted(p.name for p in stage_2(folders).output.iterdir()) == [
        "adapter.safetensors",
        "config.json",
        "encoder.safetensors",
        "losses.jsonl",
        "plora",
        "run.json",
    ]
    assert sorted(p.name for p in (stage_2(folders).output / "plora").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert {"step", "loss", "ce", "emotion", "lr"} == set(losses(stage_2(folders))[1])


def test_a_saved_model_loads_with_every_trained_tensor(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    second = stage_2(folders)
    run.fit(emotion(), tiny_models, EMOTIONS, second, resume=False)
    loaded = saved_model.load(second.output)
    untrained = saved_model.build(load_config(second.output), torch.float32)
    before = dict(untrained.named_parameters())
    unchanged = {n for n, p in loaded.named_parameters() if n in before and torch.equal(p, before[n])}
    assert not any(n.startswith(("adapter", "head", "encoder.whisper.layers")) for n in unchanged)
    assert "encoder.whisper.embed_positions.weight" in unchanged
    # In the last block, speech reaches the response through keys and values alone.
    lora_b = {n: p for n, p in loaded.named_parameters() if "lora_B" in n}
    reached = {n for n in lora_b if "layers.0." in n or "k_proj" in n or "v_proj" in n}
    assert len(reached) == 9
    assert {n for n, p in lora_b.items() if p.abs().max() > 0} == reached


@pytest.mark.parametrize("stage", ["semantic", "emotion"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, killed_at: Any, stage: str
) -> None:
    settings: FitParams = semantic(warm_start=WarmStartParams(epochs=1, learning_rate=1e-3))
    if stage == "emotion":
        run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
        folders, settings = stage_2(folders), emotion()
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    whole = replace(folders, output=tmp_path / "whole")
    folders.output.rename(whole.output)

    with killed_at(4):
        run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)

    assert losses(folders) == losses(whole)
    for file in ("adapter.safetensors", "plora/adapter_model.safetensors"):
        if (whole.output / file).exists():
            assert (folders.output / file).read_bytes() == (whole.output / file).read_bytes()
    assert not list(folders.checkpoints.glob("*/*"))


def test_other_parameters_data_or_weights_are_another_run(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    llm = Path(shutil.copytree(tiny_models.llm.source, tmp_path / "llm"))
    models = tiny_models.model_copy(update={"llm": tiny_models.llm.model_copy(update={"source": str(llm)})})
    _, config = stage_model.build_model(semantic(), models, EMOTIONS, None)

    def name(settings: FitParams, config: ModelConfig = config, data: Path = folders.data) -> str:
        return fingerprint(identify(settings, config, data, None, torch.float32, is_main_process=True))

    names = [
        name(semantic()),
        name(semantic(learning_rate=1.0)),
        name(semantic(), config=config.model_copy(update={"pad_to_30s": True})),
        name(semantic(), data=write_packed(tmp_path / "packed")),
    ]
    weights = llm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert len({*names, name(semantic())}) == 5


@pytest.mark.parametrize("change", [{"workers": 1}, {"log_every": 2}, {"save_every": 2}, {"evaluate_every": 2}])
def test_a_run_goes_on_with_other_workers_or_intervals(
    tiny_models: ModelsParams, folders: RunFolders, killed_at: Any, capsys: Any, change: dict[str, int]
) -> None:
    with killed_at(4):
        run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    run.fit(semantic(**change), tiny_models, EMOTIONS, folders, resume=True)
    assert "fit: semantic: continues after step 4 of" in capsys.readouterr().out
    assert not list(folders.checkpoints.glob("*/*"))


def test_a_checkpoint_that_is_passed_over_is_named_with_what_differs(
    tiny_models: ModelsParams, folders: RunFolders, killed_at: Any, capsys: Any
) -> None:
    with killed_at(4):
        run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    state = max(folders.checkpoints.glob("*/step-*"))
    rate = semantic().learning_rate
    run.fit(semantic(learning_rate=0.5), tiny_models, EMOTIONS, folders, resume=True)
    expected = f"fit.semantic.learning_rate {rate}, now 0.5\n"
    told = f"fit: semantic: {state.parent}: not continued, because it is the checkpoint of another run: {expected}"
    assert told in capsys.readouterr().out
    assert state.is_dir()

    (state.parent / "identity.json").write_text("{")
    run.fit(semantic(learning_rate=0.5), tiny_models, EMOTIONS, folders, resume=True)
    assert "another run: identity.json is missing or damaged" in capsys.readouterr().out


def test_the_log_of_a_resumed_run_holds_each_step_once(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def save_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
        if state.step == 4:
            raise KeyboardInterrupt
        save(folder, state, keep)

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    monkeypatch.setattr(checkpoint, "save", save)
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=True)
    (log,) = folders.logs.glob("semantic-*/steps.jsonl")
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in logged] == [record["step"] for record in losses(folders)]


def test_an_evaluation_without_a_batch_adds_nothing(tiny_models: ModelsParams, folders: RunFolders) -> None:
    model, _ = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
    schedule = run.make_schedule(semantic(), num_steps=6)
    optimizer = run.make_optimizer(model, semantic())
    trainer = Trainer(model, run.make_objective(semantic(), model), optimizer, schedule, Accelerator(cpu=True))
    assert trainer.evaluate(iter([])) == {"dev_kl": 0.0}


def test_how_a_step_is_cut_into_batches_does_not_change_its_gradient(
    tiny_models: ModelsParams, folders: RunFolders
) -> None:
    gradients: list[torch.Tensor] = []
    settings = emotion()
    for rows, num_spare in (([[0, 3, 7, 11]], 0), ([[0, 3], [7, 11]], 0), ([[0, 3], [7, 11], [2, 5]], 1)):
        model, config = stage_model.build_model(semantic(), tiny_models, EMOTIONS, None)
        model.head.requires_grad_(True)
        data = open_data(folders.data, settings, config, with_teacher=False)
        schedule = Schedule(shape="as-published", seed=1, num_steps=1, warmup_steps=0, max_grad_norm=1e9)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
        trainer = Trainer(model, run.make_objective(settings, model), optimizer, schedule, Accelerator(cpu=True))
        gradients.append(gradient_of_a_step(trainer, list(data.batches(rows)), num_spare))
    assert gradients[0].abs().max() > 1e-4
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


def gradient_of_a_step(trainer: Trainer, batches: list[Batch], num_spare: int) -> torch.Tensor:
    """Take a step and return what the optimizer saw: plain SGD moves by minus the gradient at rate 1."""
    before = torch.cat([p.detach().flatten().clone() for p in trainer.trained.values()])
    trainer.step(0, batches, num_spare)
    return before - torch.cat([p.detach().flatten() for p in trainer.trained.values()])


def test_stage_2_refuses_a_stage_1_of_other_emotions(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    with pytest.raises(UserError, match="different models or emotions"):
        run.fit(emotion(), tiny_models, ["angry"], stage_2(folders), resume=False)


def test_a_model_folder_without_weights_is_one_line(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    source = Path(tiny_models.llm.source)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    models = tiny_models.model_copy(update={"llm": tiny_models.llm.model_copy(update={"source": str(tmp_path)})})
    with pytest.raises(UserError, match=r"models: .+; expected a whole model in Hugging Face format"):
        run.fit(semantic(), models, EMOTIONS, folders, resume=False)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"models: .+; expected a whole model in Hugging Face format"):
        run.fit(semantic(), models, EMOTIONS, folders, resume=False)


def test_stage_2_without_a_stage_1_says_what_is_missing(tiny_models: ModelsParams, folders: RunFolders) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        run.fit(emotion(), tiny_models, EMOTIONS, stage_2(folders), resume=False)


def with_signals(data: Path, folder: Path, models: ModelsParams, num_top: int, lacking: int | None = None) -> Path:
    """Copy a packed folder, giving each response the teacher signals of the LLM; row `lacking` of a split gets none."""
    model, _ = stage_model.build_model(semantic(), models, EMOTIONS, None)
    shell = packed.load_shell(data)
    assert shell.before_text is not None
    with packed.Writer(folder, shell, 1, packed.SCHEMA_WITH_SIGNALS) as writer:
        for split in ("train", "dev", "test"):
            rows = list(packed.load(data, split))
            for number, row in enumerate(rows):
                made = sequences(shell.before_text, [row["text_ids"]], shell.after, [row["response_ids"]])
                with torch.no_grad():
                    logits = model.output_head.logits(model.response_states(made, None))
                top = logits.log_softmax(-1).topk(num_top)
                if number != lacking:
                    row |= {"top_ids": top.indices.tolist(), "top_logprobs": top.values.tolist()}
            writer.write(split, rows)
    return folder


def test_a_teacher_stored_whole_trains_as_the_running_one_does(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_signals(folders.data, tmp_path / "whole", tiny_models, 258)
    exact, stored = replace(folders, data=data), replace(folders, data=data, output=tmp_path / "stored")
    run.fit(semantic(temperature=1.0), tiny_models, EMOTIONS, exact, resume=False)
    assert "stored teacher" not in capsys.readouterr().out
    run.fit(semantic(temperature=1.0, teacher="stored"), tiny_models, EMOTIONS, stored, resume=False)
    shown = "using the stored teacher (258 tokens per position); the logged kl is a lower bound, dev_kl is exact"
    assert shown in capsys.readouterr().out
    assert len(losses(exact)) == 9
    for ours, expected in zip(losses(stored), losses(exact), strict=True):
        assert ours == pytest.approx(expected, rel=1e-3)


def test_a_stored_teacher_is_run_for_the_dev_split_alone(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    data = with_signals(folders.data, tmp_path / "some", tiny_models, 4, lacking=3)
    settings = semantic(temperature=1.0, teacher="stored")
    _, config = stage_model.build_model(settings, tiny_models, EMOTIONS, None)
    opened = open_data(data, settings, config, with_teacher=True)
    (batch,) = opened.batches([[0, 1]])
    assert (batch.teacher, batch.num_positions) == (None, int(batch.student.attended.sum()) - 2)
    assert batch.signals is not None
    assert batch.signals.top_ids.shape == (6, 4)
    for dev in opened.dev_batches(process=0, num_processes=1):
        assert dev.teacher is not None
        assert dev.signals is None


@pytest.mark.parametrize(
    ("num_top", "lacking", "message"),
    [
        (None, None, "the packed data has no stored teacher; generate with store_logprobs above 0 and pack again, or "),
        (4, 5, "train-5: expected stored teacher tokens at all 3 response positions, found them at none; generate"),
    ],
)
def test_a_stored_teacher_that_is_not_there_is_told_before_training(
    tiny_models: ModelsParams,
    folders: RunFolders,
    tmp_path: Path,
    num_top: int | None,
    lacking: int | None,
    message: str,
) -> None:
    if num_top is not None:
        folders = replace(folders, data=with_signals(folders.data, tmp_path / "data", tiny_models, num_top, lacking))
    with pytest.raises(UserError, match=message):
        run.fit(semantic(temperature=1.0, teacher="stored"), tiny_models, EMOTIONS, folders, resume=False)
    assert not folders.output.exists()


def test_rows_with_other_numbers_of_stored_tokens_are_told(tmp_path: Path) -> None:
    shell = packed.PromptShell(before_speech=[1], before_text=[1], after=[2])
    with packed.Writer(tmp_path / "packed", shell, 1, packed.SCHEMA_WITH_SIGNALS) as writer:
        for split, counts in (("train", (3, 3, 2)), ("dev", (3, 3))):
            writer.write(split, (stored(f"{i}", count) for i, count in enumerate(counts)))
    with pytest.raises(UserError, match="2: expected 3 likeliest tokens at each position, found 2; generate with"):
        stored_teacher.check(packed.load(tmp_path / "packed", "train"), tmp_path)
    assert stored_teacher.check(packed.load(tmp_path / "packed", "dev"), tmp_path) == 3


def stored(key: str, count: int) -> dict[str, Any]:
    """Make a packed row with two response tokens, of which the second one has `count` stored tokens."""
    audio = {"bytes": b"", "path": None}
    return {"id": key, "audio": audio, "response_ids": [1, 2], "top_ids": [[1] * 3, [1] * count]}


def test_a_stored_teacher_has_no_other_temperature_than_1() -> None:
    with pytest.raises(ValidationError, match=r"temperature\n.+ 1 with a stored teacher, because .+input_value=2\.0"):
        semantic(teacher="stored")
