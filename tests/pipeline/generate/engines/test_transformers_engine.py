from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.generate.engines.interface import Answer
from pipeline.generate.engines.transformers_engine import TransformersEngine
from pipeline.prompts import Prompter
from pipeline.tables import continuations
from tests import builders
from tests.builders import answers_in_order, requests, run_generate, write_texts


def greedy(llm: Path, prompt: Sequence[int], count: int, end_id: int) -> Answer:
    """Decode one prompt token by token, without a cache or padding."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    ids, logprob = list(prompt), 0.0
    for _ in range(count):
        logprobs = model(torch.tensor([ids])).logits[0, -1].detach().log_softmax(-1)
        token = int(logprobs.argmax())
        logprob += float(logprobs[token])
        if token == end_id:
            return Answer(tuple(ids[len(prompt) :]), continuations.STOP, logprob)
        ids.append(token)
    return Answer(tuple(ids[len(prompt) :]), continuations.LENGTH, logprob)


def test_it_decodes_greedily_whatever_shares_the_batch(llm: Path) -> None:
    settings = builders.generate_params()
    tokenizer = Prompter.load(llm).tokenizer
    prompts = [tuple(tokenizer(text).input_ids) for text in ["a", "kids are talking by the door", "yes", "dogs"]]
    first = greedy(llm, prompts[1], 12, end_id=-1).token_ids
    end_id = first[len(first) // 2]  # a token that does come up ends the answers, so that both reasons occur
    answers = answers_in_order(TransformersEngine(settings, llm, [end_id]), requests(prompts))
    expected = [greedy(llm, prompt, 12, end_id) for prompt in prompts]
    assert [replace(answer, logprob=None) for answer in answers] == [
        replace(answer, logprob=None) for answer in expected
    ]
    assert [answer.logprob for answer in answers] == pytest.approx([answer.logprob for answer in expected], abs=1e-4)
    assert {answer.finish_reason for answer in answers} >= {continuations.STOP}
    assert all(end_id not in answer.token_ids for answer in answers)


def test_each_request_draws_with_its_own_seed_whatever_other_seeds_there_are(llm: Path) -> None:
    engine = TransformersEngine(builders.generate_params(temperature=1.0), llm, [0])
    prompts = [(20, 21, 22), (20, 21, 22, 23)]
    alone = [answers_in_order(engine, requests(prompts, seed)) for seed in (7, 8)]
    assert alone[0] != alone[1]
    together = [request for pair in zip(requests(prompts, 7), requests(prompts, 8), strict=True) for request in pair]
    assert answers_in_order(engine, together) == [answer for pair in zip(*alone, strict=True) for answer in pair]


def test_it_writes_its_version_and_ids_that_decode_to_the_text(tmp_path: Path, llm: Path) -> None:
    write_texts(tmp_path / "manifest.parquet")
    rows = run_generate(tmp_path, llm)
    assert {row["engine"] for row in rows} == {f"transformers {version('transformers')}"}
    prompter = Prompter.load(llm)
    assert [row["continuation"] for row in rows] == [prompter.decode(row["token_ids"]) for row in rows]
    assert rows[0] == {**rows[2], "id": "corpus/0"}
