"""The batch layout of the official code, with this project's model and clips, for a comparison of times.

Every clip is padded to 30 s of log-mel, and all its frames are encoded. Instruction, content and response are each
padded to the longest in the batch. Teacher and student compute logits at all positions. The loss runs on these logits
in the LLM's type (cwang621/blsp-emo, src/instruction_dataset.py and src/modeling_blsp2.py). There is one difference:
the KL is taken at the positions that predict a response token, not at those that hold one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.audio.speech_tokens import MAX_DURATION_S, MEL_FRAMES_PER_S, num_speech_tokens
from pipeline.tables.packed import PromptShell
from train.data.dataset import Example
from train.model import Batch, Sequences, Speech, SpeechLLM
from train.model.encoder import SpeechEncoder
from train.model.inputs import pad_features


def collate(examples: Sequence[Example], frame: PromptShell, with_teacher: bool) -> Batch:
    """Lay out a batch as the official code does."""
    assert frame.before_text is not None
    responses = [example.response_ids for example in examples]
    speech: list[list[int | None]] = [[None] * num_speech_tokens(example.num_frames) for example in examples]
    texts: list[list[int | None]] = [[*example.text_ids] for example in examples]
    silence = torch.zeros(80, MAX_DURATION_S * MEL_FRAMES_PER_S)
    return Batch(
        features=pad_features([*(example.features for example in examples), silence])[:-1],
        num_frames=torch.tensor([example.num_frames for example in examples]),
        student=_sequences(frame.before_speech, speech, frame.after, responses),
        teacher=_sequences(frame.before_text, texts, frame.after, responses) if with_teacher else None,
        signals=None,
        response_ids=torch.tensor([token for response in responses for token in response]),
        emotion=torch.tensor([example.emotion for example in examples]),
    )


def _sequences(
    before: list[int], contents: list[list[int | None]], after: list[int], responses: list[list[int]]
) -> Sequences:
    size = max(len(content) for content in contents)
    longest = max(len(response) for response in responses)
    length = len(before) + size + len(after) + longest
    token_ids = torch.zeros(len(contents), length, dtype=torch.long)
    attended, speech, predicts = (torch.zeros(len(contents), length, dtype=torch.bool) for _ in range(3))
    start, end = len(before), len(before) + size + len(after)
    for i, (content, response) in enumerate(zip(contents, responses, strict=True)):
        token_ids[i, :start] = torch.tensor(before)
        token_ids[i, start : start + len(content)] = torch.tensor([token or 0 for token in content])
        token_ids[i, start + size : end] = torch.tensor(after)
        token_ids[i, end : end + len(response)] = torch.tensor(response)
        attended[i, : start + len(content)] = attended[i, start + size : end + len(response)] = True
        speech[i, start : start + len(content)] = torch.tensor([token is None for token in content])
        predicts[i, end - 1 : end - 1 + len(response)] = True
    return Sequences(token_ids=token_ids, attended=attended, speech=speech, predicts=predicts, num_shared=0)


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits at all positions (b, l, v), and of the emotion head."""

    student: Tensor
    teacher: Tensor | None
    emotion: Tensor


class OfficialLayout(nn.Module):
    """The same weights, run as in the official code."""

    def __init__(self, model: SpeechLLM) -> None:
        super().__init__()
        self.model = model
        self.encoder = SpeechEncoder(model.encoder.whisper, pad_to_30s=True)

    def forward(self, batch: Batch) -> Logits:
        """Run the student, and the teacher if the batch has one."""
        states, lengths = self.encoder(batch.features, batch.num_frames)
        embeddings, lengths = self.model.adapter(states, lengths)
        places = torch.arange(embeddings.shape[1], device=lengths.device)
        speech = Speech(embeddings=embeddings, valid=places < lengths[:, None])
        teacher = None
        if batch.teacher is not None:
            with torch.no_grad():
                teacher = self._logits(batch.teacher, None)
        return Logits(self._logits(batch.student, speech), teacher, self.model.head(speech.pooled()))

    def _logits(self, sequences: Sequences, speech: Speech | None) -> Tensor:
        with self.model.speech_mask.applied(sequences.speech):
            logits: Tensor = self.model.llm(
                inputs_embeds=self.model.embed(sequences, speech), attention_mask=sequences.attended, use_cache=False
            ).logits
        return logits


class OfficialObjective:
    """The losses of both stages on the logits of all positions."""

    def __init__(self, weights: Mapping[str, float], temperature: float) -> None:
        self.weights = weights
        self.temperature = temperature

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Return the number of units of each term."""
        return {name: len(batch.emotion if name == "emotion" else batch.response_ids) for name in self.weights}

    def sums(self, outputs: Logits, batch: Batch) -> Mapping[str, Tensor]:
        """Return the sum of each term, in nats."""
        if outputs.teacher is not None:
            assert batch.teacher is not None
            log_q = functional.log_softmax(outputs.student / self.temperature, dim=-1)
            p = functional.softmax(outputs.teacher / self.temperature, dim=-1)
            rows = log_q[batch.student.predicts], p[batch.teacher.predicts]
            return {"kl": functional.kl_div(*rows, reduction="sum")}
        targets = torch.full_like(batch.student.token_ids, -100)
        targets[batch.student.predicts] = batch.response_ids
        return {
            "ce": functional.cross_entropy(outputs.student.flatten(0, 1), targets.flatten(), reduction="sum"),
            "emotion": functional.cross_entropy(outputs.emotion, batch.emotion, reduction="sum"),
        }
