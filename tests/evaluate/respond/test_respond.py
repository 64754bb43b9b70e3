"""Predictions of small random models: complete, paired and the same as asking row by row."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml

from evaluate import predictions
from evaluate.respond import __main__ as respond
from evaluate.respond.shuffled_clips import swapped
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import model_config
from train import saved_model
from train.data.dataset import Collator, Examples
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.model.adapter import num_speech_tokens
from train.model.inputs import sequences
from train.model.plora import lora_config

EMOTIONS = ["sad", "happy"]
PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


@pytest.fixture
def model_path(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    config = model_config(tiny_models, plora=True)
    model = saved_model.build(config, torch.float32)
    model.add_plora(lora_config(2, 2, 0.0, "all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    saved_model.save(model, config, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    settings = {"seed": 1, "batch_size": 3, "max_new_tokens": 5, "examples": 4, "precision": "auto"}
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
    answering = Answering(saved_model.load(model_path), prompter, max_new_tokens=6)
    clips = [Clip(torch.randn(80, frames), frames) for frames in (90, 300, 150)]
    prompts = [prompter.speech(Prompt.model_validate(PROMPT))] * 3
    with torch.no_grad():
        together, scores = answering.write(prompts, clips), answering.label_scores(prompts, clips, EMOTIONS)
        for i, clip in enumerate(clips):
            assert answering.write(prompts[:1], [clip]) == [together[i]]
            alone = answering.label_scores(prompts[:1], [clip], EMOTIONS)[0]
            assert alone == pytest.approx(scores[i], abs=1e-4)


def test_what_is_written_is_no_speech_for_plora(model_path: Path, tiny_models: ModelsParams) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    model = saved_model.load(model_path)
    answering, clip = Answering(model, prompter, max_new_tokens=12), Clip(torch.randn(80, 300), 300)
    prompt = prompter.speech(Prompt.model_validate(PROMPT))
    asked = sequences(prompt.before, [[None] * num_speech_tokens(300)], prompt.after, [[]])
    with torch.no_grad():
        with model.speech_mask.applied(asked.speech):
            output = model.llm(inputs_embeds=model.embed(asked, answering.encode_speech([clip])), use_cache=True)
        ids: list[int] = []
        while len(ids) < 12 and (token := int(output.logits[0, -1].argmax())) != prompter.end_id:
            ids.append(token)
            step = {"input_ids": torch.tensor([[token]]), "use_cache": True}
            with model.speech_mask.applied(torch.ones(1, 1, dtype=torch.bool)):
                adapted = model.llm(past_key_values=copy.deepcopy(output.past_key_values), **step)
            output = model.llm(past_key_values=output.past_key_values, **step)
            assert (adapted.logits - output.logits).abs().max() > 1e-3
        assert answering.write([prompt], [clip]) == [prompter.decode(ids)]
    assert ids


@pytest.mark.parametrize("pad_to_30s", [False, True])
def test_the_head_scores_a_clip_as_it_does_in_training(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, pad_to_30s: bool
) -> None:
    config_file = model_path / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"pad_to_30s": pad_to_30s}))
    respond.main(kind="emotion", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file)
    table = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS).to_pandas()
    config, model = saved_model.load_config(model_path), saved_model.load(model_path)
    rows = packed.load(packed_folder, "test")
    examples = Examples(rows, LogMel(fetch(config.models.encoder), pad_to_30s), EMOTIONS)
    batch = Collator(packed.load_shell(packed_folder), with_teacher=False)([examples[i] for i in range(len(rows))])
    with torch.no_grad():
        expected = model(batch).emotion.log_softmax(-1).tolist()
    assert table[table.system == "head"].scores.tolist() == [pytest.approx(scores, abs=1e-4) for scores in expected]


def test_a_swapped_row_never_gets_what_may_not_stand_for_it() -> None:
    rows = [("a", "sad"), ("a", "happy"), ("b", "sad"), ("b", "happy")]
    for seed in range(5):
        chosen = swapped(rows, lambda row, clip: row[0] != clip[0] and row[1] != clip[1], lambda *_: 0, seed)
        assert chosen == [3, 2, 1, 0]


def test_the_least_unlike_of_those_that_may_stand_for_a_row_are_drawn_from() -> None:
    lengths = [10, 11, 30, 31, 12]
    chosen = {tuple(swapped(lengths, lambda a, b: a != b, lambda a, b: abs(a - b), seed)) for seed in range(9)}
    assert chosen == {(1, 0, 3, 2, 1), (1, 4, 3, 2, 1)}


def test_a_row_that_nothing_can_stand_for_is_an_error() -> None:
    with pytest.raises(UserError, match="row 0: found no clip that may replace"):
        swapped(["a", "a"], lambda row, clip: row != clip, lambda *_: 0, 1)


def test_a_missing_model_is_one_line(packed_folder: Path, params_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        respond.main(
            kind="semantic", data=packed_folder, model=tmp_path, output=tmp_path / "out", params_file=params_file
        )
