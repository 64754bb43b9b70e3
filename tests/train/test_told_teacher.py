"""The KL of stage 2 is the one between the LLM itself, told the emotion in words, and the model that hears the clip."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from pipeline.weights.source import ModelsParams
from tests import builders
from tests.backbones import BACKBONES, SMALL
from tests.dense_reference import ATTENTION
from train import saved_model
from train.data.dataset import Collator, Example
from train.data.told_shell import ToldShell
from train.fit.objectives import EmotionAlignment
from train.model import Batch, Sequences, SpeechLLM
from train.model.inputs import packed_sequences, sequences
from train.model.plora import lora_config

NAMED = {"sad": [11, 12], "happy": [13, 14, 15, 16]}
SHELL = ToldShell(before_speech=[5, 6, 7], before_text=[5, 6], after=[8, 9], named=NAMED)
ROWS = [  # frames, emotion, transcript, response
    (101, "sad", [20, 21, 22], [40, 41, 0]), (16, "happy", [], [50]), (260, "happy", [30, 31], [60, 61, 62, 0]),
    (17, "sad", [33], [70, 0]),
]  # fmt: skip
LAYOUTS: dict[str, Callable[..., Sequences]] = {
    "padded": sequences,
    "packed": partial(packed_sequences, shares_start=True),
    "packed, own starts": partial(packed_sequences, shares_start=False),
}
LLMS = pytest.mark.parametrize("name", ["Llama", "Qwen2.5", "Gemma 2"])


def build(folder: Path, tiny_models: ModelsParams, name: str, *, everywhere: bool = False) -> SpeechLLM:
    """Return a model in float64 whose P-LoRA changes the LLM where it acts."""
    torch.manual_seed(0)
    config = BACKBONES[name].config(**(SMALL | BACKBONES[name].more))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    models = ModelsParams.model_validate({"encoder": tiny_models.encoder, "llm": builders.weights(folder)})
    model = saved_model.build(builders.model_config(models), torch.float32)
    model.add_plora(lora_config(2, 4, 0.0, "all-linear"), everywhere=everywhere)
    model.encoder.train_weights()
    model = model.double()
    for parameter_name, parameter in model.llm.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch_of(layout: str) -> Batch:
    generator = torch.Generator().manual_seed(2)
    examples = [
        Example(
            features=torch.randn(80, frames, generator=generator, dtype=torch.float64),
            num_frames=frames, text_ids=[*NAMED[emotion], *text], response_ids=response, emotion=i % 2,
        )
        for i, (frames, emotion, text, response) in enumerate(ROWS)
    ]  # fmt: skip
    return Collator(SHELL, with_teacher=True, lay_out=LAYOUTS[layout])(examples)


def told_log_p(folder: Path) -> Tensor:
    """Return the log-probabilities of the LLM itself at each response token, one whole row at a time."""
    llm = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION).double().eval()
    found = []
    for _, emotion, text, response in ROWS:
        row = torch.tensor([[5, 6, *NAMED[emotion], *text, 8, 9, *response]])
        later = torch.full((1, 1, row.shape[1], row.shape[1]), -torch.inf, dtype=torch.float64).triu(1)
        with torch.no_grad():
            logits = llm(row, attention_mask=later).logits
        found.append(logits[0, -len(response) - 1 : -1].log_softmax(-1))
    return torch.cat(found)


@LLMS
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_kl_is_that_to_the_untrained_llm_which_is_told_the_emotion(
    tmp_path: Path, tiny_models: ModelsParams, name: str, everywhere: bool
) -> None:
    model = build(tmp_path, tiny_models, name, everywhere=everywhere)
    log_p = told_log_p(tmp_path)
    objective = EmotionAlignment(model.output_head, 0.0, 2, ("kl",))
    within = 1e-6 if name == "Gemma 2" else 1e-9  # transformers' own attention takes its softmax in float32 there
    found, gradients = [], []
    for layout in ["padded", "packed, own starts"] if everywhere else LAYOUTS:  # trained starts are not shared
        model.zero_grad()
        batch = batch_of(layout)
        outputs = model(batch)
        outputs.student.retain_grad()
        kl = objective.sums(outputs, batch)["kl"]
        kl.backward()
        found.append(kl.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))

        states = outputs.student.detach().requires_grad_()
        logits = model.llm.get_output_embeddings()(states)
        if (cap := getattr(model.llm.config, "final_logit_softcapping", None)) is not None:
            logits = cap * torch.tanh(logits / cap)
        expected = (log_p.exp() * (log_p - logits.log_softmax(-1))).sum()
        expected.backward()
        assert expected.item() > 1e-2
        assert kl.item() == pytest.approx(expected.item(), rel=within)
        assert outputs.student.grad is not None
        assert states.grad is not None
        torch.testing.assert_close(outputs.student.grad, states.grad, rtol=within, atol=within)
    assert found == pytest.approx([found[0]] * len(found), rel=within)
    assert gradients[0].norm() > 1e-3
    for gradient in gradients:
        assert (gradient - gradients[0]).norm() < within * gradient.norm()


@LLMS
def test_the_teacher_hears_nothing_and_gets_no_gradient(tmp_path: Path, tiny_models: ModelsParams, name: str) -> None:
    model = build(tmp_path, tiny_models, name)
    batch = batch_of("packed")
    before = model(batch)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name or parameter_name.startswith("adapter"):
            parameter.data += 0.3
    after = model(batch)
    assert torch.equal(after.teacher, before.teacher)
    assert not torch.allclose(after.student, before.student, atol=1e-3)
    assert not after.teacher.requires_grad
    model.zero_grad()
    EmotionAlignment(model.output_head, 0.0, 2, ("kl",)).sums(after, batch)["kl"].backward()
    reached = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {key.split(".")[0] for key in reached} == {"encoder", "adapter", "llm"}
    assert all("lora_" in key for key in reached if key.startswith("llm"))


def test_both_terms_are_added(tmp_path: Path, tiny_models: ModelsParams) -> None:
    model, batch = build(tmp_path, tiny_models, "Llama"), batch_of("packed")
    both = EmotionAlignment(model.output_head, 0.5, 2, ("ce", "kl"))
    assert both.weights == {"ce": 1.0, "kl": 1.0, "emotion": 0.5}
    assert both.counts(batch) == {"ce": 10, "kl": 10, "emotion": 4}
    outputs = model(batch)
    found = both.sums(outputs, batch)
    for term in ("ce", "kl"):
        alone = EmotionAlignment(model.output_head, 0.5, 2, (term,)).sums(outputs, batch)
        assert alone.keys() == {term, "emotion"}
        assert torch.equal(alone[term], found[term])
    assert not torch.allclose(found["ce"], found["kl"])


def test_the_tokens_that_name_an_emotion_are_counted_by_row() -> None:
    import pyarrow as pa

    emotions = pa.chunked_array([["happy", "sad"], ["happy"]])
    assert np.array_equal(SHELL.num_named(emotions), [4, 2, 4])
    assert SHELL.num_named(pa.chunked_array([pa.array([], pa.string())])).tolist() == []
