"""An independent computation of both losses: dense, padded, in float64, with logits at all positions.

It shares no code with train/. From there it gets only the trained tensors and their names. transformers runs the
encoder and the LLM, with a mask of four dimensions and with the position of each token. Rows are padded on the left, as
nothing in training is. Attention, P-LoRA, adapter, emotion head and losses are written out (arXiv 2406.03872).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

IGNORED = -100
ATTENTION = "dense_reference"
LORA_A, LORA_B = "lora_A.default.weight", "lora_B.default.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A clip (80 bands by frames of log-mel, as many as the encoder gets), its tokens and its emotion."""

    log_mel: Tensor
    num_frames: int
    text: list[int]
    response: list[int]
    emotion: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The tokens before speech or transcript, and those between it and the response."""

    before: list[int]
    after: list[int]


class MaskedLora(nn.Module):
    """y = W x + m * (alpha / r) * B A x, with m = 1 at positions of speech and 0 elsewhere."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.a, self.b, self.scale = layer, a, b, scale
        self.at_speech = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to states (b, l, d)."""
        change: Tensor = x @ self.a.T @ self.b.T
        changed: Tensor = self.layer(x) + self.at_speech * self.scale * change
        return changed


def attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    softcap: float | None = None,
    **_other: Any,
) -> tuple[Tensor, None]:
    """Compute attention in the type of the states: transformers' own takes its softmax in float32."""
    heads = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(heads, dim=1).transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_mask is not None:
        scores = scores + attention_mask
    output: Tensor = scores.softmax(-1) @ value.repeat_interleave(heads, dim=1)
    return output.transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)


class DenseReference:
    """Both losses of rows, from the tensors of a model by their names."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        trained: Sequence[str],
        encoder: WhisperConfig,
        llm: PreTrainedConfig,
        lora_scale: float = 0.0,
    ) -> None:
        """`lora_scale` is alpha / r; tensors named in `trained` get a gradient in `tensors`."""
        self.tensors = {name: tensor.detach().double().clone() for name, tensor in tensors.items()}
        encoder, llm = deepcopy(encoder), deepcopy(llm)  # those of the model keep their attention
        encoder._attn_implementation = llm._attn_implementation = ATTENTION
        self.encoder = WhisperEncoder(encoder).double().requires_grad_(False)
        self.llm = AutoModelForCausalLM.from_config(llm).double().requires_grad_(False)
        self._load(self.encoder, "encoder.whisper.")
        self._load(self.llm, "llm.")
        self.tensors |= {f"encoder.whisper.{name}": p for name, p in self.encoder.named_parameters()}
        self.adapted = self._add_lora(lora_scale)
        for name in trained:
            self.tensors[name].requires_grad_()

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients so far, zero where a loss has none."""
        return {
            name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            for name, tensor in self.tensors.items()
            if tensor.requires_grad
        }

    def semantic_loss(self, rows: Sequence[Row], speech: Prompt, text: Prompt, temperature: float) -> Tensor:
        """Return the mean KL of the response tokens (paper Eq. 1), without a factor of the squared temperature."""
        embed = self.llm.get_input_embeddings()
        with torch.no_grad():
            words = [embed(torch.tensor(row.text, dtype=torch.long)) for row in rows]
            teacher, labels = self._logits(rows, text, words, is_speech=False)
        student, same_labels = self._logits(rows, speech, [self._embeddings(row) for row in rows], is_speech=True)
        p = functional.softmax(teacher[labels != IGNORED] / temperature, dim=-1)
        q = functional.softmax(student[same_labels != IGNORED] / temperature, dim=-1)
        return (p * (p.log() - q.log())).sum() / len(p)

    def emotion_loss(self, rows: Sequence[Row], speech: Prompt, emotion_weight: float) -> Tensor:
        """Return the cross-entropy of the response tokens plus that of the emotion head (paper Eq. 2 and 3)."""
        embeddings = [self._embeddings(row) for row in rows]
        logits, labels = self._logits(rows, speech, embeddings, is_speech=True)
        ce = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        pooled = torch.stack([clip.mean(0) for clip in embeddings])
        standard = (pooled - self.tensors["head.mean"]) / self.tensors["head.deviation"]
        classes = standard @ self.tensors["head.classify.weight"].T
        return ce + emotion_weight * functional.cross_entropy(classes, torch.tensor([row.emotion for row in rows]))

    def _embeddings(self, row: Row) -> Tensor:
        """Return the speech embeddings (s, d) of a clip that is encoded by itself."""
        get = self.tensors.__getitem__
        states = self._encode(row.log_mel.double())[: (row.num_frames - 1) // 2 + 1]
        x = states.T[None]
        for i in range(3):
            weight, bias = get(f"adapter.convolutions.{i}.weight"), get(f"adapter.convolutions.{i}.bias")
            values, gates = functional.conv1d(x, weight, bias, stride=2, padding=2).chunk(2, dim=1)
            x = values * gates.sigmoid()
        x = x[0].T
        x = x + functional.gelu(x @ get("adapter.down.weight").T) @ get("adapter.up.weight").T
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * get("adapter.norm.weight") + get("adapter.norm.bias")

    def _encode(self, log_mel: Tensor) -> Tensor:
        """Return Whisper's states (t, e) of all frames of log-mel: of 3,000, as transformers does it itself."""
        if log_mel.shape[1] == 3000:
            whole: Tensor = self.encoder(log_mel[None]).last_hidden_state[0]
            return whole
        x = functional.gelu(self.encoder.conv1(log_mel[None]))
        x = functional.gelu(self.encoder.conv2(x)).transpose(1, 2)
        x = x + self.encoder.embed_positions.weight[: x.shape[1]]
        for layer in self.encoder.layers:
            x = layer(x, attention_mask=None)
        states: Tensor = self.encoder.layer_norm(x)[0]
        return states

    def _logits(
        self, rows: Sequence[Row], prompt: Prompt, contents: Sequence[Tensor], *, is_speech: bool
    ) -> tuple[Tensor, Tensor]:
        """Return logits (b, l, v), and the token that each position has to predict: IGNORED where there is none."""
        embed = self.llm.get_input_embeddings()
        lengths = [
            len(prompt.before) + len(content) + len(prompt.after) + len(row.response)
            for row, content in zip(rows, contents, strict=True)
        ]
        longest = max(lengths) + 1  # so that each row has padding
        inputs, at_speech = [], torch.zeros(len(rows), longest, 1, dtype=torch.float64)
        sees = torch.zeros(len(rows), longest, longest, dtype=torch.bool)
        labels = torch.full((len(rows), longest), IGNORED)
        places = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, (row, content, length) in enumerate(zip(rows, contents, lengths, strict=True)):
            first, first_content = longest - length, longest - length + len(prompt.before)
            padding = torch.full((first,), 99)  # a token, so that a mask that lets it in is noticed
            pieces = [embed(padding), embed(torch.tensor(prompt.before)), content]
            inputs.append(torch.cat([*pieces, embed(torch.tensor([*prompt.after, *row.response]))]))
            at_speech[i, first_content : first_content + len(content)] = float(is_speech)
            sees[i, first:, first:] = torch.ones(length, length).tril().bool()
            sees[i, range(first), range(first)] = True  # a softmax needs one key
            labels[i, longest - len(row.response) - 1 : longest - 1] = torch.tensor(row.response)
            places[i, first:] = torch.arange(length)
        mask = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, torch.finfo(torch.float64).min)
        for layer in self.adapted:
            layer.at_speech = at_speech
        logits: Tensor = self.llm(
            inputs_embeds=torch.stack(inputs), attention_mask=mask[:, None], position_ids=places, use_cache=False
        ).logits
        return logits, labels

    def _load(self, module: nn.Module, prefix: str) -> None:
        state = {
            name.removeprefix(prefix).replace(".base_layer.", "."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix) and "lora_" not in name
        }
        module.load_state_dict(state)

    def _add_lora(self, scale: float) -> list[MaskedLora]:
        adapted = []
        for name in sorted(self.tensors):
            if not name.endswith(LORA_A):
                continue
            path = name.removeprefix("llm.").removesuffix(f".{LORA_A}")
            owner, _, last = path.rpartition(".")
            a, b = self.tensors[name], self.tensors[name.replace(LORA_A, LORA_B)]
            layer = MaskedLora(self.llm.get_submodule(path), a, b, scale)
            setattr(self.llm.get_submodule(owner), last, layer)
            adapted.append(layer)
        return adapted
