"""The command that plans a training."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from pipeline import params
from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import change_params, utterance, write_packed, write_table
from train.__main__ import app
from train.commands.plan import RECIPES, find_params, main
from train.plan.costs import make_plan
from train.plan.models import read_config, read_encoder_config
from train.plan.rows import AFTER_TOKENS, NAMED_TOKENS, read_rows


@pytest.fixture
def project(tmp_path: Path, root: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's parameters for tiny models, and nothing else; the cache of weights is empty."""
    monkeypatch.setenv("BLSP_EMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    change_params(
        {"models": TypeAdapter(ModelsParams).dump_python(tiny_models)}, root / "params.yaml", Path("params.yaml")
    )
    return tmp_path


def plan(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    main(as_json=True, **options)
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_gpus_share_the_layers_of_a_sharded_llm(project: Path, capsys: pytest.CaptureFixture[str], llm: Path) -> None:
    deep = json.loads((llm / "config.json").read_text()) | {"num_hidden_layers": 16}
    (project / "deep").mkdir()
    (project / "deep" / "config.json").write_text(json.dumps(deep))
    change_params({"models.llm.source": "deep", "fit.semantic.shard_llm": True})
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 32 * 64 * 3 + 2 * 32  # attention, MLP, norms
    whole, quarter = (plan(capsys, count=count)["stages"][0]["memory"]["weights"] for count in (1, 4))
    assert (whole - quarter) * 2**30 == pytest.approx(2 * layer * (16 - 16 / 4 - 3))  # bfloat16


def test_the_demo_is_planned_from_its_parameters_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, price=2.0, count=2)
    semantic, emotion = found["stages"]
    assert (semantic["rows"], emotion["rows"]) == (18 * 13, 18 * 20)
    assert semantic["teacher_positions"] > 0 == emotion["teacher_positions"]
    for stage in (semantic, emotion):
        memory = stage["memory"]
        parts = ("weights", "optimizer", "largest", "context", "gaps")
        assert memory["total"] == pytest.approx(sum(memory[part] for part in parts))
        assert memory["head_room"] == pytest.approx(memory["card"] - memory["total"])
        assert 0 < stage["gpu_hours"] <= stage["gpu_hours_at_most"]
        assert 0 < stage["real_positions"] <= 1
    assert found["fits"]
    assert found["gpu_hours"] == pytest.approx(
        found["generating_gpu_hours"] + semantic["gpu_hours"] + emotion["gpu_hours"]
    )
    assert found["money"] == pytest.approx(2 * found["gpu_hours"])
    text = " ".join(found["assumptions"])
    assert "docs/results.md" in text
    assert "the h100 was not measured" in text
    assert "36 tokens on average" in text
    assert "teacher of stage 2" not in text


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_told_teacher_is_planned_with_the_tokens_that_name_the_emotion(
    project: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    changes = {"fit.emotion.batches.layout": layout, "fit.emotion.epochs": 1, "fit.emotion.batches.max_positions": 2000}
    change_params(changes)
    alone = plan(capsys)
    change_params({"fit.emotion.response_loss": "kl"})
    found = plan(capsys)
    rows = read_rows("emotion", Path("params.yaml"), project)
    expected = rows.num_rows / len(rows.text) * float((rows.text + NAMED_TOKENS + AFTER_TOKENS + rows.response).sum())
    emotion, without = found["stages"][1], alone["stages"][1]
    if layout == "packed":
        assert emotion["teacher_positions"] == pytest.approx(expected)
        assert emotion["student_positions"] == pytest.approx(without["student_positions"])
    else:
        assert emotion["teacher_positions"] > expected
    assert emotion["memory"]["largest"] > 0
    assert found["generated_tokens"] == alone["generated_tokens"]
    assert f"with {NAMED_TOKENS} tokens from the emotion to the transcript" in " ".join(found["assumptions"])


def test_packed_data_come_first_then_manifests(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_packed(project / "data/packed/semantic")
    rows = [
        utterance(f"a/{i}", corpus="a", split="train", duration_s=3.0 + i, text="one two three", speaker="a/1")
        for i in range(5)
    ]
    write_table(project / "manifests/emotion.parquet", [*rows, {**rows[0], "id": "a/9", "split": "test"}])
    change_params({"fit.semantic.encoder_states": "cached"})
    found = plan(capsys)
    semantic, emotion = found["stages"]
    assert (semantic["rows"], emotion["rows"]) == (12, 5)
    states = semantic["audio_hours"] * 3600 * 50
    assert found["disk_gb"]["encoder states"] == pytest.approx(states * 24 * 2 / 1e9)  # 24 numbers of two bytes
    assert "packed rows" in semantic["source"]
    assert "manifests/emotion.parquet" in emotion["source"]
    assert emotion["audio_hours"] == pytest.approx(25 / 3600)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_told(project: Path) -> None:
    change_params({"models.llm.source": "Qwen/Qwen2.5-7B-Instruct", "models.llm.sha256": None})
    change_params({f"fit.{kind}.precision": "float32" for kind in ("semantic", "emotion")})
    change_params({"fit.semantic.max_steps": 10})
    found = make_plan("x", Path("params.yaml"), project, "rtx4090", 1, None)
    assert not found.fits
    assert found.stages[0].steps == 10
    assert found.stages[0].memory.weights == pytest.approx(4 * 7.6156 / 2**30 * 1e9, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "h1000"}, "--gpu: found h1000, expected one of a100, .*h200"),
        ({"name": "papper"}, "--recipe: found papper, expected one of h100-1, paper, real-half, real-small"),
        ({"count": 0}, "--count: found 0, expected at least 1"),
        ({"price": -1.0}, "--price: found -1, expected a price above 0"),
        ({"params_file": Path("none.yaml")}, "none.yaml: no such parameter file"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(project: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(**options)


def test_an_unknown_model_and_an_unknown_corpus_are_told(project: Path) -> None:
    with pytest.raises(
        UserError, match=r"models\.llm\.source: found no configuration of some/llm, expected .*--llm\.json"
    ):
        main(params_file=change_params({"models.llm.source": "some/llm", "models.llm.sha256": None}, to=Path("a.yaml")))
    with pytest.raises(UserError, match=r"corpora\.yaml: found no size of tess, expected one of librispeech"):
        main(
            params_file=change_params(
                {"synthesise": {}, "ingest.librispeech-synthetic.reader": "tess"}, Path("params.yaml"), Path("b.yaml")
            )
        )


def test_every_recipe_has_sizes_and_configurations(root: Path) -> None:
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    assert "paper" in names
    for name in names:
        models = params.load(find_params(name), "models", ModelsParams)
        assert read_encoder_config(models.encoder).d_model > 0
        assert read_config("llm", models.llm).vocab_size > 0
        if not name.startswith("real"):  # their LibriSpeech-tts has no published size
            for kind in ("semantic", "emotion"):
                assert read_rows(kind, find_params(name), Path("nowhere")).num_rows > 1_000


def test_the_paper_has_3_7_m_rows_of_stage_1_and_70_k_of_stage_2() -> None:
    recipe = find_params("paper")
    assert read_rows("semantic", recipe, Path("nowhere")).num_rows == pytest.approx(3.8e6, rel=0.05)
    assert read_rows("emotion", recipe, Path("nowhere")).num_rows == pytest.approx(70e3, rel=0.01)


def test_a_corpus_that_is_only_tested_costs_no_training(project: Path) -> None:
    source = read_rows("emotion", find_params("paper"), Path("nowhere")).source
    assert "iemocap" in source
    assert "ravdess" not in source  # all its actors are in test
    everyone = {"split.emotion": ["ravdess"]}
    only = change_params(everyone, RECIPES / "paper.yaml", Path("only.yaml"))
    with pytest.raises(UserError, match=r"only.yaml: split.emotion: found no corpus with speakers in train"):
        read_rows("emotion", only, Path("nowhere"))


@pytest.mark.slow
def test_the_recipe_for_one_h100_fills_it(project: Path) -> None:
    found = make_plan("h100-1", find_params("h100-1"), project, "h100", 1, None)
    assert all(0 < stage.memory.head_room < 16 for stage in found.stages)
    assert [stage.clips_per_step for stage in found.stages] == pytest.approx([768, 128], rel=0.2)


def test_the_command_prints_tables(project: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "--gpu", "h200", "--price", "3"])
    assert done.exit_code == 0, done.output
    assert "GiB: activations" in done.output
    assert "money: " in done.output
    assert done.output.rstrip().endswith("plan: both stages fit into memory")
