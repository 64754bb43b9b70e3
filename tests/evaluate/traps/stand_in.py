"""Puts a made-up model behind the interface through which the stage respond asks a real one."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluate.respond import divergence, own_queries, recognition
from pipeline.audio.mono_16k import PCM16_STEPS, Samples
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.prompts import Prompter, PromptIds
from tests.builders import CLASSES
from tests.evaluate.traps.corpus import NUMBERS, REPLIES, TEXT_IDS, WORDS
from tests.evaluate.traps.models import Given, Good, Stage1
from train import saved_model
from train.inference import Clip
from train.model import Speech
from train.model.inputs import Sequences, pad_features
from train.model.output_head import OutputHead
from train.side_by_side import Answer

NUM_CODES = 3  # speaker, words, emotion


def put_in_place(monkeypatch: pytest.MonkeyPatch, model: Good) -> None:
    """Let the stage respond load `model` as that of stage 2, and for the KL, and one that hears no emotion as stage 1.

    In place of the log-mel, the model gets the codes of a clip.
    """

    def load(folder: Path, *_: Any) -> "StandIn":
        return StandIn(Stage1(model) if folder.name == "stage1" else model)

    monkeypatch.setattr(saved_model, "load", load)
    monkeypatch.setattr(saved_model, "build", lambda *_: StandIn(model))
    monkeypatch.setattr(saved_model, "load_trained", lambda stand_in, _: stand_in.adapter.train_it())
    for module in (recognition, own_queries, divergence):
        monkeypatch.setattr(module, "LogMel", lambda *_: read_codes)
    for asking in (recognition, own_queries):
        monkeypatch.setattr(asking, "Answering", StandInAnswering)


def read_codes(samples: Samples) -> Tensor:
    """Return the codes at the start of a clip at each of its mel frames, in place of its log-mel."""
    codes = np.rint(samples[:NUM_CODES] * PCM16_STEPS)
    return torch.tensor(codes, dtype=torch.float32)[:, None].expand(-1, num_mel_frames(len(samples)))


class Adapter(nn.Module):
    """Makes speech embeddings of the codes of a clip and its number of embeddings; before training, they are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 0.0

    def train_it(self) -> None:
        """Stand for the trained weights."""
        self.gain = 1.0

    def forward(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        lengths = num_speech_tokens(num_frames)
        codes = self.gain * torch.cat([features[:, :, 0], lengths[:, None]], dim=1)
        return codes[:, None].expand(-1, int(lengths.max()), -1), lengths


class StandIn(nn.Module):
    """Stands for a SpeechLLM whose speech embeddings are the codes of a clip."""

    def __init__(self, model: Good) -> None:
        super().__init__()
        self.model = model
        self.adapter, self.encoder = Adapter(), nn.Identity()
        self.llm = self.token_embeddings = nn.Embedding(1, 1)
        self.output_head = OutputHead(weight=5 * torch.eye(len(WORDS) + 1))

    def encode(self, features: Tensor, num_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Stand for the encoder."""
        return features, num_frames

    def head(self, pooled: Tensor) -> Tensor:
        """Return the logits of the emotion head, [b, k]."""
        return torch.tensor(np.array([self.model.head(given) for given in read_embeddings(pooled)]))

    def response_states(self, asked: Sequences, speech: Speech | None) -> Tensor:
        """Return a state for each token of the continuations: that of the words that were read or heard, [n, d]."""
        read = (asked.token_ids - TEXT_IDS).clamp(min=0).amax(1).tolist()
        texts = read if speech is None else [self.model.text(given) for given in read_embeddings(speech.pooled())]
        return torch.eye(len(WORDS) + 1)[texts].repeat_interleave(asked.predicts.sum(1), dim=0)


def read_embeddings(pooled: Tensor) -> list[Given]:
    """Return what can be heard in clips, from the means of their speech embeddings, [b, d]."""
    return [Given(*codes) for codes in pooled.round().int().tolist()]


class StandInAnswering:
    """Stands for train.inference.Answering."""

    def __init__(self, stand_in: StandIn, prompter: Prompter, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self.stand_in, self.model, self.prompter = stand_in, stand_in.model, prompter
        stand_in.adapter.train_it()
        self.decode = cache(prompter.decode)

    def encode_speech(self, clips: Sequence[Clip]) -> Speech:
        """Return the codes of clips as their speech embeddings."""
        num_frames = torch.tensor([clip.num_frames for clip in clips])
        codes, lengths = self.stand_in.adapter(pad_features([clip.features for clip in clips]), num_frames)
        return Speech.of([of[:length] for of, length in zip(codes, lengths.tolist(), strict=True)])

    def emotion_scores(self, speech: Speech) -> list[list[float]]:
        """Return the emotion head's log-probabilities."""
        scores: list[list[float]] = self.stand_in.head(speech.pooled()).log_softmax(-1).tolist()
        return scores

    def write(self, prompts: Sequence[PromptIds], given: Sequence[Clip] | Speech | None) -> list[str]:
        """Return the written answers."""
        return [self.model.written(each) for each in self._given(prompts, given)]

    def label_scores(
        self, prompts: Sequence[PromptIds], given: Speech | None, labels: Sequence[str]
    ) -> list[list[float]]:
        """Return the log-probabilities of the labels."""
        assert list(labels) == CLASSES
        logits = np.array([self.model.emotions(each) for each in self._given(prompts, given)])
        scores: list[list[float]] = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).tolist()
        return scores

    def score_and_write(
        self, prompts: Sequence[PromptIds], given: Speech | None, labels: Sequence[str]
    ) -> tuple[list[list[float]], list[str]]:
        """Return what both methods return."""
        return self.label_scores(prompts, given, labels), self.write(prompts, given)

    def answer_scores(
        self, prompts: Sequence[PromptIds], given: Speech | None, answers: Sequence[Sequence[Answer]]
    ) -> list[list[float]]:
        """Return the log-probabilities of continuations, which are in the order of the classes."""
        return self.score_and_write_some(prompts, given, answers, ())[0]

    def score_and_write_some(
        self,
        prompts: Sequence[PromptIds],
        given: Speech | None,
        answers: Sequence[Sequence[Answer]],
        written_rows: Sequence[int],
    ) -> tuple[list[list[float]], list[str]]:
        """Return what `answer_scores` returns, and the written answers to some of the prompts."""
        scores, heard = [], self._given(prompts, given)
        for each, of_prompt in zip(heard, answers, strict=True):
            said = [self.decode(answer).partition(": ") for answer in of_prompt]
            assert [reply for reply, _, _ in said] == list(REPLIES)
            lengths = np.array([float(len(answer)) for answer in of_prompt])
            scores.append(self.model.answers(each, NUMBERS[said[0][2]], lengths).tolist())
        return scores, [self.model.written(heard[row]) for row in written_rows]

    def _given(self, prompts: Sequence[PromptIds], given: Sequence[Clip] | Speech | None) -> list[Given]:
        if given is None:
            return [Given(text=NUMBERS[self.decode(prompt.content)]) for prompt in prompts]
        speech = given if isinstance(given, Speech) else self.encode_speech(given)
        return [
            replace(each, told=self._told(prompt.before))
            for each, prompt in zip(read_embeddings(speech.pooled()), prompts, strict=True)
        ]

    def _told(self, before: tuple[int, ...]) -> int:
        match = re.search("Answer the ([a-z]+) speaker", self.decode(before))
        return CLASSES.index(match[1]) + 1 if match else 0
