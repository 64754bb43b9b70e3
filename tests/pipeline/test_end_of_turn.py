"""The end of a turn is the token with which the LLM ends its answers, whatever the tokenizer calls its end token."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.generate import answers
from pipeline.generate.engines.interface import Answer, Request
from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.generate.params import GenerateParams
from pipeline.generate.run import open_run
from pipeline.generate.store import KEY
from pipeline.prompts import Prompt, Prompter
from pipeline.tables import continuations
from pipeline.weights.source import ModelsParams
from tests.conftest import character_tokenizer
from train import saved_model
from train.inference import Answering
from train.model_config import ModelConfig

CHATML = character_tokenizer().chat_template
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{{ '[INST] ' + m.content + '[/INST]' if m.role == 'user' else m.content + '<eos>' }}"
    "{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TWO_MESSAGES = (
    "<start_of_turn>user\n{{ messages[0].content }}\n\n{{ messages[1].content | trim }}<end_of_turn>\n"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
SYSTEM_ONLY = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages }}"


def save_tokenizer(folder: Path, template: str, specials: list[str], generation_ends: list[str]) -> Path:
    """Save a tokenizer with the end token <eos>, and a generation config that stops at `generation_ends`."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<eos>", "additional_special_tokens": specials})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(generation_ends)
    if ends:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


@pytest.mark.parametrize(
    ("template", "specials", "generation_ends", "expected"),
    [
        (CHATML, ["<|im_start|>", "<|im_end|>"], [], "<|im_end|>"),
        (GEMMA, ["<start_of_turn>", "<end_of_turn>"], ["<eos>", "<end_of_turn>"], "<end_of_turn>"),
        (GEMMA, ["<start_of_turn>", "<end_of_turn>"], [], "<end_of_turn>"),
        (TWO_MESSAGES, ["<start_of_turn>", "<end_of_turn>"], ["<eos>", "<end_of_turn>"], "<end_of_turn>"),
        (PHI, ["<|end|>", "<|user|>", "<|assistant|>"], ["<eos>", "<|end|>"], "<|end|>"),
        (GLM, ["<|user|>", "<|assistant|>", "<|observation|>"], ["<eos>", "<|user|>", "<|observation|>"], "<|user|>"),
        (MISTRAL, [], [], "<eos>"),
        (PLAIN, [], [], "<eos>"),
        (SYSTEM_ONLY, [], [], "<eos>"),
    ],
)
def test_the_turn_ends_with_the_token_of_the_template(
    tmp_path: Path, template: str, specials: list[str], generation_ends: list[str], expected: str
) -> None:
    prompter = Prompter.load(save_tokenizer(tmp_path, template, specials, generation_ends))
    names = prompter.tokenizer.convert_ids_to_tokens
    assert names(prompter.end_id) == expected
    assert set(names(list(prompter.end_ids))) == {"<eos>", expected, *generation_ends}
    assert prompter.end_ids[0] == prompter.end_id


def test_the_config_names_the_end_tokens_if_there_is_no_generation_config(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, PLAIN, ["<|end|>"], [])
    end = Prompter.load(folder).tokenizer.convert_tokens_to_ids("<|end|>")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": end}))
    assert end in Prompter.load(folder).end_ids


def with_transformers(given: GenerateParams) -> GenerateParams:
    return given.model_copy(update={"engine": "transformers", "max_new_tokens": 12})


def test_an_answer_is_packed_with_the_token_that_ended_it(project: Path) -> None:
    run = open_run("semantic", project / "params.yaml")
    prompt = run.prompter.text(run.prompt, "kids are talking").ids
    free = TransformersEngine(with_transformers(run.settings), run.model, [0])
    ((_, whole),) = free.generate([Request(b"", "", None, prompt, None)])
    other = next(token for token in whole.token_ids[2:] if token not in whole.token_ids[:2])
    engine = TransformersEngine(with_transformers(run.settings), run.model, [0, other])
    ((_, answer),) = engine.generate([Request(b"", "", None, prompt, None)])
    assert answer.end_id == other
    assert answer.finish_reason == continuations.STOP
    key = run.signature.key("kids are talking", None)
    request = Request(key, "kids are talking", None, prompt, None)
    run.store.append([answers.stored_answer(request, answer, run.prompter, "e", "h", 0)])
    utterances = pa.table({"id": ["a"], "text": ["kids are talking"], "emotion": [None]})
    table = answers.read_continuations(utterances, pa.array([key], KEY), run, {})
    assert table["end_id"].to_pylist() == [other]
    assert packed_response(table, run.prompter) == [*answer.token_ids, other]


def packed_response(kept: pa.Table, prompter: Prompter) -> list[int]:
    return continuations.response_ids(kept.to_pylist()[0], prompter.end_id)


def test_a_store_from_before_the_column_is_read_and_packed_with_the_templates_end(project: Path) -> None:
    run = open_run("semantic", project / "params.yaml")
    key = run.signature.key("yes", None)
    request = Request(key, "yes", None, (1, 2), None)
    run.store.append(
        [answers.stored_answer(request, Answer((5, 6), continuations.STOP, -1.0), run.prompter, "e", "h", 0)]
    )
    (shard,) = (run.store.folder / "parts").glob("*.parquet")
    old = pq.read_table(shard)
    pq.write_table(old.drop_columns(["end_id"]), shard)
    again = open_run("semantic", project / "params.yaml")
    utterances = pa.table({"id": ["a"], "text": ["yes"], "emotion": [None]})
    table = answers.read_continuations(utterances, pa.array([key], KEY), again, {})
    assert table["end_id"].to_pylist() == [None]
    assert packed_response(table, again.prompter) == [5, 6, again.prompter.end_id]
    assert again.store.history(key)[0]["end_id"] is None


def test_an_answer_of_the_trained_model_stops_at_every_end_token(tiny_models: ModelsParams) -> None:
    config = ModelConfig(
        models=tiny_models, emotions=["sad", "happy"], pad_to_30s=False, seed=3, encoder_trained=False, plora=False
    )
    model, folder = saved_model.build(config, torch.float32), Path(tiny_models.llm.source)
    prompter = Prompter.load(folder)
    prompt = prompter.text(Prompt(system="S", text="Say: ", speech=""), "hi")
    llm = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = list(prompt.ids)
    with torch.no_grad():
        for _ in range(12):
            ids.append(int(llm(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    new = ids[len(prompt.ids) :]
    end = next(token for token in new[3:] if token not in new[:3])
    stopping = Prompter(prompter.tokenizer, [end])
    with torch.no_grad():
        (written,) = Answering(model, stopping, 12).write([prompt], None)
    assert written == prompter.decode(new[: new.index(end)])
