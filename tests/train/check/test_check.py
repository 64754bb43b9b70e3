"""The check of an LLM that needs only its configuration."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as t
import yaml
from pydantic import TypeAdapter

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.backbones import BACKBONES, REFUSED, SMALL, Backbone
from train.check.__main__ import check_architecture, main, small_copy

STATEFUL = ("Qwen3.5", "LFM2")


def config_of(backbone: Backbone) -> Any:
    return backbone.config(**(SMALL | backbone.more))


def save(config: Any, folder: Path) -> Path:
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BACKBONES)
def test_a_small_copy_of_each_supported_llm_trains_and_answers(name: str, tmp_path: Path) -> None:
    folder = save(config_of(BACKBONES[name]), tmp_path)
    start = "for each row" if name in STATEFUL else "once for a batch"
    found = check_architecture(folder, BACKBONES[name].targets)["result"]
    assert found == f"can be trained; the start of prompts is computed {start}"


def vision_language() -> Any:
    text = {**SMALL, "head_dim": 8, "sliding_window": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.Gemma3Config(text_config=text, vision_config={**vision, "image_size": 32, "patch_size": 16})


UNSUPPORTED = {
    **{name: config_of(backbone) for name, backbone in REFUSED.items()},
    "Gemma 3 with pictures": vision_language(),
    "Falcon-H1": t.FalconH1Config(**SMALL, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8),
    "OPT": t.OPTConfig(hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_llm_that_cannot_train_or_answer_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^(models\.llm: \w+|fit\.emotion\.plora\.targets): found .+") as error:
        check_architecture(save(UNSUPPORTED[name], tmp_path), ["q_proj"] if name == "Falcon-H1" else "all-linear")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_porj"]])
def test_the_stage_writes_what_it_found_or_nothing(
    targets: str | list[str], tmp_path: Path, tiny_models: ModelsParams
) -> None:
    plora = {"rank": 1, "alpha": 1, "dropout": 0.0, "targets": targets, "positions": "speech"}
    models = TypeAdapter(ModelsParams).dump_python(tiny_models)
    values = {"models": models, "fit": {"emotion": {"plora": plora}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    output = tmp_path / "models" / "check.json"
    if targets == "all-linear":
        main(output, tmp_path / "params.yaml")
        assert json.loads(output.read_text())["result"].startswith("can be trained")
    else:
        with pytest.raises(UserError, match="v_porj"):
            main(output, tmp_path / "params.yaml")
        assert not output.exists()


def test_the_copy_of_a_large_llm_is_small_and_has_each_kind_of_layer() -> None:
    large = t.Qwen3_5TextConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=48, vocab_size=150_000)
    llm = small_copy(large)
    assert [str(kind) for kind in llm.config.layer_types] == ["linear_attention"] * 3 + ["full_attention"]
    assert llm.num_parameters() < 10e6
    assert llm.config.hidden_size == 128
    assert large.num_hidden_layers == 48, "the configuration itself stays as it is"


def test_a_copy_that_cannot_be_made_is_told_and_left_to_stage_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise IndexError("odd\nconfiguration")

    monkeypatch.setattr(t.AutoModelForCausalLM, "from_config", fail)
    folder = save(config_of(BACKBONES["Llama"]), tmp_path)
    assert check_architecture(folder, "all-linear")["result"] == (
        "no small copy of it can be made: IndexError (odd); it is checked when stage 1 starts"
    )
