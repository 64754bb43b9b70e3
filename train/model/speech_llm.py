"""The speech LLM: encoder, adapter, frozen LLM with optional P-LoRA, emotion head."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from train.model.adapter import ConvAdapter
from train.model.batch import Batch, Sequences
from train.model.encoder import SpeechEncoder, valid
from train.model.plora import SpeechPositions, add_plora


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """Clips as the LLM takes them in."""

    embeddings: Float[Tensor, "b s d"]
    valid: Bool[Tensor, "b s"]

    def pooled(self) -> Float[Tensor, "b d"]:
        """Mean over the valid embeddings of each clip."""
        weights = self.valid[..., None].to(self.embeddings.dtype)
        return (self.embeddings * weights).sum(1) / weights.sum(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Final hidden states at the positions that predict a response token, and the emotion logits."""

    student: Float[Tensor, "n d"]
    teacher: Float[Tensor, "n d"] | None
    emotion: Float[Tensor, "b k"]


class SpeechLLM(nn.Module):
    """An LLM that takes speech in the place of words (BLSP-Emo, method.md section 1)."""

    def __init__(self, encoder: SpeechEncoder, llm: PreTrainedModel, num_emotions: int) -> None:
        super().__init__()
        width = int(llm.get_input_embeddings().weight.shape[1])
        self.encoder = encoder.requires_grad_(False)
        self.adapter = ConvAdapter(encoder.width, width)
        self.llm = llm.requires_grad_(False)
        self.head = nn.Linear(width, num_emotions, bias=False)
        self.positions = SpeechPositions()
        self.plora: LoraConfig | None = None

    def add_plora(self, config: LoraConfig) -> None:
        """Add P-LoRA to the LLM (stage 2); until B is trained, no output changes."""
        add_plora(self.llm, config, self.positions)
        self.plora = config

    @property
    def output_embeddings(self) -> Float[Tensor, "v d"]:
        """The LLM's output matrix, which turns a final hidden state into logits."""
        return self.llm.get_output_embeddings().weight  # type: ignore[no-any-return]

    def hear(self, features: Float[Tensor, "b m f"], num_frames: Int[Tensor, " b"]) -> Speech:
        """Turn log-mel into embeddings for the LLM."""
        states, lengths = self.encoder(features, num_frames)
        embeddings, lengths = self.adapter(states, lengths)
        return Speech(embeddings=embeddings, valid=valid(lengths, embeddings.shape[1]))

    def embed(self, sequences: Sequences, speech: Speech | None) -> Float[Tensor, "b l d"]:
        """Look up the tokens and put the speech into its places."""
        embeddings = self.llm.get_input_embeddings()(sequences.token_ids)
        if speech is None:
            return embeddings
        return embeddings.masked_scatter(
            sequences.speech[..., None], speech.embeddings[speech.valid].to(embeddings.dtype)
        )

    def hidden(self, sequences: Sequences, speech: Speech | None) -> Float[Tensor, "b l d"]:
        """Return the LLM's final hidden states; P-LoRA acts where there is speech."""
        with self.positions.at(sequences.speech):
            output = self.llm.base_model(
                inputs_embeds=self.embed(sequences, speech),
                attention_mask=sequences.attended,
                use_cache=False,
            )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> Outputs:
        """Run the student and, where the batch has one, the teacher."""
        speech = self.hear(batch.features, batch.num_frames)
        teacher = None
        if batch.teacher is not None:
            with torch.no_grad():
                teacher = self.hidden(batch.teacher, None)[batch.teacher.predicts]
        return Outputs(
            student=self.hidden(batch.student, speech)[batch.student.predicts],
            teacher=teacher,
            emotion=self.head(speech.pooled()),
        )
