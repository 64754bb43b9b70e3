"""Stage 2 on held-out speakers: the emotions that the model recognises, and its answers.

The emotion is read in three ways: from the emotion head, as the likeliest label, and from a written answer. Each way is
tried with the row's own clip and with another speaker's clip of another emotion. The two ways that ask the LLM are also
tried with only the transcript. This shows how much of the emotion the words reveal.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from evaluate.predictions import EXAMPLES_SCHEMA, RECOGNITION_SCHEMA
from evaluate.respond.emotion_named import label
from evaluate.respond.params import RespondParams
from evaluate.respond.processes import ask_all
from evaluate.respond.shuffled_clips import Pairs, own_clips, tell_missing, wrong_clips
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.prompts import Prompter, PromptIds, PromptsParams
from pipeline.stage import UserError
from pipeline.tables import packed, parquet
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.model_config import load_config
from train.precision import answering_dtype, best_device

Row = dict[str, Any]
"""What is known of a packed row: _ABOUT."""

_ABOUT = ("id", "corpus", "speaker", "emotion", "text")


def check_finite(where: str, scores: Sequence[Sequence[float]], ids: Sequence[str]) -> None:
    """Raise UserError with the ids of the rows that have a score that is infinite or not a number."""
    if wrong := [i for i, row in zip(ids, scores, strict=True) if not np.isfinite(row).all()]:
        raise UserError(f"{where}: found scores that are no finite numbers, expected finite ones: {', '.join(wrong)}")


class Respondent:
    """A stage-2 model and the test rows that it answers."""

    def __init__(self, folder: Path, rows: packed.Rows, prompts: PromptsParams, settings: RespondParams) -> None:
        config = load_config(folder)
        self.rows: list[Row] = pa.table({name: rows.column(name) for name in _ABOUT}).to_pylist()
        self.packed = rows
        self.emotions = config.emotions
        self.prompts = prompts
        self.settings = settings
        self.log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
        prompter = Prompter.load(fetch(config.models.llm))
        self.prompter = prompter
        device = best_device()
        model = saved_model.load(folder, answering_dtype(settings.precision, device)).to(device)
        self.answering = Answering(model, prompter, settings.max_new_tokens)

    @torch.no_grad()
    def recognise(self) -> pa.Table:
        """Return the recognition table: every system on every row."""
        own, wrong = own_clips(self.rows), wrong_clips(self.rows, ("speaker", "emotion"), self.settings.seed)
        tell_missing("emotion", self.rows, wrong, "another speaker with another emotion in the test split")
        return pa.concat_tables([*self._by_voice("", own), *self._by_voice("shuffled_", wrong), *self._by_transcript()])

    @torch.no_grad()
    def examples(self) -> pa.Table:
        """Return the examples table, with full answers; rows are taken from the emotions in rotation."""
        numbers = self._spread(self.settings.examples)
        clips = [self._clip(i) for i in numbers]
        prompt = self.prompts.emotion
        asked = [self._speech_for(self.rows[i]["text"]) for i in numbers]
        voice_answers = self.answering.write([self.prompter.speech(prompt)] * len(numbers), clips)
        transcript_answers = self.answering.write(asked, None)
        scores = self.answering.emotion_scores(clips)
        check_finite("respond: head", scores, [self.rows[i]["id"] for i in numbers])
        return parquet.from_rows(
            (
                self.rows[i]
                | {
                    "audio": packed_row["audio"]["bytes"],
                    "predicted": self.emotions[int(np.argmax(scores[n]))],
                    "voice_answer": voice_answers[n],
                    "transcript_answer": transcript_answers[n],
                    "target": self.prompter.decode(packed_row["response_ids"]),
                }
                for n, (i, packed_row) in enumerate((i, self.packed[i]) for i in numbers)
            ),
            EXAMPLES_SCHEMA,
        )

    def _by_voice(self, prefix: str, pairs: Pairs) -> Iterator[pa.Table]:
        prompt = self.prompter.speech(self.prompts.recognition, options=self.emotions)
        answering = self.answering
        ask = partial(self._in_batches, pairs)
        rows = [self.rows[row] for row, _ in pairs]
        heads = ask(f"{prefix}head", answering.emotion_scores)
        scores = ask(f"{prefix}logprob", lambda b: answering.label_scores([prompt] * len(b), b, self.emotions))
        answers = ask(f"{prefix}prompted", lambda b: answering.write([prompt] * len(b), b))
        yield self._scored(f"{prefix}head", rows, heads)
        yield self._scored(f"{prefix}logprob", rows, scores)
        yield self._written(f"{prefix}prompted", rows, answers)

    def _by_transcript(self) -> Iterator[pa.Table]:
        """Ask about each distinct transcript only once, because corpora of acted speech have few distinct sentences."""
        texts = sorted({row["text"] for row in self.rows})
        prompts = [self.prompter.text(self.prompts.recognition, text, options=self.emotions) for text in texts]

        def ask(batch: list[PromptIds]) -> list[tuple[list[float], str]]:
            scores = self.answering.label_scores(batch, None, self.emotions)
            return list(zip(scores, self.answering.write(batch, None), strict=True))

        found = ask_all("respond emotion: transcripts", prompts, self.settings.batch_size, ask, "transcripts")
        scores = {text: scores for text, (scores, _) in zip(texts, found, strict=True)}
        answers = {text: answer for text, (_, answer) in zip(texts, found, strict=True)}
        yield self._scored("transcript_logprob", self.rows, [scores[row["text"]] for row in self.rows])
        yield self._written("transcript_prompted", self.rows, [answers[row["text"]] for row in self.rows])

    def _in_batches(self, pairs: Pairs, system: str, ask: "Callable[[list[Clip]], list[Any]]") -> list[Any]:
        def of_clips(batch: Pairs) -> list[Any]:
            given = ask([self._clip(clip) for _, clip in batch])
            if isinstance(given[0], list):
                check_finite(f"respond: {system}", given, [self.rows[row]["id"] for row, _ in batch])
            return given

        return ask_all(f"respond emotion: {system}", pairs, self.settings.batch_size, of_clips, "clips")

    def _scored(self, system: str, rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> pa.Table:
        check_finite(f"respond: {system}", scores, [row["id"] for row in rows])
        predicted = [self.emotions[int(np.argmax(row))] for row in scores]
        return _table(system, rows, [None] * len(scores), predicted, scores)

    def _written(self, system: str, rows: Sequence[Row], answers: Sequence[str]) -> pa.Table:
        return _table(system, rows, answers, [label(a, self.emotions) for a in answers], [None] * len(answers))

    def _clip(self, number: int) -> Clip:
        samples = decode(self.packed, self.packed[number], number)
        return Clip(self.log_mel(samples), num_mel_frames(len(samples)))

    def _speech_for(self, text: str) -> PromptIds:
        """Return the prompt for speech, with the transcript in place of the speech."""
        speech = self.prompter.speech(self.prompts.emotion)
        return PromptIds(speech.before, self.prompter.content_ids(text), speech.after)

    def _spread(self, count: int) -> list[int]:
        """Choose rows at random, one of each emotion in turn."""
        generator = np.random.Generator(np.random.PCG64(self.settings.seed))
        by_emotion: dict[str, list[int]] = {emotion: [] for emotion in self.emotions}
        for number in generator.permutation(len(self.rows)).tolist():
            by_emotion[self.rows[number]["emotion"]].append(number)
        turns = [number for turn in _turns(list(by_emotion.values())) for number in turn]
        return turns[:count]


def _table(
    system: str, rows: Sequence[Row], answers: Sequence[Any], predicted: Sequence[Any], scores: Sequence[Any]
) -> pa.Table:
    table_rows = (
        {key: row[key] for key in ("id", "corpus", "speaker", "emotion")}
        | {"system": system, "answer": answer, "predicted": emotion, "scores": score}
        for row, answer, emotion, score in zip(rows, answers, predicted, scores, strict=True)
    )
    return parquet.from_rows(table_rows, RECOGNITION_SCHEMA)


def _turns(queues: Sequence[list[int]]) -> Iterator[list[int]]:
    """Yield the first of each queue, then the second of each, and so on."""
    for place in range(max(len(queue) for queue in queues)):
        yield [queue[place] for queue in queues if place < len(queue)]
