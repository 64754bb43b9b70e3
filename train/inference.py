"""Ask a trained model for written answers and for log-probabilities of labels, with or without speech.

The prompts of a batch differ only in their content. So the LLM runs on the start of the prompt once for the batch, and
on the rest of each prompt once for all that is asked: the tokens of all labels, and the written answer, continue from
the prompt's keys and values. The results are those of whole sequences, except for rounding. An LLM that keeps another
state than keys and values runs on whole sequences.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import Cache, GenerationConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from pipeline.prompts import Prompter, PromptIds
from train.losses import ROWS_AT_ONCE
from train.model import Speech, SpeechLLM
from train.model.checkpointed_layers import StartCache
from train.model.inputs import pad_features, sequences
from train.model.plora import plora_off
from train.precision import autocast


class Clip:
    """The log-mel features of a clip."""

    def __init__(self, features: Tensor, num_frames: int) -> None:
        self.features = features
        # Mel frames of the clip without padding; `features` has more if it is padded to 30 s.
        self.num_frames = num_frames


Given = Sequence[Clip] | Speech | None
"""What replaces the contents of prompts: clips, their embeddings, or nothing."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """The prompts of a batch: token ids, with None at the places of speech embeddings."""

    before: Sequence[int]
    contents: Sequence[Sequence[int | None]]
    after: Sequence[int]


@dataclass(slots=True)
class _Prefill:
    """Prompts that the LLM has run on."""

    cache: Cache
    """Keys and values of the start and of the rest of each prompt, with padding between them."""
    attended: Bool[Tensor, "b l"]
    """False at padding."""
    states: Float[Tensor, "b d"]
    """The final hidden states, which predict the first token of the answer."""
    with_speech: bool

    def select(self, rows: Tensor) -> None:
        """Keep only some rows."""
        self.cache.batch_select_indices(rows)
        self.attended = self.attended[rows]


class Answering:
    """Asks a model in batches, on its device and with the precision of its training; decoding is greedy."""

    def __init__(self, model: SpeechLLM, prompter: Prompter, max_new_tokens: int) -> None:
        self.model = model
        self.device = model.token_embeddings.weight.device
        self.prompter = prompter
        self.max_new_tokens = max_new_tokens

    def encode_speech(self, clips: Sequence[Clip]) -> Speech:
        """Return the speech embeddings of clips."""
        features = pad_features([clip.features for clip in clips]).to(self.device)
        num_frames = torch.tensor([clip.num_frames for clip in clips], device=self.device)
        with autocast(self.model.llm):
            return self.model.encode_speech(features, num_frames)

    def emotion_scores(self, given: Sequence[Clip] | Speech) -> list[list[float]]:
        """Return the emotion head's log-probability of each class, one list per clip."""
        speech = given if isinstance(given, Speech) else self.encode_speech(given)
        with autocast(self.model.llm):
            logits = self.model.head(speech.pooled())
        return torch.log_softmax(logits.double(), dim=-1).tolist()

    def write(self, prompts: Sequence[PromptIds], given: Given) -> list[str]:
        """Return the answers to prompts; if clips are given, each clip replaces the content of its prompt."""
        return self.score_and_write(prompts, given, ())[1]

    def label_scores(self, prompts: Sequence[PromptIds], given: Given, labels: Sequence[str]) -> list[list[float]]:
        """Return the log-probability that the answer starts with each label, one list per prompt."""
        return self._ask(prompts, given, labels, writes=False)[0]

    def score_and_write(
        self, prompts: Sequence[PromptIds], given: Given, labels: Sequence[str]
    ) -> tuple[list[list[float]], list[str]]:
        """Return what `label_scores` and `write` return; the LLM runs on the prompts only once."""
        return self._ask(prompts, given, labels, writes=True)

    def _ask(
        self, prompts: Sequence[PromptIds], given: Given, labels: Sequence[str], *, writes: bool
    ) -> tuple[list[list[float]], list[str]]:
        ids = [self.prompter.answer_ids(label) for label in labels]
        asked, speech = self._contents(prompts, given)
        prefill = self._prefill(asked, speech, num_new=max(self.max_new_tokens, sum(map(len, ids))))
        if prefill is None:
            scores = self._score_whole(asked, speech, ids) if ids else []
            written = self._write_whole(asked, speech) if writes else []
        else:
            acts = prefill.with_speech and self.model.speech_mask.everywhere
            with nullcontext() if acts else plora_off(self.model.llm):
                scores = self._score(prefill, ids) if ids else []
                written = self._write(prefill) if writes else []
        return scores, [self.prompter.answer(answer) for answer in written]

    def _contents(self, prompts: Sequence[PromptIds], given: Given) -> tuple[_Contents, Speech | None]:
        """Return the prompts with transcripts, or with placeholders together with the speech."""
        contents: list[Sequence[int | None]] = [prompt.content for prompt in prompts]
        speech = self.encode_speech(given) if given is not None and not isinstance(given, Speech) else given
        if speech is not None:
            contents = [[None] * length for length in speech.valid.sum(1).tolist()]
        return _Contents(prompts[0].before, contents, prompts[0].after), speech

    def _prefill(self, prompts: _Contents, speech: Speech | None, num_new: int) -> _Prefill | None:
        """Run the LLM on prompts; return None if nothing could continue from its keys and values.

        The rows are padded after the start, so that all of them end in the same column. A layer with a sliding window
        counts columns, so its window must hold them all, and `num_new` more.
        """
        model, num_rows = self.model, len(prompts.contents)
        if not (model.shares_start or model.speech_mask.everywhere):
            return None
        start = sequences(prompts.before, [[]], [], [[]]).to(self.device)
        rest = sequences([], prompts.contents, prompts.after, [[]] * num_rows).padded_left().to(self.device)
        cache = self._run(model.embed(start, None), start.attended, model.lora_mask(start, speech), None)[1]
        attended = torch.cat([start.attended.expand(num_rows, -1), rest.attended], dim=1)
        if not _holds(cache, attended.shape[1] + num_new):
            return None
        cache.batch_repeat_interleave(num_rows)
        states, cache = self._run(model.embed(rest, speech), attended, model.lora_mask(rest, speech), cache)
        return _Prefill(cache, attended, states[:, -1], speech is not None)

    def _run(
        self,
        embeddings: Float[Tensor, "b n d"],
        attended: Bool[Tensor, "b l"],
        lora_mask: Bool[Tensor, "b n"] | None,
        cache: Cache | None,
    ) -> tuple[Float[Tensor, "b n d"], Cache]:
        """Run the LLM on the last n of l columns; return their final hidden states, and all keys and values."""
        positions = (attended.cumsum(1) - 1)[:, -embeddings.shape[1] :]
        with autocast(self.model.llm), self.model.speech_mask.applied(lora_mask):
            output = self.model.llm.base_model(
                inputs_embeds=embeddings,
                attention_mask=attended,
                position_ids=positions.clamp(min=0),
                past_key_values=cache,
                use_cache=True,
            )
        return output.last_hidden_state, output.past_key_values

    def _score(self, prefill: _Prefill, labels: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-probabilities of labels; their tokens follow the prompt side by side, in one sequence."""
        log_p, num_rows = self._log_p(), len(prefill.states)
        scores = log_p(prefill.states)[:, [ids[0] for ids in labels]]
        fed, following = ([token for ids in labels for token in ids[which]] for which in (slice(-1), slice(1, None)))
        if not fed:
            return scores.tolist()
        places = [(label, place) for label, ids in enumerate(labels) for place in range(len(ids) - 1)]
        owner, offsets = torch.tensor(places, device=self.device).T
        own = (owner[:, None] == owner) & (offsets[:, None] >= offsets)
        visible = torch.cat([prefill.attended[:, None].expand(-1, len(fed), -1), own.expand(num_rows, -1, -1)], dim=2)
        dtype = self.model.token_embeddings.weight.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=self.device).masked_fill(~visible, torch.finfo(dtype).min)
        everywhere = torch.ones(num_rows, len(fed), dtype=torch.bool, device=self.device)
        with autocast(self.model.llm), self.model.speech_mask.applied(everywhere):
            states = self.model.llm.base_model(
                input_ids=torch.tensor(fed, device=self.device).expand(num_rows, -1),
                attention_mask=mask[:, None],
                position_ids=prefill.attended.sum(1, keepdim=True) + offsets,
                past_key_values=StartCache(layers=prefill.cache.layers),
                use_cache=True,
            ).last_hidden_state
        pieces = states.flatten(0, 1).split(ROWS_AT_ONCE)
        targets = torch.tensor(following * num_rows, device=self.device).split(ROWS_AT_ONCE)
        found = [log_p(piece).gather(1, ids[:, None]) for piece, ids in zip(pieces, targets, strict=True)]
        return scores.index_add(1, owner, torch.cat(found).view(num_rows, -1)).tolist()

    def _write(self, prefill: _Prefill) -> list[list[int]]:
        """Return the tokens of the answers; a row whose answer has ended is no longer computed."""
        head, ends = self.model.output_head, torch.tensor(self.prompter.end_ids, device=self.device)
        answers: list[list[int]] = [[] for _ in range(len(prefill.states))]
        rows, states = list(range(len(answers))), prefill.states
        for count in range(1, self.max_new_tokens + 1):
            with autocast(self.model.llm):
                tokens = head.logits(states).argmax(-1)
            goes_on = ~torch.isin(tokens, ends)
            if not goes_on.all():
                kept = goes_on.nonzero()[:, 0]
                prefill.select(kept)
                tokens, rows = tokens[kept], [rows[i] for i in kept.tolist()]
            for row, token in zip(rows, tokens.tolist(), strict=True):
                answers[row].append(token)
            if not rows or count == self.max_new_tokens:
                break
            prefill.attended = functional.pad(prefill.attended, (0, 1), value=True)
            everywhere = torch.ones(len(rows), 1, dtype=torch.bool, device=self.device)
            embeddings = self.model.token_embeddings(tokens[:, None])
            states = self._run(embeddings, prefill.attended, everywhere, prefill.cache)[0][:, -1]
        return answers

    def _score_whole(
        self, prompts: _Contents, speech: Speech | None, labels: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the log-probabilities of labels; the LLM runs on the prompts again for each label."""
        log_p, scores = self._log_p(), []
        for ids in labels:
            asked = sequences(prompts.before, prompts.contents, prompts.after, [ids] * len(prompts.contents))
            with autocast(self.model.llm):
                states = self.model.response_states(asked.to(self.device), speech)
            targets = torch.tensor(ids, device=self.device).repeat(len(prompts.contents))
            scores.append(log_p(states).gather(1, targets[:, None]).view(-1, len(ids)).sum(1))
        return torch.stack(scores, dim=1).tolist()

    def _write_whole(self, prompts: _Contents, speech: Speech | None) -> list[list[int]]:
        """Return the tokens of the answers, as the LLM's own generation writes them."""
        asked = sequences(prompts.before, prompts.contents, prompts.after, [[]] * len(prompts.contents)).padded_left()
        asked = asked.to(self.device)
        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self.prompter.end_ids),
            pad_token_id=self.prompter.end_id,
        )
        mask = self.model.lora_mask(asked, speech)
        with autocast(self.model.llm), self.model.speech_mask.applied(mask, generating=True):
            written = self.model.llm.generate(  # type: ignore[operator]
                inputs_embeds=self.model.embed(asked, speech),
                attention_mask=asked.attended.long(),
                generation_config=greedy,
            )
        ends = set(self.prompter.end_ids)
        return [list(takewhile(lambda token: token not in ends, ids)) for ids in written.tolist()]

    def _log_p(self) -> Callable[[Tensor], Tensor]:
        """Return the function that turns final hidden states into log-probabilities.

        In bfloat16, logits near 20 are rounded to multiples of 1/8, so two labels whose scores differ by less than 1/8
        could get the same score.
        """
        head = self.model.output_head.float()
        return lambda states: torch.log_softmax(head.logits(states.float()), dim=-1)


def _holds(cache: Cache, num_columns: int) -> bool:
    """Return whether a cache has only keys and values, and keeps those of all columns."""
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and num_columns < layer.sliding_window)
        for layer in cache.layers
    )
