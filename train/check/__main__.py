"""Check that the LLM can be trained, before it generates anything: a small copy of it takes a step of each stage.

The copy has the architecture and the widths of the LLM, but random weights, few layers, few experts and few tokens. So
the check needs no GPU. For an LLM of 8B parameters it takes 9 s and 2 GB.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import params
from pipeline.params import ParamsFile
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import parquet
from pipeline.weights.check import TrainingModels, check_models
from pipeline.weights.llm import attention_of
from pipeline.weights.source import ModelsParams, fetch
from train.fit.params import PloraParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from train.model import Batch, SpeechLLM

_LAYERS = 2  # or more, until each kind of layer is in the copy
_TOKENS = 512
_EXPERTS = 4  # or more, if a token uses more
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")  # names in configurations


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write: what was found.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Check that the LLM can be trained, before it generates anything."""
    models = params.load(params_file, "models", ModelsParams)
    targets = params.load(params_file, "fit.emotion.plora", PloraParams).targets
    folder = fetch(models.llm)
    check_models(TrainingModels(models.encoder, targets), folder)
    found = check_architecture(folder, targets)
    with parquet.whole(output) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")
    say(f"check: {found['architecture']}: {found['result']}")


def check_architecture(folder: Path, targets: str | list[str]) -> dict[str, str]:
    """Return the name of the LLM's architecture and the result; raises UserError if it cannot be trained.

    `targets` are the layers of P-LoRA.
    """
    import torch
    from transformers import AutoConfig

    from train.own_forward import check_own_forward, describe

    config = AutoConfig.from_pretrained(folder)
    name = (config.architectures or [type(config).__name__])[0]
    torch.manual_seed(0)
    try:
        llm = small_copy(config)
    except Exception as error:  # whatever fails here says nothing about the LLM itself, which stage 1 checks
        reason = f"no small copy of it can be made: {describe(error)}; it is checked when stage 1 starts"
        return {"architecture": name, "result": reason}
    model = _speech_llm(llm)
    check_own_forward(model)
    batch = _batch()
    with _refused(name, "a step of training"):
        _train(model, targets, batch)
    with _refused(name, "an answer to speech"):
        _answer(model, batch)
    start = "once for a batch" if model.shares_start else "for each row"
    return {"architecture": name, "result": f"can be trained; the start of prompts is computed {start}"}


def small_copy(config: Any) -> "PreTrainedModel":
    """Return an LLM of the architecture and the widths of `config`, with random weights and few layers."""
    from transformers import AutoModelForCausalLM

    config = type(config).from_dict(config.to_dict())
    text = config.get_text_config()
    num_layers = text.num_hidden_layers
    kinds = list(getattr(text, "layer_types", None) or [])
    kept = min(num_layers, max([_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))]))
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == num_layers:  # an entry for each layer
            setattr(text, name, value[:kept])
    text.num_hidden_layers = kept
    text.vocab_size = min(text.vocab_size, _TOKENS)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(text, name, None)
    for name in _EXPERT_COUNTS:
        if isinstance(count := getattr(text, name, None), int):
            setattr(text, name, min(count, max(_EXPERTS, getattr(text, "num_experts_per_tok", None) or 0)))
    if hasattr(config, "vision_config") and hasattr(config.vision_config, "num_hidden_layers"):
        config.vision_config.num_hidden_layers = 1
    llm: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config))
    llm.eval().float()
    return llm


def _speech_llm(llm: "PreTrainedModel") -> "SpeechLLM":
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from train.model import SpeechLLM
    from train.model.encoder import SpeechEncoder

    config = WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16)
    encoder = SpeechEncoder(WhisperEncoder(config).eval(), pad_to_30s=False)
    return SpeechLLM(encoder, llm, num_emotions=2).eval()


def _train(model: "SpeechLLM", targets: str | list[str], batch: "Batch") -> None:
    """Add P-LoRA, and compute a gradient of each stage."""
    from train.fit.objectives import EmotionAlignment, SemanticAlignment
    from train.model.plora import lora_config

    _check_gradients(model, SemanticAlignment(model.output_head, temperature=2.0), batch)
    model.add_plora(lora_config(1, 1, 0.0, targets))
    _check_gradients(model, EmotionAlignment(model.output_head, 1.0, model.head.classify.out_features), batch)


def _check_gradients(model: "SpeechLLM", objective: Any, batch: "Batch") -> None:
    import torch

    model.train()
    model.zero_grad()
    torch.stack(list(objective.sums(model(batch), batch).values())).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients or not all(gradient.isfinite().all() for gradient in gradients):
        raise ValueError("a gradient is not finite")


def _answer(model: "SpeechLLM", batch: "Batch") -> None:
    """Write two tokens: the second one needs the keys and values, or the state, of the prompt."""
    import torch
    from transformers import GenerationConfig

    greedy = GenerationConfig(do_sample=False, min_new_tokens=2, max_new_tokens=2, eos_token_id=[0], pad_token_id=0)
    asked = batch.student.padded_left()
    model.eval()
    with torch.no_grad(), model.speech_mask.applied(asked.speech, generating=True):
        speech = model.encode_speech(batch.features, batch.num_frames)
        model.llm.generate(  # type: ignore[operator]
            inputs_embeds=model.embed(asked, speech), attention_mask=asked.attended.long(), generation_config=greedy
        )


def _batch() -> "Batch":
    """Make up two clips of 1.0 and 2.6 s, with token ids that every vocabulary has."""
    import torch

    from pipeline.audio.speech_tokens import num_speech_tokens
    from train.model import Batch
    from train.model.inputs import pad_features, sequences

    num_frames = (100, 260)
    before, after, texts, responses = [5, 6, 7], [8, 9], [[20, 21, 22], [30, 31]], [[40, 41, 1], [50, 1]]
    speech: list[list[int | None]] = [[None] * num_speech_tokens(frames) for frames in num_frames]
    return Batch(
        features=pad_features([torch.randn(80, frames) for frames in num_frames]),
        num_frames=torch.tensor(num_frames),
        student=sequences(before, speech, after, responses),
        teacher=sequences(before, texts, after, responses),
        signals=None,
        response_ids=torch.tensor([token for response in responses for token in response]),
        emotion=torch.tensor([0, 1]),
    )


@contextmanager
def _refused(architecture: str, step: str) -> Iterator[None]:
    """Turn an error of a library in a step into a UserError."""
    from train.own_forward import CANNOT_RUN, describe

    try:
        yield
    except CANNOT_RUN as error:
        found = f"found {describe(error)} in {step}, expected none"
        raise UserError(f"models.llm: {architecture}: {found}; this architecture is not supported") from error


if __name__ == "__main__":
    run_stage(main)
