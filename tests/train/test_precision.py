"""Where a model answers, and in which precision."""

from pathlib import Path

import pytest
import torch
import yaml

from evaluate.respond import __main__ as respond
from pipeline.prompts import Prompt, Prompter
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import model_config
from train import saved_model
from train.inference import Answering, Clip
from train.precision import answering_dtype, best_device, training_dtype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_answers_in_float32_on_every_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert answering_dtype("auto", CPU) == torch.float32
        assert training_dtype("auto", CPU) == (torch.bfloat16 if native else torch.float32)


def test_auto_answers_on_a_gpu_as_training_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native: native)
        assert answering_dtype("auto", GPU) == training_dtype("auto", GPU)
        assert training_dtype("auto", GPU) == (torch.bfloat16 if native else torch.float32)


def test_no_gpu_is_taken_where_accelerate_is_told_to_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert best_device() == GPU
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert best_device() == CPU


def test_a_named_precision_holds_on_any_device() -> None:
    for device in (CPU, GPU):
        assert answering_dtype("bfloat16", device) == training_dtype("bfloat16", device) == torch.bfloat16
        assert answering_dtype("float32", device) == training_dtype("float32", device) == torch.float32


def test_answering_keeps_out_the_attention_that_plans_each_shape(
    tiny_models: ModelsParams, packed_folder: Path, tmp_path: Path
) -> None:
    config = model_config(tiny_models)
    saved_model.save(saved_model.build(config, torch.float32), config, tmp_path / "model")
    settings = {"seed": 1, "batch_size": 3, "max_new_tokens": 5, "examples": 4, "precision": "auto"}
    settings |= {"recognition_wordings": [], "option_orders": 1, "written": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"respond": settings}))
    torch.backends.cuda.enable_cudnn_sdp(True)
    respond.main("semantic", packed_folder, tmp_path / "model", tmp_path / "out", params_file=tmp_path / "params.yaml")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_bfloat16_answers_nearly_as_float32_does(tiny_models: ModelsParams, tmp_path: Path) -> None:
    config = model_config(tiny_models)
    saved_model.save(saved_model.build(config, torch.float32), config, tmp_path)
    prompter = Prompter.load(fetch(tiny_models.llm))
    prompts = [prompter.speech(Prompt(system="s", text="say: ", speech="hear: "))] * 2
    torch.manual_seed(0)
    clips = [Clip(torch.randn(80, frames), frames) for frames in (200, 300)]
    scores = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = saved_model.load(tmp_path, dtype)
        assert model.token_embeddings.weight.dtype == dtype
        assert model.adapter.down.weight.dtype == torch.float32
        answering = Answering(model, prompter, max_new_tokens=4)
        with torch.no_grad():
            scores[dtype] = torch.tensor(answering.label_scores(prompts, clips, config.emotions))
            assert len(answering.write(prompts, clips)) == 2
            assert torch.tensor(answering.emotion_scores(clips)).shape == (2, 2)
    assert not torch.equal(*scores.values())
    torch.testing.assert_close(*scores.values(), rtol=0.02, atol=0)
