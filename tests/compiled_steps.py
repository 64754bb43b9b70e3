"""A program: steps of a tiny model with and without compiled layers, and how often layers were compiled, as JSON.

`python -m tests.compiled_steps FAMILY STAGE`. It is a process of its own, because the checks of shapes that pytest adds
to the model cannot be compiled.
"""

import json
import sys
from functools import partial
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.tables.packed import PromptShell
from tests.backbones import BACKBONES, SMALL
from train import own_forward
from train.data.dataset import Collator, Example
from train.fit.objectives import EmotionAlignment, Objective, SemanticAlignment
from train.model import Batch, SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.inputs import packed_sequences
from train.model.plora import lora_config

LAYERS = 3
SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6], after=[8, 9])


def build(family: str, stage: int) -> SpeechLLM:
    torch.manual_seed(0)
    config = BACKBONES[family].config(**(SMALL | BACKBONES[family].more | {"num_hidden_layers": LAYERS}))
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    llm = t.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    whisper = t.WhisperConfig(d_model=24, encoder_layers=LAYERS, encoder_attention_heads=2, encoder_ffn_dim=32)
    model = SpeechLLM(SpeechEncoder(WhisperEncoder(whisper), False), llm.eval(), num_emotions=2)
    own_forward.check_own_forward(model)
    assert model.packs
    if stage == 2:
        model.add_plora(lora_config(2, 4, 0.0, "all-linear"))
        model.encoder.train_weights()
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    else:
        model.head.requires_grad_(False)
    return model.train()


def batches(stage: int, count: int, shares_start: bool) -> list[Batch]:
    """Make batches of other rows each, so that no mask of speech is like another."""
    generator = torch.Generator().manual_seed(1)
    collate = Collator(SHELL, stage == 1, lay_out=partial(packed_sequences, shares_start=shares_start), round_up=True)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def row() -> Example:
        frames = draw(20, 400)
        text, response = ([draw(10, 200) for _ in range(draw(1, 9))] for _ in range(2))
        return Example(torch.randn(80, frames, generator=generator), frames, text, response, draw(0, 2))

    return [collate([row() for _ in range(draw(2, 6))]) for _ in range(count)]


def step(model: SpeechLLM, stage: int, batch: Batch) -> Tensor:
    """Return the loss, and after it the gradient."""
    objective: Objective = (
        SemanticAlignment(model.output_head, 2.0) if stage == 1 else EmotionAlignment(model.output_head, 1.0, 2)
    )
    model.zero_grad()
    sums = objective.sums(model(batch), batch)
    loss = torch.stack(list(sums.values())).sum()
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach().view(1), *gradients])


def main(family: str, stage: int, count: int) -> None:
    kinds: list[str] = []

    def compiler(graph: Any, _inputs: Any) -> Any:
        kinds.append("encoder" if any("fc1" in node.name for node in graph.graph.nodes) else "llm")
        return graph.forward

    model = build(family, stage)
    given = batches(stage, count, model.shares_start)
    expected = [step(model, stage, batch) for batch in given]
    own_forward.compile_layers(model, compiler)
    found, compiled = [], []
    for batch in given:
        found.append(step(model, stage, batch))
        compiled.append({kind: kinds.count(kind) for kind in ("encoder", "llm")})
    off = [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, expected, strict=True)]
    norms = [float(theirs[1:].norm()) for theirs in expected]
    sizes = len({batch.student.token_ids.shape for batch in given})
    print(
        json.dumps({"off": max(off), "least": min(norms), "sizes": sizes, "first": compiled[0], "last": compiled[-1]})
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
