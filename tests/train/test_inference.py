"""Greedy is greedy: answers follow the logits, whatever the model folder says about sampling."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.prompts import Prompt, Prompter
from pipeline.weights.source import ModelsParams
from tests import builders
from tests.backbones import BACKBONES, SMALL, Backbone
from tests.conftest import character_tokenizer
from train import inference, saved_model
from train.inference import Answering, Clip
from train.model.plora import lora_config

NEW = 24
TEXTS = ["dogs", "kids are talking", "it is eleven o'clock"]
SAMPLING: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "do_sample": True},
    "length": {"min_new_tokens": 30, "length_penalty": 3.0},
    "words": {"no_repeat_ngram_size": 2, "suppress_tokens": [40, 41, 42], "begin_suppress_tokens": [50, 51]},
    "beams": {"num_beams": 3, "early_stopping": True},
}


@pytest.fixture
def models(tmp_path: Path, tiny_models: ModelsParams, request: pytest.FixtureRequest) -> ModelsParams:
    """The tiny models, with the sampling of a published LLM."""
    folder = Path(shutil.copytree(tiny_models.llm.source, tmp_path / "llm"))
    sampling = SAMPLING[request.param]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, **sampling}))
    return tiny_models.model_copy(update={"llm": tiny_models.llm.model_copy(update={"source": str(folder)})})


def by_the_logits(folder: str, ids: list[int]) -> list[int]:
    llm = AutoModelForCausalLM.from_pretrained(folder).eval()
    new: list[int] = []
    while len(new) < NEW:
        with torch.no_grad():
            token = int(llm(input_ids=torch.tensor([[*ids, *new]])).logits[0, -1].argmax())
        if token == 0:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("models", SAMPLING, indirect=True)
def test_answers_and_continuations_follow_the_logits(models: ModelsParams) -> None:
    folder = Path(models.llm.source)
    prompter = Prompter.load(folder)
    prompts = [prompter.text(Prompt(system="S", text="Say: ", speech=""), text) for text in TEXTS]
    expected = [by_the_logits(models.llm.source, list(prompt.ids)) for prompt in prompts]
    answering = Answering(saved_model.build(builders.model_config(models), torch.float32), prompter, NEW)
    engine = TransformersEngine(builders.generate_params(max_new_tokens=NEW), folder, prompter.end_ids)
    with torch.no_grad():
        for prompt, ids in zip(prompts, expected, strict=True):
            assert answering.write([prompt], None) == [prompter.decode(ids)]
    asked = builders.requests([prompt.ids for prompt in prompts])
    found = [list(answer.token_ids) for answer in builders.answers_in_order(engine, asked)]
    assert found == expected


FAMILIES = {
    "Llama": BACKBONES["Llama"],
    "Qwen2.5": BACKBONES["Qwen2.5"],
    "Gemma 2": BACKBONES["Gemma 2"],
    "Gemma 3": Backbone(transformers.Gemma3TextConfig, {"head_dim": 8, "sliding_window": 256}),
    "Gemma 3, short window": BACKBONES["Gemma 3"],
    "LFM2": BACKBONES["LFM2"],
}
WHOLE = ("Gemma 3, short window", "LFM2")
"""LLMs whose answers cannot continue from the keys and values of the prompt."""
LABELS = ["sad", "happy", "h", "sadly"]
ANSWERS: list[list[tuple[int, ...]]] = [
    [(40, 41, 42, 43, 0), (50,), (40, 44), (40, 41, 42, 43, 0)],
    [(60, 61, 62, 63, 64, 65, 66, 67)],
    [(70, 71), (72, 73, 74)],
]
"""Answers to three prompts; the prompts have different numbers of them."""


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_continues_from_the_prompt_is_what_whole_sequences_give(
    tmp_path: Path, tiny_models: ModelsParams, name: str, everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    llm = transformers.AutoModelForCausalLM.from_config(FAMILIES[name].config(**(SMALL | FAMILIES[name].more)))
    llm.save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    weights = tiny_models.llm.model_copy(update={"source": str(tmp_path)})
    model = saved_model.build(builders.model_config(tiny_models.model_copy(update={"llm": weights})), torch.float32)
    model.add_plora(lora_config(2, 4, 0.0, FAMILIES[name].targets), everywhere=everywhere)
    for parameter_name, parameter in model.llm.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.3)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    answering = Answering(model, Prompter(character_tokenizer()), 12)
    prompt = Prompt(system="S", text="Say: ", speech="Listen: ")
    clips = [Clip(torch.randn(80, frames), frames) for frames in (90, 300, 160)]
    speech, texts = answering.prompter.speech(prompt), [answering.prompter.text(prompt, text) for text in TEXTS]
    told = [speech, answering.prompter.around(prompt, (), emotion=None), speech]
    monkeypatch.setattr(Prompter, "answer", lambda _self, ids: ids)
    prefills: list[object] = []
    prefill = Answering._prefill

    def noted(self: Answering, *args: Any, **kwargs: Any) -> Any:
        prefills.append(prefill(self, *args, **kwargs))
        return prefills[-1]

    with torch.no_grad():
        monkeypatch.setattr(Answering, "_prefill", noted)
        found = answering.score_and_write([speech] * 3, clips, LABELS)
        alone = [answering.score_and_write([speech], [clip], LABELS) for clip in clips]
        of_texts = answering.score_and_write(texts, None, LABELS)
        of_answers = answering.answer_scores(told, clips, ANSWERS)
        answers_alone = [
            answering.answer_scores([shell], [clip], [of])[0]
            for shell, clip, of in zip(told, clips, ANSWERS, strict=True)
        ]
        some = answering.score_and_write_some(told, clips, ANSWERS, [1, 2])
        all_written = answering.write(told, clips)
        monkeypatch.setattr(inference, "WIDTH", 6)
        in_parts = answering.answer_scores(told, clips, ANSWERS)
        monkeypatch.setattr(Answering, "_prefill", lambda *_args, **_kwargs: None)
        expected = answering.score_and_write([speech] * 3, clips, LABELS)
        expected_of_texts = answering.score_and_write(texts, None, LABELS)
        expected_of_answers = answering.answer_scores(told, clips, ANSWERS)
        whole_some = answering.score_and_write_some(told, clips, ANSWERS, [1, 2])
    assert [each is None for each in prefills] == [name in WHOLE] * 12
    assert some[1] == whole_some[1] == all_written[1:]
    for few in (of_answers, answers_alone, in_parts, some[0], whole_some[0]):
        assert few == [pytest.approx(of_prompt, abs=1e-4) for of_prompt in expected_of_answers]
    assert len({round(score, 2) for of_prompt in expected_of_answers for score in of_prompt}) == 6
    for scores, others in ((found, expected), (of_texts, expected_of_texts)):
        torch.testing.assert_close(torch.tensor(scores[0]), torch.tensor(others[0]), rtol=0, atol=1e-4)
        assert scores[1] == others[1]
    torch.testing.assert_close(torch.tensor([a[0][0] for a in alone]), torch.tensor(found[0]), rtol=0, atol=1e-4)
    assert [a[1][0] for a in alone] == found[1]
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert any(len(ids) == 12 for ids in found[1])
