"""Predictions of small random models: complete, paired and the same as asking row by row."""

from pathlib import Path

import pytest
import torch
import yaml

from evaluate import predictions, respond
from evaluate.answering import Answering, Clip
from evaluate.swapping import swapped
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.weights import ModelsParams, fetch
from train import model_folder
from train.model.plora import lora_config
from train.model_folder import ModelConfig

EMOTIONS = ["sad", "happy"]
PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


@pytest.fixture
def model_path(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    config = ModelConfig(
        models=tiny_models, emotions=EMOTIONS, pad_to_30s=False, seed=3, encoder_trained=False, plora=True
    )
    model = model_folder.build(config, torch.float32)
    model.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model_folder.save(model, config, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    settings = {"seed": 1, "batch_size": 3, "max_new_tokens": 5, "examples": 4}
    prompts = dict.fromkeys(("semantic", "emotion", "recognition"), PROMPT)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"respond": settings, "prompts": prompts}))
    return tmp_path / "params.yaml"


def test_every_test_row_with_a_continuation_is_measured_under_every_condition(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    respond.main(
        kind="semantic", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file
    )
    table = predictions.read_divergence(tmp_path / "out" / "divergence.parquet").to_pandas()
    assert len(table) == 3 * 7  # one of the eight test rows has no continuation
    assert (table.kl > 0).all()
    assert set(table.num_tokens) == {3}
    by_condition = table.pivot(index="id", columns="condition", values="kl")
    assert (by_condition["after"] != by_condition["before"]).all()
    assert (by_condition["after"] != by_condition["shuffled"]).all()


def test_every_test_row_is_answered_by_every_system(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    respond.main(kind="emotion", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file)
    table = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS).to_pandas()
    assert len(table) == 8 * len(predictions.SYSTEMS)
    head = table[table.system == "head"].scores
    assert all(torch.tensor(scores).exp().sum() == pytest.approx(1.0) for scores in head)
    examples = predictions.read_examples(tmp_path / "out" / "examples.parquet").to_pandas()
    assert len(examples) == 4
    assert sorted(examples.emotion) == ["happy", "happy", "sad", "sad"]


def test_answers_and_scores_do_not_depend_on_the_rest_of_the_batch(model_path: Path, tiny_models: ModelsParams) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    answering = Answering(model_folder.load(model_path), prompter, max_new_tokens=6)
    clips = [Clip(torch.randn(80, frames)) for frames in (90, 300, 150)]
    prompts = [prompter.speech(Prompt.model_validate(PROMPT))] * 3
    with torch.no_grad():
        together, scores = answering.write(prompts, clips), answering.label_scores(prompts, clips, EMOTIONS)
        for i, clip in enumerate(clips):
            assert answering.write(prompts[:1], [clip]) == [together[i]]
            alone = answering.label_scores(prompts[:1], [clip], EMOTIONS)[0]
            assert alone == pytest.approx(scores[i], abs=1e-4)


def test_a_swapped_row_never_gets_what_may_not_stand_for_it() -> None:
    rows = [("a", "sad"), ("a", "happy"), ("b", "sad"), ("b", "happy")]
    for seed in range(5):
        chosen = swapped(rows, lambda row, clip: row[0] != clip[0] and row[1] != clip[1], seed)
        assert chosen == [3, 2, 1, 0]


def test_a_row_that_nothing_can_stand_for_is_an_error() -> None:
    with pytest.raises(UserError, match="row 0 has no other clip"):
        swapped(["a", "a"], lambda row, clip: row != clip, 1)


def test_a_missing_model_is_one_line(packed_folder: Path, params_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        respond.main(
            kind="semantic", data=packed_folder, model=tmp_path, output=tmp_path / "out", params_file=params_file
        )
