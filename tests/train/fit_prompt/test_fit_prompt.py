"""Emotion prompts of tiny LLMs: losses and gradients of a plain computation in float64, and a prompt that learns."""

import copy
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import Tensor
from torch.nn import functional

from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.stage import UserError
from pipeline.tables import sentences
from pipeline.tables.continuations import NO_TRANSCRIPT, STOP, TOLD_SCHEMA
from pipeline.weights.source import ModelsParams
from tests.backbones import BACKBONES, SMALL
from tests.builders import model_config, weights, write_table
from tests.conftest import character_tokenizer
from train import saved_model
from train.emotion_prompt import EmotionPrompt, load_prompt
from train.fit_prompt import __main__ as stage
from train.fit_prompt import learning
from train.fit_prompt.examples import Example
from train.fit_prompt.params import FitPromptParams
from train.fit_prompt.prompted_llm import PromptedLLM
from train.model import SpeechLLM

EMOTIONS = ["sad", "happy", "angry"]
PROMPT = {"system": "s", "text": "say it {emotion}: ", "speech": "hear: "}
SETTINGS = {
    "seed": 1, "tokens": 2, "steps": 3, "batch_size": 4, "rows_at_once": 3, "learning_rate": 0.02, "warmup_steps": 0,
    "schedule": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "evaluate_every": 2, "precision": "float32",
    "checkpoint_layers": False,
}  # fmt: skip
EXAMPLES = [
    Example((20, 21, 22), (40, 41, 0), 0, 1),
    Example((30, 31), (50, 0), 1, 2),
    Example((33,), (60, 61, 62, 63), 2, 0),
    Example((34, 35, 36, 37), (70,), 0, 2),
]


def save_llm(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    config = BACKBONES[name].config(**(SMALL | BACKBONES[name].more))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def models_of(tiny: ModelsParams, folder: Path) -> ModelsParams:
    return ModelsParams.model_validate({"encoder": tiny.encoder, "llm": weights(folder)})


def build(tiny: ModelsParams, folder: Path) -> tuple[SpeechLLM, Prompter]:
    """Return a frozen model in float64."""
    model = saved_model.build(model_config(models_of(tiny, folder)), torch.float32)
    return model.double().requires_grad_(False), Prompter.load(folder)


def random_prompt(model: SpeechLLM, tokens: int = 2) -> EmotionPrompt:
    prompt = EmotionPrompt(torch.randn(len(EMOTIONS), tokens, model.token_embeddings.embedding_dim))
    return prompt.double()


def plain_logits(llm: Any, ids: PromptIds, content: Tensor, response: Sequence[int]) -> Tensor:
    """Return the logits that predict a response, by the LLM's own forward over one whole sequence."""
    embed = llm.get_input_embeddings()
    pieces = [embed(torch.tensor(ids.before)), content, embed(torch.tensor([*ids.after, *response]))]
    logits: Tensor = llm(inputs_embeds=torch.cat(pieces)[None], use_cache=False).logits[0]
    return logits[-len(response) - 1 : -1]


def plain_kls(model: SpeechLLM, prompter: Prompter, example: Example, given: Tensor) -> Tensor:
    """Return the KL at each token of a continuation, from dense distributions in float64."""
    llm, prompt = model.llm, Prompt.model_validate(PROMPT)
    words = llm.get_input_embeddings()(torch.tensor(example.text_ids))
    told = prompter.around(prompt, (), emotion=EMOTIONS[example.emotion])
    p = functional.softmax(plain_logits(llm, told, words, example.response_ids), dim=-1)
    content = torch.cat([given, words])
    q = functional.softmax(plain_logits(llm, prompter.speech(prompt), content, example.response_ids), dim=-1)
    return (p * (p.log() - q.log())).sum(-1)


@pytest.mark.parametrize("name", ["Llama", "Qwen2.5", "Gemma 2"])
def test_a_step_has_the_loss_and_the_gradient_of_a_plain_computation(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model, prompter = build(tiny_models, save_llm(tmp_path / "llm", name))
    prompt = random_prompt(model)
    plain = prompt.embeddings.detach().clone().requires_grad_()
    kls = torch.cat([plain_kls(model, prompter, each, plain[each.emotion]) for each in EXAMPLES])
    assert len(kls) == 10
    kls.mean().backward()
    assert plain.grad is not None
    assert (plain.grad.abs().amax((1, 2)) > 0).all()
    llm = PromptedLLM(model, prompter, Prompt.model_validate(PROMPT), EMOTIONS)
    for rows_at_once in (1, 3, 4):
        prompt.embeddings.grad = None
        loss = learning.backward(llm, prompt, EXAMPLES, rows_at_once)
        assert loss == pytest.approx(float(kls.detach().mean()), rel=1e-9)
        torch.testing.assert_close(
            prompt.embeddings.grad, plain.grad, rtol=0, atol=1e-9 * float(plain.grad.abs().max())
        )
    assert not [parameter for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", ["Llama", "Gemma 2"])
def test_dev_losses_are_means_over_tokens_after_each_kind_of_embeddings(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model, prompter = build(tiny_models, save_llm(tmp_path / "llm", name))
    prompt = random_prompt(model)
    e, nothing = prompt.embeddings.detach(), torch.zeros(0, model.token_embeddings.embedding_dim).double()
    llm = PromptedLLM(model, prompter, Prompt.model_validate(PROMPT), EMOTIONS)
    given: dict[str, Callable[[Example], Tensor]] = {
        "none": lambda _: nothing,
        "right": lambda each: e[each.emotion],
        "other": lambda each: e[each.other],
        "even": lambda _: e.mean(0),
    }
    found = learning.evaluate(llm, prompt, EXAMPLES, 3)
    assert tuple(found.kl) == learning.GIVEN == tuple(given)
    for what, of in given.items():
        with torch.no_grad():
            kls = [plain_kls(model, prompter, each, of(each)) for each in EXAMPLES]
        assert found.kl[what] == pytest.approx(float(torch.cat(kls).mean()), rel=1e-6)
        of_first = torch.cat([kl for kl, each in zip(kls, EXAMPLES, strict=True) if each.emotion == 0])
        assert found.kl_by_emotion[0][what] == pytest.approx(float(of_first.mean()), rel=1e-6)
    assert len({round(kl, 4) for kl in found.kl.values()}) == 4
    assert all(0 <= share <= 1 for share in found.top1.values())


def test_each_epoch_of_steps_has_each_example_once_in_another_order() -> None:
    steps = learning.draw(EXAMPLES, 3, seed=1)
    drawn = [example for _ in range(8) for example in next(steps)]
    epochs = [drawn[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(epoch, key=EXAMPLES.index) == EXAMPLES for epoch in epochs)
    assert len({tuple(map(EXAMPLES.index, epoch)) for epoch in epochs}) > 1
    again = learning.draw(EXAMPLES, 3, seed=1)
    assert [example for _ in range(8) for example in next(again)] == drawn


def told_row(text: str, emotion: str, ids: Sequence[int], **changes: Any) -> dict[str, Any]:
    made = {"continuation": "x", "token_ids": list(ids), "finish_reason": STOP, "engine": "x", "end_id": 0}
    return {"text": text, "emotion": emotion, "key": None, "logprob": -1.0, "generation": 1} | made | changes


ANSWERS = {"sad": "oh no", "happy": "hooray", "angry": "bah"}
TEXTS = [f"{who} {what}" for who in ("dogs", "cats", "kids") for what in ("run", "sit", "are here", "see it")]


def toy_llm(folder: Path) -> Path:
    """Return an LLM that answers as it is told; without an emotion, it gives one of the answers."""
    torch.manual_seed(0)
    character_tokenizer().save_pretrained(folder)
    config = transformers.LlamaConfig(**(SMALL | {"hidden_size": 48, "initializer_range": 0.1}))
    llm = transformers.LlamaForCausalLM(config)
    prompter, prompt = Prompter.load(folder), Prompt.model_validate(PROMPT)
    optimizer = torch.optim.Adam(llm.parameters(), lr=5e-3)
    emotions = [*EMOTIONS, None]
    for step in range(160):
        rows = []
        for number, text in enumerate(TEXTS):
            told = emotions[(step + number) % len(emotions)]
            shell = prompter.speech(prompt) if told is None else prompter.around(prompt, (), emotion=told)
            asked = shell.before + prompter.content_ids(text) + shell.after
            reply = ANSWERS[told or EMOTIONS[(step // 4 + number) % 3]]
            rows.append((asked, (*prompter.answer_ids(reply), 0)))
        longest = max(len(asked) + len(answer) for asked, answer in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, (asked, answer) in enumerate(rows):
            ids[i, : len(asked) + len(answer)] = torch.tensor([*asked, *answer])
            labels[i, len(asked) : len(asked) + len(answer)] = torch.tensor(answer)
        optimizer.zero_grad()
        llm(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    llm.save_pretrained(folder)
    return folder


def write_inputs(folder: Path, models: ModelsParams, **changes: Any) -> Path:
    """Write what the stage reads; every fourth sentence is for dev."""
    prompter = Prompter.load(Path(models.llm.source))
    split = [{"text": text, "split": "train" if i % 4 else "dev"} for i, text in enumerate(TEXTS)]
    write_table(folder / "sentences.parquet", split, sentences.SCHEMA)
    told = [told_row(text, e, prompter.answer_ids(ANSWERS[e])) for text in TEXTS for e in EMOTIONS]
    write_table(folder / "told.parquet", told, TOLD_SCHEMA)
    section = None if changes.get("section", {}) is None else SETTINGS | changes
    values = {"fit_prompt": section, "models": models.model_dump(), "emotions": EMOTIONS}
    prompts = {"prompts": dict.fromkeys(("semantic", "emotion", "recognition"), PROMPT)}
    (folder / "params.yaml").write_text(yaml.safe_dump(values | prompts))
    return folder


def run(folder: Path) -> dict[str, dict[str, float]]:
    names = {"sentences": "sentences.parquet", "told": "told.parquet", "output": "prompt", "metrics": "out/m.json"}
    names |= {"curve": "out/curve.csv", "params_file": "params.yaml"}
    stage.main(**{name: folder / file for name, file in names.items()})
    found: dict[str, dict[str, float]] = json.loads((folder / "out/m.json").read_text())
    return found


def test_the_right_embeddings_reach_a_lower_kl_on_new_sentences_than_those_of_another_emotion(
    tmp_path: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    models = models_of(tiny_models, toy_llm(tmp_path / "llm"))
    found = run(write_inputs(tmp_path, models, steps=40, evaluate_every=20, batch_size=9, rows_at_once=9))
    kl = found["dev_kl"]
    assert kl["none"] > 0.1  # the told emotion changes the answer
    assert kl["right"] < 0.5 * min(kl["none"], kl["other"], kl["even"])
    assert all(found[f"dev_kl_{emotion}"]["right"] < found[f"dev_kl_{emotion}"]["other"] for emotion in EMOTIONS)
    lines = [line.split(",") for line in (tmp_path / "out/curve.csv").read_text().splitlines()]
    assert lines[0] == ["step", "none", "right", "other", "even"]
    assert [int(line[0]) for line in lines[1:]] == [0, 20, 40]
    assert float(lines[-1][2]) == kl["right"] < float(lines[1][2])
    assert {line[1] for line in lines[1:]} == {str(kl["none"])}
    learnt = load_prompt(tmp_path / "prompt", models.llm, EMOTIONS)
    assert learnt is not None
    assert learnt[0].embeddings.shape == (3, 2, 48)
    assert learnt[1].tokens == 2
    assert learnt[1].known([*TEXTS, "dogs"]) == set(TEXTS)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("fit_prompt: 27 examples, 40 steps; dev KL ")


def test_equal_runs_write_equal_bytes_and_a_prompt_starts_at_the_names_of_its_emotions(
    tmp_path: Path, tiny_models: ModelsParams
) -> None:
    write_inputs(tmp_path, tiny_models)
    files = []
    for _ in range(2):
        run(tmp_path)
        written = [*sorted((tmp_path / "prompt").iterdir()), *sorted((tmp_path / "out").iterdir())]
        files.append({file.name: file.read_bytes() for file in written})
    assert files[0] == files[1]
    assert set(files[0]) == {"config.json", "prompt.safetensors", "m.json", "curve.csv"}
    model, prompter = build(tiny_models, Path(tiny_models.llm.source))
    names = [prompter.content_ids(emotion) for emotion in EMOTIONS]
    started = EmotionPrompt.of_names(model.token_embeddings, names, 4)
    expected = model.token_embeddings.weight[list(names[1])].float().mean(0)
    assert torch.equal(started.embeddings[1], expected.expand(4, -1))


def test_checkpointed_layers_and_smaller_batches_learn_the_same_prompt(
    tmp_path: Path, tiny_models: ModelsParams
) -> None:
    learnt = []
    for name, changes in (("a", {}), ("b", {"checkpoint_layers": True}), ("c", {"rows_at_once": 1})):
        (tmp_path / name).mkdir()
        run(write_inputs(tmp_path / name, tiny_models, **changes))
        loaded = load_prompt(tmp_path / name / "prompt", tiny_models.llm, EMOTIONS)
        assert loaded is not None
        learnt.append(loaded[0].embeddings)
    for other in learnt[1:]:
        torch.testing.assert_close(other, learnt[0], rtol=0, atol=2e-4)


def test_without_the_section_the_outputs_say_that_there_is_no_prompt(
    tmp_path: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path, tiny_models)
    run(tmp_path)
    write_inputs(tmp_path, tiny_models, section=None)
    assert run(tmp_path) == {}
    assert (tmp_path / "out/curve.csv").read_text() == "step,none,right,other,even\n"
    assert [file.name for file in (tmp_path / "prompt").iterdir()] == ["config.json"]
    assert load_prompt(tmp_path / "prompt", tiny_models.llm, EMOTIONS) is None
    assert "fit_prompt is null in the parameters, so no prompt was learnt" in capsys.readouterr().out


def test_a_run_that_fails_leaves_the_last_prompt_and_nothing_half_written(
    tmp_path: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(write_inputs(tmp_path, tiny_models))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fail(*_: Any) -> float:
        raise RuntimeError("killed")

    monkeypatch.setattr(learning, "backward", fail)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_gradient_that_is_not_finite_stops_with_one_line(
    tmp_path: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backward(_llm: PromptedLLM, prompt: EmotionPrompt, *_: Any) -> float:
        prompt.embeddings.grad = torch.full_like(prompt.embeddings, torch.nan)
        return 0.0

    monkeypatch.setattr(learning, "backward", backward)
    with pytest.raises(UserError, match=r"^fit_prompt: step 1: found a gradient of norm nan, expected a number$"):
        run(write_inputs(tmp_path, tiny_models))
    assert not (tmp_path / "prompt").exists()


def test_sentences_without_all_continuations_are_left_out_and_told(
    tmp_path: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path, tiny_models)
    rows = [told_row(text, emotion, [40, 41]) for text in TEXTS for emotion in EMOTIONS]
    rows[3] |= {"finish_reason": NO_TRANSCRIPT, "token_ids": []}
    write = partial(write_table, tmp_path / "told.parquet", schema=TOLD_SCHEMA)
    write(rows[:-1])
    run(tmp_path)
    said = capsys.readouterr().out
    assert "fit_prompt: left out 2 sentences that lack a continuation for an emotion" in said
    assert "fit_prompt: 21 examples" in said
    write(rows[:3])
    with pytest.raises(UserError, match=r"sentences.parquet: found no sentence of train with a continuation for each"):
        run(tmp_path)
    write([*rows, told_row("yes", "calm", [1])])
    with pytest.raises(UserError, match=r"told.parquet: found a continuation for calm, expected only sad, happy"):
        run(tmp_path)


def test_a_wrong_parameter_is_one_line(tmp_path: Path, tiny_models: ModelsParams) -> None:
    with pytest.raises(UserError, match=r"fit_prompt.tokens: expected greater than 0, found 0"):
        run(write_inputs(tmp_path, tiny_models, tokens=0))
    assert FitPromptParams.model_validate(copy.deepcopy(SETTINGS)).tokens == 2
