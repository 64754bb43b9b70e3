"""Greedy is greedy: answers follow the logits, whatever the model folder says about sampling."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.prompts import Prompt, Prompter
from pipeline.weights.source import ModelsParams
from tests import builders
from train import saved_model
from train.inference import Answering

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
