"""Tiny random LLMs of many architectures: losses and gradients are those of the LLM's own forward in float64.

The comparison is independent of the product: rows without padding and without a shared start, P-LoRA as a hook on plain
linear layers, all logits by the LLM's own forward, gradients by autograd.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn
from torch.nn import functional

from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import ModelsParams, Weights
from tests.backbones import BACKBONES, REFUSED, SMALL, Backbone
from tests.conftest import character_tokenizer
from train import saved_model
from train.data.dataset import Collator, Example
from train.fit.objectives import EmotionAlignment, SemanticAlignment
from train.inference import Answering
from train.model import Batch, Sequences, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.plora import ADAPTER_NAME, lora_config
from train.model_config import ModelConfig

BEFORE, AFTER = [5, 6, 7], [8, 9]
TEXTS, RESPONSES = [[20, 21, 22], [30, 31]], [[40, 41, 0], [50, 0]]
FRAMES = (100, 260)
TEMPERATURE = 2.0
NOT_PACKED = ["Qwen3.5", "LFM2"]  # a row hands its state to the next one


def save_llm(folder: Path, backbone: Backbone) -> Path:
    torch.manual_seed(0)
    llm = t.AutoModelForCausalLM.from_config(backbone.config(**(SMALL | backbone.more)))
    if llm.get_output_embeddings().bias is not None:
        nn.init.normal_(llm.get_output_embeddings().bias, std=2.0)
    llm.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def build(tiny_models: ModelsParams, folder: Path) -> SpeechLLM:
    llm = Weights(source=str(folder), revision=None, sha256=None)
    config = ModelConfig(
        models=ModelsParams(encoder=tiny_models.encoder, llm=llm),
        emotions=["sad", "happy"],
        pad_to_30s=False,
        seed=3,
        encoder_trained=False,
        plora=False,
    )
    return saved_model.build(config, torch.float32)


def in_float64(model: SpeechLLM) -> SpeechLLM:
    """Return a copy; its experts run one by one, because PyTorch's grouped product has no float64."""
    dense = copy.deepcopy(model).double()
    dense.llm.set_experts_implementation("eager")
    return dense


def make_batch(with_teacher: bool, lay_out: Callable[..., Sequences] = sequences) -> Batch:
    generator = torch.Generator().manual_seed(5)
    shell = PromptShell(before_speech=BEFORE, before_text=BEFORE, after=AFTER)
    examples = [
        Example(torch.randn(80, frames, generator=generator), frames, text, response, emotion)
        for frames, text, response, emotion in zip(FRAMES, TEXTS, RESPONSES, (0, 1), strict=True)
    ]
    return Collator(shell, with_teacher, lay_out=lay_out)(examples)


def packing(model: SpeechLLM) -> Callable[..., Sequences]:
    return partial(packed_sequences, shares_start=model.shares_start)


def own_logits(llm: nn.Module, content: Tensor, response: list[int]) -> Tensor:
    """Return the logits of an LLM's own forward that predict the response after a content of embeddings."""
    embed = llm.get_input_embeddings()  # type: ignore[operator]
    pieces = [embed(torch.tensor(BEFORE)), content, embed(torch.tensor([*AFTER, *response]))]
    logits: Tensor = llm(inputs_embeds=torch.cat(pieces)[None], use_cache=False).logits[0]
    return logits[-len(response) - 1 : -1]


def speech_of(model: SpeechLLM) -> list[Tensor]:
    """Return the speech embeddings of each clip, encoded by itself."""
    batch = make_batch(with_teacher=False)
    dtype = next(model.adapter.parameters()).dtype
    assert isinstance(batch.features, Tensor)
    alone = [
        model.encode_speech(batch.features[i : i + 1, :, :frames].to(dtype), torch.tensor([frames]))
        for i, frames in enumerate(FRAMES)
    ]
    return [speech.embeddings[0] for speech in alone]


def off(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the distance of gradients from the expected ones, as a share of the length of the expected ones."""
    assert found.keys() == expected.keys()
    ours, theirs = (torch.cat([g[name].double().flatten() for name in expected]) for g in (found, expected))
    return float((ours - theirs).norm() / theirs.norm())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", BACKBONES)
def test_stage_1_has_the_loss_and_gradient_of_the_llms_own_forward(
    tmp_path: Path, tiny_models: ModelsParams, name: str, layout: str
) -> None:
    model = build(tiny_models, save_llm(tmp_path / "llm", BACKBONES[name]))
    model.head.requires_grad_(False)
    dense = in_float64(model)
    if layout == "packed" and name in NOT_PACKED:
        assert not model.packs
        return
    batch = make_batch(with_teacher=True, lay_out=packing(model) if layout == "packed" else sequences)
    kl = SemanticAlignment(model.output_head, TEMPERATURE).sums(model(batch), batch)["kl"]
    kl.backward()
    expected = torch.zeros((), dtype=torch.float64)
    for text, speech, response in zip(TEXTS, speech_of(dense), RESPONSES, strict=True):
        words = dense.llm.get_input_embeddings()(torch.tensor(text))
        p = functional.log_softmax(own_logits(dense.llm, words, response) / TEMPERATURE, -1)
        q = functional.log_softmax(own_logits(dense.llm, speech, response) / TEMPERATURE, -1)
        expected = expected + (p.exp() * (p - q)).sum()
    expected.backward()
    within = 1e-4 if layout == "packed" else 1e-5  # the KL is a small difference, and attention rounds elsewhere
    assert kl.item() == pytest.approx(expected.item(), rel=within, abs=1e-6)
    assert expected.item() > 1e-3
    assert off(gradients(model), gradients(dense)) < 1e-5


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("name", BACKBONES)
def test_stage_2_has_the_loss_and_gradient_of_the_llms_own_forward(
    tmp_path: Path, tiny_models: ModelsParams, name: str, layout: str
) -> None:
    model = build(tiny_models, save_llm(tmp_path / "llm", BACKBONES[name]))
    dense = in_float64(model)
    torch.manual_seed(1)
    model.add_plora(lora_config(2, 4, 0.0, BACKBONES[name].targets))
    for parameter_name, parameter in model.llm.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.3)
    if layout == "packed" and name in NOT_PACKED:
        assert not model.packs
        return
    batch = make_batch(with_teacher=False, lay_out=packing(model) if layout == "packed" else sequences)
    objective = EmotionAlignment(model.output_head, 0.5, model.head.classify.out_features)
    sums = objective.sums(model(batch), batch)
    loss = sums["ce"] + objective.weights["emotion"] * sums["emotion"]
    loss.backward()

    plora = HookedLora(dense.llm, model.llm)
    expected = torch.zeros((), dtype=torch.float64)
    for speech, response, emotion in zip(speech_of(dense), RESPONSES, (0, 1), strict=True):
        plora.mask = torch.zeros(len(BEFORE) + len(speech) + len(AFTER) + len(response), 1, dtype=torch.float64)
        plora.mask[len(BEFORE) : len(BEFORE) + len(speech)] = 1
        logits = own_logits(dense.llm, speech, response)
        expected = expected + functional.cross_entropy(logits, torch.tensor(response), reduction="sum")
        head = dense.head(speech.mean(0, keepdim=True))
        expected = expected + 0.5 * functional.cross_entropy(head, torch.tensor([emotion]))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = gradients(dense) | {
        f"llm.{key}": value.grad for key, value in plora.weights.items() if value.grad is not None
    }
    ours = gradients(model)
    assert any("lora_A" in key for key in ours)
    assert off(ours, {key: value for key, value in theirs.items() if key in ours or float(value.norm()) > 0}) < 1e-5


class HookedLora:
    """LoRA at masked positions, added by hooks to the linear layers of an LLM without peft."""

    def __init__(self, llm: nn.Module, adapted: nn.Module) -> None:
        self.mask = torch.zeros(0)
        self.weights: dict[str, Tensor] = {
            name: parameter.detach().double().requires_grad_()
            for name, parameter in adapted.named_parameters()
            if "lora_" in name
        }
        layers = {name.split(".lora_")[0] for name in self.weights}
        for name in sorted(layers):
            llm.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        down, up = (self.weights[f"{name}.lora_{side}.{ADAPTER_NAME}.weight"] for side in "AB")

        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + self.mask * (inputs[0] @ down.T @ up.T) * (4 / 2)

        return add


@pytest.mark.parametrize("name", BACKBONES)
def test_the_text_path_is_the_llms_own_bit_for_bit(tmp_path: Path, tiny_models: ModelsParams, name: str) -> None:
    model = build(tiny_models, save_llm(tmp_path / "llm", BACKBONES[name]))
    ids = torch.tensor([[*BEFORE, *TEXTS[0], *AFTER, *RESPONSES[0]]])
    asked = sequences([], [ids[0].tolist()], [], [[]])
    with torch.no_grad():
        plain = model.llm(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        model.add_plora(lora_config(2, 4, 0.0, BACKBONES[name].targets))
        for parameter_name, parameter in model.llm.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter, std=0.3)
        embedded = model.embed(asked, None)
        adapted = model.llm(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), use_cache=False).logits
    assert torch.equal(plain, adapted)
    assert model.shares_start == (name not in ("Qwen3.5", "LFM2"))  # their layers keep a state


@pytest.mark.parametrize("name", BACKBONES)
def test_answers_and_scores_of_labels_are_those_of_the_llms_own_logits(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model = build(tiny_models, save_llm(tmp_path / "llm", BACKBONES[name]))
    prompter = Prompter(character_tokenizer())
    dense = in_float64(model)
    answering = Answering(model, prompter, 8)
    prompt, longer = (prompter.text(Prompt(system="S", text="T ", speech=""), text) for text in ("hi", "kids talk"))
    labels = ["sad", "happy"]
    with torch.no_grad():
        found = answering.label_scores([prompt, longer], None, labels)[0]
        for label, score in zip(labels, found, strict=True):
            ids = prompter.answer_ids(label)
            log_p = dense.llm(input_ids=torch.tensor([[*prompt.ids, *ids]])).logits[0].log_softmax(-1)
            own = log_p[-len(ids) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).sum()
            assert score == pytest.approx(own.item(), rel=1e-5, abs=1e-4)
        written = answering.write([prompt, longer], None)[0]
        new: list[int] = []
        while len(new) < 8:
            token = int(model.llm(input_ids=torch.tensor([[*prompt.ids, *new]])).logits[0, -1].argmax())
            if token in prompter.end_ids:
                break
            new.append(token)
    assert written == prompter.answer(new)


@pytest.mark.parametrize("name", ["Llama", "Gemma 2", "Gemma 3", "Granite"])
def test_speech_starts_at_the_norm_of_tokens_as_the_llm_gets_them(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    model = build(tiny_models, save_llm(tmp_path / "llm", BACKBONES[name]))
    first: list[Tensor] = []
    with torch.no_grad():
        speech = torch.cat(speech_of(model))
        every = torch.arange(model.token_embeddings.num_embeddings)[None]
        model.llm.base_model.layers[0].register_forward_pre_hook(  # type: ignore[index, union-attr]
            lambda _layer, inputs: first.append(inputs[0])
        )
        model.llm(input_ids=every)
        model.llm(inputs_embeds=speech[None])
    tokens, spoken = (states.norm(dim=-1).mean() for states in first)
    torch.testing.assert_close(spoken, tokens, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_an_llm_that_training_could_not_run_is_refused_in_one_line(
    tmp_path: Path, tiny_models: ModelsParams, name: str
) -> None:
    folder = save_llm(tmp_path / "llm", REFUSED[name])
    with pytest.raises(UserError, match=r"models\.llm: \w+: found .+; this architecture is not supported") as error:
        build(tiny_models, folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_an_llm_whose_forward_does_more_after_its_output_matrix_is_refused(
    tmp_path: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = t.LlamaForCausalLM.forward

    def squared(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        output.logits = output.logits**2
        return output

    monkeypatch.setattr(t.LlamaForCausalLM, "forward", squared)
    folder = save_llm(tmp_path / "llm", BACKBONES["Llama"])
    with pytest.raises(UserError, match=r"models\.llm: LlamaForCausalLM: found logits in .+ not supported"):
        build(tiny_models, folder)
