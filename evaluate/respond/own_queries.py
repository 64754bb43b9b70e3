"""Ask a trained model for the log-probabilities of told continuations, after clips, silence or transcripts."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from evaluate.asking.finished import FinishedBatches
from evaluate.asking.processes import ask_all
from evaluate.respond.params import RespondParams
from evaluate.respond.silence import silent_clip
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.tables import packed
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.emotion_prompt import EmotionPrompt, before_speech
from train.inference import Answering, Clip, select_speech
from train.model import Speech
from train.model_config import load_config
from train.precision import answering_dtype, best_device
from train.side_by_side import Answer


class Query(NamedTuple):
    """What a model is given (a clip, silence or a text), and the transcript whose continuations are scored."""

    text: str
    """The transcript."""
    clip: int | None = None
    """Number of the row whose clip is given."""
    silence: int | None = None
    """Number of speech embeddings of silence."""
    given: str | None = None
    """The text that is given in place of speech."""
    told: str | None = None
    """The emotion that the prompt names; None for the prompt for speech, which names none."""
    mixture: tuple[float, ...] | None = None
    """The weights of the emotions in the emotion prompt that stands before the clip; None for no such prompt."""

    @property
    def sound(self) -> tuple[int | None, int | None]:
        """What is encoded; two queries with the same sound share its speech embeddings."""
        return self.clip, self.silence


Answered = tuple[list[float], str | None]
"""The log-probabilities of the continuations of a query's text, in nats, and the written answer, if it was asked for.
"""


@dataclass(frozen=True, slots=True)
class Found:
    """The answers of a model to queries."""

    answers: dict[Query, Answered]
    heads: dict[int, list[float]]
    """The emotion head's log-probability of each class, for each clip that was given."""


class Asker:
    """Asks the model of a folder; it is on the device as long as this object lives."""

    def __init__(
        self,
        folder: Path,
        rows: packed.Rows,
        answers: Mapping[str, Sequence[Answer]],
        prompt: Prompt,
        settings: RespondParams,
        finished: FinishedBatches,
        emotion_prompt: EmotionPrompt | None = None,
    ) -> None:
        """Load the model; `rows` have the clips, and `answers` are the continuations by transcript.

        Queries with a mixture need an emotion prompt.
        """
        config = load_config(folder)
        self.name = folder.name
        self.rows, self.answers, self.prompt, self.finished = rows, answers, prompt, finished
        self.batch_size = settings.batch_size
        self.lengths: list[int] = rows.column("num_speech_tokens").to_pylist()
        self.log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
        self.prompter = Prompter.load(fetch(config.models.llm))
        self.model = saved_model.load(folder, answering_dtype(settings.precision, best_device())).to(best_device())
        self.emotion_prompt = None if emotion_prompt is None else emotion_prompt.to(best_device())
        longest = max((self._num_tokens(answer) for of in answers.values() for answer in of), default=1)
        self.answering = Answering(self.model, self.prompter, max_new_tokens=longest)

    def ask(self, queries: Iterable[Query], written: Collection[Query] = ()) -> Found:
        """Answer the queries, each distinct one once; the answers to those in `written` are written out, too.

        Each clip is encoded once, the longest ones first.
        """
        by_sound: dict[tuple[int | None, int | None], list[Query]] = {}
        for query in dict.fromkeys(queries):
            by_sound.setdefault(query.sound, []).append(query)
        texts = by_sound.pop((None, None), [])
        spoken = list(by_sound.values())
        by_speech = ask_all(
            f"respond emotion: own answers to clips, {self.name}",
            spoken,
            self.batch_size,
            lambda batch: self._by_speech(batch, written),
            "clips",
            lengths=[self._num_embeddings(of_sound[0]) for of_sound in spoken],
            finished=self.finished,
        )
        by_text = ask_all(
            f"respond emotion: own answers to transcripts, {self.name}",
            texts,
            self.batch_size,
            lambda batch: self._by_text(batch, written),
            "transcripts",
            lengths=[len(query.given or "") for query in texts],
            finished=self.finished,
        )
        found = dict(zip(texts, by_text, strict=True))
        heads = {}
        for of_sound, (head, of_queries) in zip(spoken, by_speech, strict=True):
            found |= zip(of_sound, of_queries, strict=True)
            if (clip := of_sound[0].clip) is not None:
                heads[clip] = head
        return Found(found, heads)

    @torch.no_grad()
    def _by_speech(
        self, batch: list[list[Query]], written: Collection[Query]
    ) -> list[tuple[list[float], list[Answered]]]:
        """Return for each sound what the emotion head hears, and the answers to its queries."""
        speech = self.answering.encode_speech([self._clip(of_sound[0]) for of_sound in batch])
        heads = self.answering.emotion_scores(speech)
        asked = [(place, query) for place, of_sound in enumerate(batch) for query in of_sound]
        # prompts of the same wording share a longer start; what stands before a clip comes last, because it is longer
        asked.sort(key=lambda each: (each[1].mixture is not None, each[1].told or ""))
        found: dict[Query, Answered] = {}
        for start in range(0, len(asked), self.batch_size):
            places, queries = zip(*asked[start : start + self.batch_size], strict=True)
            prompts = [self._prompt(query) for query in queries]
            given = self._prompted(select_speech(speech, places), queries)
            found |= zip(queries, self._answers(prompts, given, queries, written), strict=True)
        return [(head, [found[query] for query in of_sound]) for head, of_sound in zip(heads, batch, strict=True)]

    @torch.no_grad()
    def _by_text(self, batch: list[Query], written: Collection[Query]) -> list[Answered]:
        """Return the answers to queries with a text in place of the speech."""
        shells = [self._prompt(query) for query in batch]
        prompts = [
            PromptIds(shell.before, self.prompter.content_ids(query.given or ""), shell.after)
            for shell, query in zip(shells, batch, strict=True)
        ]
        return self._answers(prompts, None, batch, written)

    def _prompted(self, speech: Speech, queries: Sequence[Query]) -> Speech:
        """Put the emotion prompt before the speech of each query that has a mixture."""
        if all(query.mixture is None for query in queries):
            return speech
        assert self.emotion_prompt is not None
        mixed = [
            None if query.mixture is None else self.emotion_prompt.mixed(torch.tensor([query.mixture]))[0]
            for query in queries
        ]
        return before_speech(mixed, speech)

    def _answers(
        self,
        prompts: Sequence[PromptIds],
        speech: Speech | None,
        queries: Sequence[Query],
        written: Collection[Query],
    ) -> list[Answered]:
        rows = [row for row, query in enumerate(queries) if query in written]
        told = [self.answers[query.text] for query in queries]
        scores, texts = self.answering.score_and_write_some(prompts, speech, told, rows)
        by_row = dict(zip(rows, texts, strict=True))
        return [(of_query, by_row.get(row)) for row, of_query in enumerate(scores)]

    def _num_tokens(self, answer: Answer) -> int:
        """Return the number of tokens of an answer without its end token."""
        return len(answer) - (answer[-1] in self.prompter.end_ids)

    def _prompt(self, query: Query) -> PromptIds:
        if query.told is None:
            return self.prompter.speech(self.prompt)
        return self.prompter.around(self.prompt, (), emotion=query.told)

    def _clip(self, query: Query) -> Clip:
        if query.silence is not None:
            return silent_clip(self.log_mel, query.silence)
        assert query.clip is not None
        samples = decode(self.rows, self.rows[query.clip], query.clip)
        return Clip(self.log_mel(samples), num_mel_frames(len(samples)))

    def _num_embeddings(self, query: Query) -> int:
        if query.clip is not None:
            return self.lengths[query.clip]
        assert query.silence is not None
        return query.silence
