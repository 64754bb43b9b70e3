"""The training objective of each stage, as sums over response tokens or labelled clips ("units").

An objective counts the units of a batch before the model runs. So a step can divide each sum by the number of units in
all its batches, on all processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from train.losses import response_ce, response_kl, stored_kl
from train.model import Batch
from train.model.output_head import OutputHead, at_least_float32
from train.model.speech_llm import Outputs


class Objective(Protocol):
    """The named terms of a loss.

    Each term is its sum divided by its count; the loss is the weighted sum of the terms.
    """

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each term in the loss."""
        ...

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Return the number of units of each term in a batch."""
        ...

    def sums(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Return the sum of each term over the units of a batch."""
        ...

    @property
    def num_emotions(self) -> int:
        """The number of emotion classes whose recall is evaluated; 0 if the objective trains no emotion head."""
        ...


@dataclass(frozen=True, slots=True)
class SemanticAlignment:
    """Stage 1: the KL between the LLM's predictions given the transcript and those given the speech (paper Eq. 1).

    With a stored teacher in place of the transcript, the term is a lower bound of the KL, at temperature 1.
    """

    head: OutputHead
    temperature: float

    @property
    def num_emotions(self) -> int:
        """Stage 1 trains no emotion head."""
        return 0

    @property
    def weights(self) -> Mapping[str, float]:
        """The only term has weight 1."""
        return {"kl": 1.0}

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Return the number of response tokens."""
        return {"kl": batch.num_responses}

    def sums(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Return the KL summed over response tokens, in nats."""
        if batch.signals is not None:
            assert self.temperature == 1
            signals = batch.signals
            kl = stored_kl(outputs.student, signals.top_ids, signals.top_logprobs, self.head)
        else:
            assert outputs.teacher is not None
            kl = response_kl(outputs.student, outputs.teacher, self.head, self.temperature)
        return {"kl": kl[: batch.num_responses].sum()}


@dataclass(frozen=True, slots=True)
class EmotionAlignment:
    """Stage 2: the cross-entropies of the response and of the emotion head (paper Eq. 2 and 3).

    Instead of the cross-entropy of the response, or beside it, its KL to the teacher of the batch, at temperature 1.
    """

    head: OutputHead
    emotion_weight: float
    num_emotions: int
    response_terms: tuple[Literal["ce", "kl"], ...] = ("ce",)

    @property
    def weights(self) -> Mapping[str, float]:
        """Each term of the response has weight 1, the emotion head `emotion_weight`."""
        return {**dict.fromkeys(self.response_terms, 1.0), "emotion": self.emotion_weight}

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Return the numbers of response tokens and of labelled clips."""
        counts: dict[str, int] = dict.fromkeys(self.response_terms, batch.num_responses)
        return counts | {"emotion": int((batch.emotion >= 0).sum())}

    def sums(self, outputs: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Return the sums of all terms, in nats."""
        sums: dict[str, Tensor] = {}
        for name in self.response_terms:
            if name == "ce":
                losses = response_ce(outputs.student, batch.response_ids, self.head)
            else:
                assert outputs.teacher is not None
                losses = response_kl(outputs.student, outputs.teacher, self.head, temperature=1.0)
            sums[name] = losses[: batch.num_responses].sum()
        return sums | {"emotion": emotion_ce(outputs.emotion, batch)}


def emotion_ce(logits: Float[Tensor, "b k"], batch: Batch) -> Float[Tensor, ""]:
    """Return the cross-entropy of the emotion head summed over the labelled clips; labels are hard or soft."""
    logits = logits.to(at_least_float32(logits.dtype))
    if batch.shares is None:
        return functional.cross_entropy(logits, batch.emotion, ignore_index=-1, reduction="sum")
    shares = batch.shares.where(batch.emotion[:, None] >= 0, 0.0)
    return functional.cross_entropy(logits, shares.to(logits.dtype), reduction="sum")


def recalled(logits: Float[Tensor, "b k"], emotion: Int[Tensor, " b"]) -> Float[Tensor, "2 k"]:
    """Count for each class the clips that the emotion head recognises, and all clips."""
    right = emotion[logits.argmax(-1) == emotion]
    counts = (torch.bincount(clips[clips >= 0], minlength=logits.shape[1]) for clips in (right, emotion))
    return torch.stack(list(counts)).double()


def unweighted_accuracy(counts: Float[Tensor, "2 k"]) -> float:
    """Return the mean recall of the classes that occur; the counts are those of `recalled`."""
    right, total = counts[:, counts[1] > 0]
    return float((right / total).mean())
