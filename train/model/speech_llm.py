"""The speech LLM: encoder, adapter, frozen LLM with optional P-LoRA, and emotion head."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from pipeline.audio.speech_tokens import halved
from train.model.adapter import ConvAdapter
from train.model.batch_log_mel import BatchLogMel
from train.model.checkpointed_layers import StartCache, checkpointed, decoder_layers
from train.model.compiled_layers import Backend, compile_layers, given_start
from train.model.emotion_head import EmotionHead, HeadShape, LayerSum, mean_of
from train.model.encoder import SpeechEncoder, valid
from train.model.inputs import Batch, Features, Samples, Sequences, States
from train.model.output_head import OutputHead, output_head
from train.model.packing import Segments, packed_attention
from train.model.plora import SpeechMask, add_plora, train_dropout


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """The speech embeddings of clips, the LLM's input."""

    embeddings: Float[Tensor, "b s d"]
    valid: Bool[Tensor, "b s"]
    clips: Segments | None = None
    """Where the embeddings are when they stand one after another, as the packed layout needs them."""
    summary: Float[Tensor, "b w"] | None = None
    """What the emotion head reads of each clip, unless it is the mean of the embeddings."""

    @classmethod
    def of(cls, clips: Sequence[Float[Tensor, "_ d"]]) -> "Speech":
        """Join the embeddings of clips."""
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        embeddings = pad_sequence(list(clips), batch_first=True)
        return cls(embeddings=embeddings, valid=valid(lengths, embeddings.shape[1]))

    def pooled(self) -> Float[Tensor, "b w"]:
        """Return what the emotion head reads of each clip: by default the mean of its embeddings."""
        return mean_of(self.embeddings, self.valid) if self.summary is None else self.summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Final hidden states at the positions that predict a response token, and the emotion logits."""

    student: Float[Tensor, "n d"]
    teacher: Float[Tensor, "n d"] | None
    emotion: Float[Tensor, "b k"]


class SpeechLLM(nn.Module):
    """An LLM that accepts speech in place of words (BLSP-Emo, arXiv 2406.03872)."""

    def __init__(
        self, encoder: SpeechEncoder, llm: PreTrainedModel, num_emotions: int, head: HeadShape | None = None
    ) -> None:
        super().__init__()
        width = _token_embeddings(llm).embedding_dim
        self.encoder = encoder.requires_grad_(False)
        self.adapter = ConvAdapter(encoder.width, width)
        self.llm = llm.requires_grad_(False)
        self.head = EmotionHead(width, num_emotions)
        if head is not None:
            self.change_head(head)
        self.speech_mask = SpeechMask()
        self.plora: LoraConfig | None = None
        self.log_mel: BatchLogMel | None = None
        """Computes the log-mel of clips that come as samples; None if none does."""
        self.shares_start = True
        """Whether the start of prompts is computed once for a batch; train/own_forward.py finds out."""
        self.packs = True
        """Whether the LLM gives the same states in the packed layout; train/own_forward.py finds out."""
        self.checkpoints_layers = False
        """Whether layers are computed again for the gradient, which saves memory and costs time."""

    def train(self, mode: bool = True) -> "SpeechLLM":
        """Set the mode of what is trained; what is frozen stays in evaluation mode, so that it has no dropout."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.encoder.parameters()):
            self.encoder.eval()
        self.llm.eval()
        train_dropout(self.llm, mode)
        return self

    def change_head(self, shape: HeadShape) -> None:
        """Put a new emotion head in place of the old one, unless the old one has this shape."""
        if shape == self.head.shape:
            return
        width = self.encoder.width if shape.layers == "weighted" else self.token_embeddings.embedding_dim
        num_layers = len(self.encoder.whisper.layers) + 1
        self.head = EmotionHead(width, self.head.classify.out_features, shape, num_layers)

    def add_plora(self, config: LoraConfig, *, everywhere: bool = False) -> None:
        """Add P-LoRA to the LLM (stage 2); it changes no output until B is trained."""
        add_plora(self.llm, config, self.speech_mask)
        self.plora = config
        self.speech_mask.everywhere = everywhere
        if everywhere:
            self.shares_start = False  # what is trained acts on the start, too

    def compile_layers(self, backend: Backend = "inductor") -> None:
        """Compile the layers of encoder and LLM for the packed layout; the other layout stays as it is."""
        compile_layers([*self.encoder.whisper.layers, *decoder_layers(self.llm)], backend)

    @property
    def token_embeddings(self) -> nn.Embedding:
        """The LLM's table of token embeddings."""
        return _token_embeddings(self.llm)

    @property
    def output_head(self) -> OutputHead:
        """The LLM's output head, which turns final hidden states into logits."""
        return output_head(self.llm)

    def encode_speech(
        self,
        features: Features,
        num_frames: Int[Tensor, " b"],
        clips: tuple[Segments, ...] | None = None,
    ) -> Speech:
        """Turn clips into embeddings for the LLM; `clips` says where packed clips are (`Batch.clips`)."""
        layer_sum = self.head.layer_sum()
        states, lengths = self.encode(features, num_frames, clips, layer_sum)
        if clips is not None:
            embeddings = self.adapter.packed(states, clips[1:])
            speech = Speech(embeddings=clips[-1].rectangle(embeddings), valid=clips[-1].valid, clips=clips[-1])
        else:
            embeddings, num_embeddings = self.adapter(states, lengths)
            speech = Speech(embeddings=embeddings, valid=valid(num_embeddings, embeddings.shape[1]))
        if self.head.shape == HeadShape():
            return speech
        frames, is_frame = speech.embeddings, speech.valid
        if layer_sum is not None and clips is not None:
            frames, is_frame = clips[1].rectangle(layer_sum.total.flatten(0, 1)), clips[1].valid
        elif layer_sum is not None:
            frames, is_frame = layer_sum.total, valid(lengths, layer_sum.total.shape[1])
        return replace(speech, summary=self.head.pool(frames, is_frame))

    def encode(
        self,
        features: Features,
        num_frames: Int[Tensor, " b"],
        clips: tuple[Segments, ...] | None = None,
        layer_sum: LayerSum | None = None,
    ) -> tuple[Float[Tensor, "b t e"] | Float[Tensor, "t e"], Int[Tensor, " b"]]:
        """Return the encoder states of clips, padded or packed, and their lengths; given states are not computed.

        `layer_sum` gets the states of all layers, which given states do not have.
        """
        if isinstance(features, States):
            assert layer_sum is None
            return features.values.to(self.adapter.down.weight.dtype), halved(num_frames)
        layers = list(self.encoder.whisper.layers)
        log_mel = self._log_mel(features, clips)
        if clips is None:
            with self._checkpointed(layers, lambda _layer: nullcontext()):
                states: Tensor
                lengths: Tensor
                states, lengths = self.encoder(log_mel, num_frames, layer_sum)
                return states, lengths
        with self._checkpointed(layers, packed_attention):
            return self.encoder.packed(log_mel, clips[0], clips[1], layer_sum), halved(num_frames)

    def _log_mel(
        self, features: Tensor | Samples, clips: tuple[Segments, ...] | None
    ) -> Float[Tensor, "b m f"] | Float[Tensor, "f m"]:
        if not isinstance(features, Samples):
            return features
        assert self.log_mel is not None
        log_mel: Tensor = self.log_mel(features.hops, features.frames)
        if clips is None:
            return features.frames.rectangle(log_mel).transpose(1, 2)
        return functional.pad(log_mel, (0, 0, 0, len(clips[0].back) - len(log_mel)))

    def embed(self, sequences: Sequences, speech: Speech | None) -> Float[Tensor, "b l d"]:
        """Return the token embeddings, with the speech embeddings at the speech positions."""
        embeddings: Tensor = self.token_embeddings(sequences.token_ids)
        if speech is None:
            return embeddings
        is_speech = sequences.speech[..., None]
        if sequences.speech_places is None:
            return embeddings.masked_scatter(is_speech, speech.embeddings[speech.valid].to(embeddings.dtype))
        assert speech.clips is not None
        packed = speech.clips.sequence(speech.embeddings.to(embeddings.dtype))
        return torch.where(is_speech, sequences.speech_places.placed(packed), embeddings)

    def lora_mask(self, sequences: Sequences, speech: Speech | None) -> Bool[Tensor, "b l"] | None:
        """Return the positions where P-LoRA acts; None if there is no speech, so that it acts nowhere."""
        if speech is None:
            return None
        return torch.ones_like(sequences.speech) if self.speech_mask.everywhere else sequences.speech

    def response_states(self, sequences: Sequences, speech: Speech | None) -> Float[Tensor, "n d"]:
        """Return the final hidden states that predict response tokens; P-LoRA acts at the speech positions.

        The shared start of the rows is computed once, if the LLM allows it. It holds no speech, so no trained weight
        acts on it, and its keys and values are used for the whole batch.
        """
        rows = sequences.rows
        shared = sequences.num_shared if self.shares_start or rows is not None else 0
        embeddings = self.embed(sequences, speech)
        start = self._start(embeddings[:1, :shared], len(embeddings)) if shared else None
        own = embeddings[:, shared:]
        handed_over: AbstractContextManager[None] = nullcontext()
        if rows is None:
            positions = torch.arange(shared, embeddings.shape[1], device=embeddings.device)
            arguments: dict[str, Any] = {"attention_mask": sequences.attended, "past_key_values": start}
        else:
            positions = shared + rows.offsets
            arguments = {"segments": rows}
            own = own.clone()  # no view: a layer is compiled again for a view
            if start is not None:
                handed_over = given_start(decoder_layers(self.llm), start)
        mask = self.lora_mask(sequences, speech)
        surroundings = partial(self._surroundings, None if mask is None else mask[:, shared:], rows is not None)
        layers = decoder_layers(self.llm) if self.checkpoints_layers else []
        with surroundings(self.llm), self._checkpointed(layers, surroundings), handed_over:
            output = self.llm.base_model(
                inputs_embeds=own,
                position_ids=positions[None],
                use_cache=rows is None and start is not None,
                **arguments,
            )
        states: Tensor = output.last_hidden_state
        if sequences.response_places is None:
            return states[sequences.predicts[:, shared:]]
        return sequences.response_places.taken(states[0])

    @contextmanager
    def _surroundings(self, mask: Bool[Tensor, "b l"] | None, is_packed: bool, module: nn.Module) -> Iterator[None]:
        """Make P-LoRA act where `mask` says, and a module of the LLM attend as the layout needs it."""
        with self.speech_mask.applied(mask), packed_attention(module) if is_packed else nullcontext():
            yield

    def _checkpointed(
        self, layers: Sequence[nn.Module], surroundings: Callable[[nn.Module], AbstractContextManager[None]]
    ) -> AbstractContextManager[None]:
        return checkpointed(layers, surroundings) if self.checkpoints_layers else nullcontext()

    @torch.no_grad()
    def _start(self, embeddings: Float[Tensor, "1 l d"], batch_size: int) -> StartCache:
        """Return the keys and values of the shared start, repeated for each row."""
        cache = self.llm.base_model(inputs_embeds=embeddings, use_cache=True).past_key_values
        cache.batch_repeat_interleave(batch_size)
        return StartCache(layers=cache.layers)

    def forward(self, batch: Batch) -> Outputs:
        """Run the student, and the teacher if the batch has one."""
        speech = self.encode_speech(batch.features, batch.num_frames, batch.clips)
        teacher = None
        if batch.teacher is not None:
            with torch.no_grad():
                teacher = self.response_states(batch.teacher, None)
        return Outputs(
            student=self.response_states(batch.student, speech),
            teacher=teacher,
            emotion=self.head(speech.pooled()),
        )


def _token_embeddings(llm: PreTrainedModel) -> nn.Embedding:
    table = llm.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table
