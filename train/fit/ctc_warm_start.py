"""The warm start: a CTC loss trains the adapter to spell the transcript before stage 1.

With the KL loss, the only training signal is the gradient through the whole LLM. From it the adapter must learn which
embedding stands for which word. With few hours of speech it never learns this. CTC (Graves et al., 2006) teaches this
directly. The logits of a speech embedding are its scaled cosine similarities to the LLM's token embeddings, and one
logit for the blank. The loss asks for the transcript's tokens in order, with blanks between them. The warm start needs
only transcripts. It does not run the LLM, so a step costs a tenth of a step of stage 1. It is not in the paper;
`warm_start: null` turns it off.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from pipeline.progress import Task
from pipeline.stage import say
from train.data.dataset import Example, join_clips, visits
from train.fit.data import Data
from train.fit.params import FitParams, WarmStartParams
from train.fit.schedule import Schedule
from train.fit.step_result import check_finite
from train.model import SpeechLLM
from train.model.inputs import Features, change_features
from train.model.packing import Segments

SCALE = 20.0  # initial factor of the cosines; it gives a peaked distribution, but not one close to one-hot


class CTCHead(nn.Module):
    """Turns speech embeddings into log-probabilities of tokens; the last token is the blank."""

    directions: Tensor

    def __init__(self, table: Float[Tensor, "v d"]) -> None:
        super().__init__()
        self.register_buffer("directions", functional.normalize(table.float(), dim=-1))
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())
        self.blank = nn.Linear(table.shape[1], 1)

    def forward(self, embeddings: Float[Tensor, "b s d"]) -> Float[Tensor, "b s u"]:
        """Return log-probabilities; u = v + 1."""
        cosines = functional.normalize(embeddings, dim=-1) @ self.directions.T
        logits = torch.cat([cosines * self.log_scale.exp(), self.blank(embeddings)], dim=-1)
        return functional.log_softmax(logits, dim=-1)


@dataclass(frozen=True, slots=True)
class TranscribedClips:
    """Clips and their transcripts; tokens are given as indices into a `Vocabulary`, not as token ids of the LLM."""

    features: Features
    num_frames: Int[Tensor, " b"]
    tokens: list[Int[Tensor, " _"]]
    ids: list[str]
    clips: tuple[Segments, ...] | None
    """As in `Batch`."""


class Vocabulary:
    """Numbers the tokens that occur in the transcripts; CTC uses only these tokens."""

    def __init__(self, transcripts: pa.ListArray | pa.ChunkedArray, packed: bool = False) -> None:
        """Take the transcripts as lists of token ids."""
        self.packed = packed
        self.ids: list[int] = pc.unique(pc.list_flatten(transcripts)).sort().to_pylist()
        self.numbers = {token: number for number, token in enumerate(self.ids)}

    def collate(self, examples: Sequence[Example]) -> TranscribedClips:
        """Batch clips with their transcripts."""
        features, clips = join_clips(examples, self.packed)
        return TranscribedClips(
            features,
            torch.tensor([example.num_frames for example in examples]),
            [torch.tensor([self.numbers[token] for token in example.text_ids]) for example in examples],
            [example.id for example in examples],
            clips,
        )


def warm_start(
    model: SpeechLLM, data: Data, fit: FitParams, settings: WarmStartParams, is_main_process: bool = True
) -> None:
    """Train the adapter in place, with a step for each batch.

    The warm start is short, so every process does the same work; only the main process reports.
    """
    vocabulary = Vocabulary(data.train.rows.column("text_ids"), packed=fit.batches.layout == "packed")
    device = model.token_embeddings.weight.device
    ctc_head = CTCHead(model.token_embeddings.weight[vocabulary.ids].detach()).to(device)
    trained = [*model.adapter.parameters(), *ctc_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
    epochs = [
        [visits(rows, epoch) for step in data.sampler.plan(epoch) for rows in step] for epoch in range(settings.epochs)
    ]
    num_steps = sum(len(batches) for batches in epochs)
    schedule = Schedule(
        shape="as-published",
        seed=fit.seed,
        num_steps=num_steps,
        warmup_steps=num_steps // 10,
        max_grad_norm=1.0,
    )
    step = 0
    task = Task("warm start", num_steps, "steps") if is_main_process else None
    for epoch, batches in enumerate(epochs, 1):
        total = 0.0
        clips = DataLoader(data.train, batch_sampler=batches, collate_fn=vocabulary.collate, num_workers=fit.workers)
        for batch in clips:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule.rate(step)
            loss = ctc_loss(model, ctc_head, batch)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, schedule.max_grad_norm)
            where = f"fit: warm start: step {step + 1}"
            numbers = check_finite(where, {"ctc": loss, "norm of the gradient": norm}, batch.ids)
            optimizer.step()
            optimizer.zero_grad()
            total += numbers["ctc"]
            step += 1
            if task is not None:
                task.advance()
        if is_main_process:
            say(f"warm start: epoch {epoch} of {settings.epochs}  ctc {total / len(batches):.3g}")


def ctc_loss(model: SpeechLLM, ctc_head: CTCHead, batch: TranscribedClips) -> Float[Tensor, ""]:
    """Return the CTC loss in nats per token; the loss of a clip too short for its transcript is 0."""
    device = ctc_head.blank.weight.device
    clips = batch.clips and tuple(segments.changed(lambda tensor: tensor.to(device)) for segments in batch.clips)
    features = change_features(batch.features, lambda tensor: tensor.to(device))
    speech = model.encode_speech(features, batch.num_frames.to(device), clips)
    log_p = ctc_head(speech.embeddings).transpose(0, 1)
    loss = functional.ctc_loss(
        log_p,
        torch.cat(batch.tokens).to(device),
        speech.valid.sum(1),
        torch.tensor([len(tokens) for tokens in batch.tokens]),
        blank=log_p.shape[-1] - 1,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / sum(len(tokens) for tokens in batch.tokens)
