"""Ask a trained model for written answers and for log-probabilities of given answers, with or without speech.

The LLM runs on the start that the prompts of a batch share once for the batch, and on the rest of each prompt once for
all that is asked: the tokens of all given answers, and the written answer, continue from the prompt's keys and values.
The results are those of whole sequences, except for rounding. An LLM that keeps another state than keys and values runs
on whole sequences.

The log-probability of an answer is the sum over its tokens, in nats.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, takewhile

import torch
from jaxtyping import Bool, Float, Int
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
from train.side_by_side import Answer, SideBySide, shared_start, side_by_side


class Clip:
    """The log-mel features of a clip."""

    def __init__(self, features: Tensor, num_frames: int) -> None:
        self.features = features
        # Mel frames of the clip without padding; `features` has more if it is padded to 30 s.
        self.num_frames = num_frames


Given = Sequence[Clip] | Speech | None
"""What replaces the contents of prompts: clips, their embeddings, or nothing."""

WIDTH = 256
"""Tokens of answers that follow a prompt side by side, unless one answer is longer: each of them attends to a mask over
all, and the keys and values of all are in memory at once."""


@dataclass(frozen=True, slots=True)
class _Contents:
    """The prompts of a batch: token ids, with None at the places of speech embeddings."""

    before: Sequence[int]
    """The start that all prompts share."""
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
    room: int
    """Number of columns that may follow: limited if a layer has a sliding window."""

    def select(self, rows: Tensor) -> None:
        """Keep only some rows."""
        self.cache.batch_select_indices(rows)
        self.attended, self.states = self.attended[rows], self.states[rows]


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
        return self.answer_scores(prompts, given, self._starts(prompts, labels))

    def score_and_write(
        self, prompts: Sequence[PromptIds], given: Given, labels: Sequence[str]
    ) -> tuple[list[list[float]], list[str]]:
        """Return what `label_scores` and `write` return; the LLM runs on the prompts only once."""
        return self.score_and_write_some(prompts, given, self._starts(prompts, labels), range(len(prompts)))

    def answer_scores(
        self, prompts: Sequence[PromptIds], given: Given, answers: Sequence[Sequence[Answer]]
    ) -> list[list[float]]:
        """Return the log-probability of each prompt's answers, one list per prompt; equal ones are scored once."""
        return self.score_and_write_some(prompts, given, answers, ())[0]

    def _starts(self, prompts: Sequence[PromptIds], labels: Sequence[str]) -> list[list[Answer]]:
        return [[self.prompter.answer_ids(label) for label in labels]] * len(prompts)

    def score_and_write_some(
        self,
        prompts: Sequence[PromptIds],
        given: Given,
        answers: Sequence[Sequence[Answer]],
        written_rows: Sequence[int],
    ) -> tuple[list[list[float]], list[str]]:
        """Return what `answer_scores` returns, and the answers that the model writes to the prompts of some rows."""
        distinct = [list(dict.fromkeys(of_prompt)) for of_prompt in answers]
        longest = max(map(len, chain.from_iterable(distinct)), default=0)
        asked, speech = self._contents(prompts, given)
        prefill = self._prefill(asked, speech, num_new=max(longest, self.max_new_tokens if written_rows else 0))
        if prefill is None:
            scores = self._score_whole(asked, speech, distinct) if longest else []
            written = self._write_whole(asked, speech, written_rows) if written_rows else []
        else:
            acts = prefill.with_speech and self.model.speech_mask.everywhere
            with nullcontext() if acts else plora_off(self.model.llm):
                scores = self._score(prefill, distinct) if longest else []
                written = self._write(prefill, written_rows) if written_rows else []
        remaining = iter(scores)
        by_answer = [{answer: next(remaining) for answer in of_prompt} for of_prompt in distinct]
        found = [[of[answer] for answer in of_prompt] for of, of_prompt in zip(by_answer, answers, strict=True)]
        return found, [self.prompter.answer(answer) for answer in written]

    def _contents(self, prompts: Sequence[PromptIds], given: Given) -> tuple[_Contents, Speech | None]:
        """Return the prompts with transcripts, or with placeholders together with the speech."""
        contents: list[Sequence[int | None]] = [prompt.content for prompt in prompts]
        speech = self.encode_speech(given) if given is not None and not isinstance(given, Speech) else given
        if speech is not None:
            contents = [[None] * length for length in speech.valid.sum(1).tolist()]
        shared = shared_start([prompt.before for prompt in prompts])
        contents = [
            [*prompt.before[len(shared) :], *content] for prompt, content in zip(prompts, contents, strict=True)
        ]
        (after,) = {prompt.after for prompt in prompts}  # the chat template's
        return _Contents(shared, contents, after), speech

    def _prefill(self, prompts: _Contents, speech: Speech | None, num_new: int) -> _Prefill | None:
        """Run the LLM on prompts; return None if nothing could continue from its keys and values.

        The rows are padded after the start, so that all of them end in the same column. A layer with a sliding window
        counts columns, so its window must hold them all, and `num_new` more.
        """
        model, num_rows = self.model, len(prompts.contents)
        if not prompts.before or not (model.shares_start or model.speech_mask.everywhere):
            return None
        start = sequences(prompts.before, [[]], [], [[]]).to(self.device)
        rest = sequences([], prompts.contents, prompts.after, [[]] * num_rows).padded_left().to(self.device)
        cache = self._run(model.embed(start, None), start.attended, model.lora_mask(start, speech), None)[1]
        attended = torch.cat([start.attended.expand(num_rows, -1), rest.attended], dim=1)
        room = _num_columns(cache) - attended.shape[1]
        if room < num_new:
            return None
        cache.batch_repeat_interleave(num_rows)
        states, cache = self._run(model.embed(rest, speech), attended, model.lora_mask(rest, speech), cache)
        return _Prefill(cache, attended, states[:, -1], speech is not None, room)

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

    def _score(self, prefill: _Prefill, answers: Sequence[Sequence[Answer]]) -> list[float]:
        """Return the log-probabilities of the answers to all prompts, one after another.

        The tokens of a prompt's answers follow the prompt side by side, in one sequence.
        """
        rows = [row for row, of_row in enumerate(answers) for _ in of_row]
        first = torch.tensor([answer[0] for of_row in answers for answer in of_row], device=self.device)
        found = [(prefill.states[rows], torch.arange(len(rows), device=self.device), first)]
        for group in side_by_side(answers, min(WIDTH, prefill.room), self.device):
            is_token = group.numbers >= 0
            states = self._states_after(prefill, group)
            found.append((states[is_token], group.numbers[is_token], group.following[is_token]))
        states, numbers, tokens = map(torch.cat, zip(*found, strict=True))
        return _sums(self._log_p(states, tokens), numbers)

    def _states_after(self, prefill: _Prefill, group: SideBySide) -> Float[Tensor, "b n d"]:
        """Return the final hidden states of answers that follow the prompts."""
        visible = torch.cat([prefill.attended[:, None].expand(-1, group.token_ids.shape[1], -1), group.visible], dim=2)
        dtype = self.model.token_embeddings.weight.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=self.device).masked_fill(~visible, torch.finfo(dtype).min)
        everywhere = torch.ones_like(group.token_ids, dtype=torch.bool)
        with autocast(self.model.llm), self.model.speech_mask.applied(everywhere):
            states: Tensor = self.model.llm.base_model(
                input_ids=group.token_ids,
                attention_mask=mask[:, None],
                position_ids=prefill.attended.sum(1, keepdim=True) + group.offsets,
                past_key_values=StartCache(layers=prefill.cache.layers),
                use_cache=True,
            ).last_hidden_state
        return states

    def _write(self, prefill: _Prefill, written_rows: Sequence[int]) -> list[list[int]]:
        """Return the tokens of the answers of some rows; a row whose answer has ended is no longer computed."""
        if len(written_rows) < len(prefill.states):
            prefill.select(torch.tensor(written_rows, device=self.device))
        head, ends = self.model.output_head, torch.tensor(self.prompter.end_ids, device=self.device)
        answers: list[list[int]] = [[] for _ in written_rows]
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
        self, prompts: _Contents, speech: Speech | None, answers: Sequence[Sequence[Answer]]
    ) -> list[float]:
        """Return what `_score` returns; the LLM runs on the prompt again for each answer."""
        lines = [(row, answer) for row, of_row in enumerate(answers) for answer in of_row]
        scores: list[float] = []
        for start in range(0, len(lines), len(answers)):
            rows, responses = zip(*lines[start : start + len(answers)], strict=True)
            some = sequences(prompts.before, [prompts.contents[row] for row in rows], prompts.after, responses)
            clips = None if speech is None else select_speech(speech, rows)
            with autocast(self.model.llm):
                states = self.model.response_states(some.to(self.device), clips)
            numbers = [number for number, answer in enumerate(responses) for _ in answer]
            tokens = torch.tensor(list(chain.from_iterable(responses)), device=self.device)
            scores += _sums(self._log_p(states, tokens), torch.tensor(numbers, device=self.device))
        return scores

    def _write_whole(self, prompts: _Contents, speech: Speech | None, written_rows: Sequence[int]) -> list[list[int]]:
        """Return the tokens of the answers of some rows, as the LLM's own generation writes them."""
        contents = [prompts.contents[row] for row in written_rows]
        speech = None if speech is None else select_speech(speech, written_rows)
        asked = sequences(prompts.before, contents, prompts.after, [[]] * len(contents)).padded_left().to(self.device)
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

    def _log_p(self, states: Float[Tensor, "n d"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the log-probability of the token that follows each final hidden state, from float32 logits.

        In bfloat16, logits near 20 are rounded to multiples of 1/8, so two labels whose scores differ by less than 1/8
        could get the same score.
        """
        head = self.model.output_head.float()
        pieces = zip(states.split(ROWS_AT_ONCE), tokens.split(ROWS_AT_ONCE), strict=True)
        found = [functional.cross_entropy(head.logits(piece.float()), ids, reduction="none") for piece, ids in pieces]
        return -torch.cat(found).double()


def select_speech(speech: Speech, rows: Sequence[int]) -> Speech:
    """Return the embeddings of some rows."""
    places = list(rows)
    summary = None if speech.summary is None else speech.summary[places]
    return Speech(embeddings=speech.embeddings[places], valid=speech.valid[places], summary=summary)


def _sums(log_p: Float[Tensor, " n"], numbers: Int[Tensor, " n"]) -> list[float]:
    """Sum the log-probabilities of the tokens of each answer; every answer has at least one."""
    sums: list[float] = torch.bincount(numbers.cpu(), weights=log_p.cpu()).tolist()
    return sums


def _num_columns(cache: Cache) -> int:
    """Return how many columns a cache keeps; 0 if it holds another state than keys and values."""
    windows = [sys.maxsize]
    for layer in cache.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            windows.append(layer.sliding_window - 1)
        elif type(layer) is not DynamicLayer:
            windows.append(0)
    return min(windows)
