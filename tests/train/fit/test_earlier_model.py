"""A stage that continues from an earlier model starts as that model is, goes on from there, or says why not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section, write_packed
from train import saved_model
from train.fit import run
from train.fit.identity import identify
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders
from train.fit.stage_model import build_model
from train.model_config import load_config

EMOTIONS = ["sad", "happy"]
STILL = {"learning_rate": 1e-9, "max_steps": 1}
WARM_START = {"epochs": 1, "learning_rate": 1e-3}


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**changes))


def emotion(**changes: Any) -> EmotionFitParams:
    return EmotionFitParams.model_validate(emotion_fit_section(**changes))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModelsParams, packed_folder: Path) -> Path:
    """The folder with the models of both stages; do not change it."""
    root = tmp_path_factory.mktemp("earlier")
    first = RunFolders(
        data=packed_folder, init=None, output=root / "semantic", checkpoints=root / "checkpoints", logs=root / "logs"
    )
    run.fit(semantic(epochs=1.0), tiny_models, EMOTIONS, first, resume=False)
    second = replace(first, init=root / "semantic", output=root / "emotion")
    run.fit(emotion(epochs=1.0, learning_rate=1e-3), tiny_models, EMOTIONS, second, resume=False)
    return root


def tensors(model: Path) -> dict[str, torch.Tensor]:
    """Return all trained tensors of a model folder, each under the name of its file."""
    files = sorted(model.rglob("*.safetensors"))
    return {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def records(model: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (model / "losses.jsonl").read_text().splitlines()]


def dev_losses(model: Path, name: str) -> list[float]:
    return [record[name] for record in records(model) if name in record]


@pytest.mark.parametrize("train_encoder", [True, False])
def test_stage_2_starts_as_its_earlier_model_is(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, train_encoder: bool
) -> None:
    settings = emotion(init=str(earlier / "emotion"), train_encoder=train_encoder, **STILL)
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    before, after = tensors(earlier / "emotion"), tensors(folders.output)
    assert any(name.startswith("encoder") for name in before)  # also if this training leaves the encoder as it is
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-7, msg=name)
    for name in ("dev_ce", "dev_emotion"):
        expected = dev_losses(earlier / "emotion", name)[-1]
        assert dev_losses(folders.output, name) == pytest.approx([expected, expected], rel=1e-4)  # first and last step


@pytest.mark.parametrize("stage", ["semantic", "emotion"])
def test_stage_1_takes_the_adapter_and_a_trained_encoder(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    init = earlier / stage
    settings = semantic(init=str(init), warm_start=WARM_START, **STILL)
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    expected = {name: each for name, each in tensors(init).items() if not name.startswith("adapter_model")}
    found = tensors(folders.output)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-7, msg=name)
    config = load_config(folders.output)
    assert (config.plora, config.encoder_trained) == (False, stage == "emotion")
    taken = "adapter and trained encoder, without its P-LoRA" if stage == "emotion" else "adapter"
    lines = capsys.readouterr().out.splitlines()
    assert f"fit: semantic: continues from {init}: {taken}, without a warm start" in lines
    model, _ = build_model(settings, tiny_models, EMOTIONS, None)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"adapter"}


def test_cached_encoder_states_are_those_of_the_earlier_model(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    losses = []
    for name, changes in {
        "base": {"encoder_states": "cached"},
        "computed": {"init": str(earlier / "emotion")},
        "cached": {"init": str(earlier / "emotion"), "encoder_states": "cached"},
    }.items():
        run.fit(semantic(**STILL, **changes), tiny_models, EMOTIONS, replace(folders, output=tmp_path / name), False)
        losses.append(dev_losses(tmp_path / name, "dev_kl"))
    base, computed, cached = losses
    assert cached == pytest.approx(computed, rel=1e-5)
    assert cached != pytest.approx(base, rel=1e-3)
    assert len(list(folders.checkpoints.glob("encoder-states/*"))) == 2


def test_an_encoder_that_was_trained_before_stays_with_a_stage_2_that_does_not_train_it(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders
) -> None:
    run.fit(semantic(init=str(earlier / "emotion"), **STILL), tiny_models, EMOTIONS, folders, resume=False)
    second = replace(folders, init=folders.output, output=folders.output.with_name("second"))
    run.fit(emotion(train_encoder=False, max_steps=1), tiny_models, EMOTIONS, second, resume=False)
    kept, expected = (load_file(folder / "encoder.safetensors") for folder in (second.output, earlier / "emotion"))
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())


def test_on_new_rows_the_loss_falls_below_that_of_the_earlier_model(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    new = replace(folders, data=write_packed(tmp_path / "new", seed=1))
    settings = emotion(init=str(earlier / "emotion"), epochs=10.0)
    run.fit(settings, tiny_models, EMOTIONS, new, resume=False)
    before, *_, after = dev_losses(new.output, "dev_ce")
    assert after < before - 0.1


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, killed_at: Any
) -> None:
    settings = emotion(init=str(earlier / "emotion"))
    whole = replace(folders, output=folders.output.with_name("whole"))
    run.fit(settings, tiny_models, EMOTIONS, whole, resume=False)
    with killed_at(4):
        run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)
    assert records(folders.output) == records(whole.output)
    found, expected = tensors(folders.output), tensors(whole.output)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_content_of_the_earlier_model_is_part_of_the_run_and_its_place_is_not(
    earlier: Path, tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path
) -> None:
    config = load_config(earlier / "emotion")

    def identity(init: Path) -> dict[str, Any]:
        return identify(emotion(init=str(init)), config, folders.data, init, torch.float32, is_main_process=True)

    copy = Path(shutil.copytree(earlier / "emotion", tmp_path / "copy"))
    assert identity(copy) == identity(earlier / "emotion")
    file = copy / "plora" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert identity(copy) != identity(earlier / "emotion")


def test_a_record_names_all_trainings_before(earlier: Path, tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(emotion(init=str(earlier / "emotion"), **STILL), tiny_models, EMOTIONS, folders, resume=False)
    before = [json.loads((earlier / stage / "run.json").read_text())["run"] for stage in ("emotion", "semantic")]
    record = json.loads((folders.output / "run.json").read_text())
    assert record["init"] == before[0]
    assert record["origin"] == [{"run": name, "data": folders.data.name, "rows": 12} for name in before]


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("emotion", {"plora": {"rank": 3}}, r"fit\.emotion\.plora\.rank: found 2, expected 3 as in the parameters"),
        ("emotion", {"plora": {"alpha": 4}}, r"fit\.emotion\.plora\.alpha: found 2, expected 4"),
        (
            "emotion",
            {"plora": {"targets": ["q_proj"]}},
            r"fit\.emotion\.plora\.targets: found down_proj, .*v_proj, expected q_proj as in the parameters",
        ),
        ("emotion", {"init": "semantic"}, "semantic: found a stage-1 model, expected a stage-2 model"),
        ("emotion", {"init": "nothing"}, "nothing: no trained model there"),
        ("semantic", {"pad_to_30s": True}, r"fit\.semantic\.pad_to_30s: found False, expected True"),
        ("semantic", {"emotions": ["sad"]}, r"emotions: found \['sad', 'happy'\], expected \['sad'\]"),
        ("semantic", {"llm": "elsewhere"}, r"models\.llm: found .*, expected .*elsewhere"),
    ],
)
def test_a_model_that_does_not_fit_the_parameters_is_refused(
    earlier: Path, tiny_models: ModelsParams, stage: str, changes: dict[str, Any], message: str
) -> None:
    section = emotion_fit_section() if stage == "emotion" else semantic_fit_section()
    section["init"] = str(earlier / changes.pop("init", stage))
    emotions = changes.pop("emotions", EMOTIONS)
    if "llm" in changes:
        llm = tiny_models.llm.model_copy(update={"source": changes.pop("llm")})
        tiny_models = tiny_models.model_copy(update={"llm": llm})
    if "plora" in changes:
        changes["plora"] = section["plora"] | changes["plora"]
    kind = EmotionFitParams if stage == "emotion" else SemanticFitParams
    with pytest.raises(UserError, match=f"(?s)fit.{stage}.init: .*{message}"):
        build_model(kind.model_validate(section | changes), tiny_models, emotions, None)


def test_a_stage_2_model_is_refused_as_a_stage_1_model(earlier: Path, tiny_models: ModelsParams) -> None:
    message = r"--init: .*: found a stage-2 model, expected a stage-1 model; fit\.emotion\.init continues"
    with pytest.raises(UserError, match=message):
        build_model(emotion(), tiny_models, EMOTIONS, earlier / "emotion")
    assert saved_model.plora_size(earlier / "emotion") == (2, 2)
