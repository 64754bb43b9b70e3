"""Stage 2 on held-out speakers: the emotions that the model recognises, and its answers.

The emotion is read in three ways: from the emotion head, as the likeliest label, and from a written answer. Each way is
tried with the row's own clip and with another speaker's clip of another emotion. The two ways that ask the LLM are also
tried with only the transcript, and with Whisper's transcript if the stage transcribe has written it. This shows how
much of the emotion the words reveal. The likeliest label after silence shows what the length of the clip reveals.

The likeliest label is also read under several prompts (recognition_prompts.py), on test and dev rows.

A prompt is the same for all clips. So each clip is encoded and asked about once: what the model answers to a wrong
clip is what it answers to this clip in its own row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from evaluate.asking.finished import FinishedBatches
from evaluate.asking.processes import Answer, Item, ask_all
from evaluate.asking.shuffled_clips import Pairs, own_clips, tell_missing, wrong_clips
from evaluate.emotion_named import label
from evaluate.predictions import EXAMPLES_SCHEMA, RECOGNITION_SCHEMA
from evaluate.respond.params import RespondParams
from evaluate.respond.recognition_prompts import FIRST, prompts_table, speech_prompts
from evaluate.respond.silence import silent_clip
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.prompts import Prompter, PromptIds, PromptsParams
from pipeline.stage import UserError
from pipeline.tables import packed, parquet
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.model import Speech
from train.model_config import load_config
from train.precision import answering_dtype, best_device

Row = dict[str, Any]
"""What is known of a packed row: _ABOUT."""
Answers = dict[str, Any]
"""What the model answers to a clip or a transcript, by the end of the names of the systems."""

_ABOUT = ("id", "corpus", "speaker", "emotion", "text")


def check_finite(where: str, scores: Sequence[Sequence[float]], ids: Sequence[str]) -> None:
    """Raise UserError with the ids of the rows that have a score that is infinite or not a number."""
    if wrong := [i for i, row in zip(ids, scores, strict=True) if not np.isfinite(row).all()]:
        raise UserError(f"{where}: found scores that are no finite numbers, expected finite ones: {', '.join(wrong)}")


class Respondent:
    """A stage-2 model and the rows that it answers."""

    def __init__(
        self,
        folder: Path,
        rows: packed.Rows,
        dev: packed.Rows,
        whisper_texts: Mapping[str, str] | None,
        prompts: PromptsParams,
        settings: RespondParams,
        finished: FinishedBatches,
    ) -> None:
        """Load the model; of the rows `dev`, only emotions are asked for; `whisper_texts` are transcripts by id."""
        config = load_config(folder)
        self.rows, self.dev_rows = (_about(each) for each in (rows, dev))
        self.packed, self.packed_dev, self.whisper_texts = rows, dev, whisper_texts
        self.emotions = config.emotions
        self.prompts = prompts
        self.settings = settings
        self.finished = finished
        self.log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
        prompter = Prompter.load(fetch(config.models.llm))
        self.prompter = prompter
        device = best_device()
        model = saved_model.load(folder, answering_dtype(settings.precision, device)).to(device)
        self.answering = Answering(model, prompter, settings.max_new_tokens)
        self.speech_prompts = speech_prompts(prompter, prompts.recognition, self.emotions, settings)

    @torch.no_grad()
    def answer(self) -> dict[str, pa.Table]:
        """Return the tables of the stage by name.

        recognition has every system on every test row, examples some test rows, dev_head the emotion head on the dev
        rows, on which score fits its temperature, and prompts the labels under several prompts, on dev and test rows.
        """
        own, wrong = own_clips(self.rows), wrong_clips(self.rows, ("speaker", "emotion"), self.settings.seed)
        tell_missing("emotion", self.rows, wrong, "another speaker with another emotion in the test split")
        of_clips, of_dev = self._ask_about_clips(), self._ask_about_dev()
        of_silence, by_text = self._ask_about_silence(), {"transcript": [row["text"] for row in self.rows]}
        if self.whisper_texts is not None:
            by_text["heard"] = [self.whisper_texts[row["id"]] for row in self.rows]
        of_texts = self._ask_about_texts(sorted({text for texts in by_text.values() for text in texts}))
        recognition = pa.concat_tables(
            [
                *self._by_voice("", own, of_clips),
                *self._by_voice("shuffled_", wrong, of_clips),
                self._scored("silence_logprob", self.rows, of_silence),
                *chain.from_iterable(
                    self._by_text(name, [of_texts[text] for text in texts]) for name, texts in by_text.items()
                ),
            ]
        )
        return {
            "recognition": recognition,
            "examples": self._examples(of_clips),
            "dev_head": self._scored("head", self.dev_rows, [answer["head"] for answer in of_dev]),
            "prompts": pa.concat_tables(
                prompts_table(split, rows, [answer["prompts"] for answer in answers])
                for split, rows, answers in (("test", self.rows, of_clips), ("dev", self.dev_rows, of_dev))
            ),
        }

    def _ask_about_clips(self) -> list[Answers]:
        asked = self.speech_prompts[FIRST]

        def ask(batch: list[int]) -> list[Answers]:
            speech = self.answering.encode_speech([self._clip(self.packed, number) for number in batch])
            scores, written = self.answering.score_and_write([asked] * len(batch), speech, self.emotions)
            check_finite("respond: logprob", scores, [self.rows[number]["id"] for number in batch])
            answers = self._ask_about_speech(self.rows, batch, speech, {FIRST: scores})
            return [more | {"prompted": answer} for more, answer in zip(answers, written, strict=True)]

        lengths = self.packed.column("num_speech_tokens").to_pylist()
        return self._ask("clips", range(len(self.rows)), ask, lengths)

    def _ask_about_dev(self) -> list[Answers]:
        def ask(batch: list[int]) -> list[Answers]:
            speech = self.answering.encode_speech([self._clip(self.packed_dev, number) for number in batch])
            return self._ask_about_speech(self.dev_rows, batch, speech, {})

        lengths = self.packed_dev.column("num_speech_tokens").to_pylist()
        return self._ask("dev clips", range(len(self.dev_rows)), ask, lengths)

    def _ask_about_speech(
        self, rows: Sequence[Row], batch: Sequence[int], speech: Speech, known: Mapping[str, list[list[float]]]
    ) -> list[Answers]:
        """Return what the emotion head hears, and the scores of the labels under all prompts; some are `known`."""
        ids = [rows[number]["id"] for number in batch]
        heads, by_prompt = self.answering.emotion_scores(speech), dict(known)
        check_finite("respond: head", heads, ids)
        for name, prompt in self.speech_prompts.items():
            if name not in known:
                by_prompt[name] = self.answering.label_scores([prompt] * len(batch), speech, self.emotions)
                check_finite(f"respond: prompt {name}", by_prompt[name], ids)
        return [
            {"head": head, "prompts": {name: scores[place] for name, scores in by_prompt.items()}}
            for place, head in enumerate(heads)
        ]

    def _ask_about_silence(self) -> list[list[float]]:
        """Return the scores of the labels after silence as long as each row's clip; each length is asked about once."""
        of_rows = self.packed.column("num_speech_tokens").to_pylist()
        lengths = sorted(set(of_rows))

        def ask(batch: list[int]) -> list[list[float]]:
            clips = [silent_clip(self.log_mel, length) for length in batch]
            scores = self.answering.label_scores([self.speech_prompts[FIRST]] * len(batch), clips, self.emotions)
            check_finite("respond: silence_logprob", scores, [f"{length} speech embeddings" for length in batch])
            return scores

        found = dict(zip(lengths, self._ask("silence", lengths, ask, lengths), strict=True))
        return [found[length] for length in of_rows]

    def _ask_about_texts(self, texts: Sequence[str]) -> dict[str, Answers]:
        """Ask about distinct transcripts, because corpora of acted speech have few distinct sentences."""
        prompts = [self.prompter.text(self.prompts.recognition, text, options=self.emotions) for text in texts]

        def ask(batch: list[PromptIds]) -> list[Answers]:
            scores, written = self.answering.score_and_write(batch, None, self.emotions)
            check_finite("respond: transcripts", scores, [repr(self.prompter.decode(p.content)) for p in batch])
            return [{"logprob": row, "prompted": answer} for row, answer in zip(scores, written, strict=True)]

        found = self._ask("transcripts", prompts, ask, [len(prompt.content) for prompt in prompts])
        return dict(zip(texts, found, strict=True))

    def _examples(self, of_clips: Sequence[Answers]) -> pa.Table:
        """Return the examples table, with full answers; rows are taken from the emotions in rotation."""
        numbers, speech = self._spread(self.settings.examples), self.prompter.speech(self.prompts.emotion)

        def ask(batch: list[int]) -> list[Answers]:
            clips = [self._clip(self.packed, number) for number in batch]
            texts = [self._speech_for(self.rows[number]["text"]) for number in batch]
            written = (self.answering.write([speech] * len(batch), clips), self.answering.write(texts, None))
            return [{"voice": to_clip, "transcript": to_text} for to_clip, to_text in zip(*written, strict=True)]

        lengths = self.packed.column("num_speech_tokens").to_pylist()
        answers = self._ask("examples", numbers, ask, [lengths[number] for number in numbers])
        packed_rows = (self.packed[number] for number in numbers)
        return parquet.from_rows(
            (
                self.rows[number]
                | {
                    "audio": packed_row["audio"]["bytes"],
                    "predicted": self.emotions[int(np.argmax(of_clips[number]["head"]))],
                    "voice_answer": answer["voice"],
                    "transcript_answer": answer["transcript"],
                    "target": self.prompter.decode(packed_row["response_ids"]),
                }
                for number, packed_row, answer in zip(numbers, packed_rows, answers, strict=True)
            ),
            EXAMPLES_SCHEMA,
        )

    def _ask(
        self, task: str, items: Sequence[Item], ask: Callable[[list[Item]], Sequence[Answer]], lengths: Sequence[int]
    ) -> list[Answer]:
        return ask_all(
            f"respond emotion: {task}",
            items,
            self.settings.batch_size,
            ask,
            task,
            lengths=lengths,
            finished=self.finished,
        )

    def _by_voice(self, prefix: str, pairs: Pairs, of_clips: Sequence[Answers]) -> Iterator[pa.Table]:
        rows, given = [self.rows[row] for row, _ in pairs], [of_clips[clip] for _, clip in pairs]
        yield self._scored(f"{prefix}head", rows, [answer["head"] for answer in given])
        yield self._scored(f"{prefix}logprob", rows, [answer["prompts"][FIRST] for answer in given])
        yield self._written(f"{prefix}prompted", rows, [answer["prompted"] for answer in given])

    def _by_text(self, name: str, answers: Sequence[Answers]) -> Iterator[pa.Table]:
        yield self._scored(f"{name}_logprob", self.rows, [answer["logprob"] for answer in answers])
        yield self._written(f"{name}_prompted", self.rows, [answer["prompted"] for answer in answers])

    def _scored(self, system: str, rows: Sequence[Row], scores: Sequence[Sequence[float]]) -> pa.Table:
        predicted = [self.emotions[int(np.argmax(row))] for row in scores]
        return _table(system, rows, [None] * len(scores), predicted, scores)

    def _written(self, system: str, rows: Sequence[Row], answers: Sequence[str]) -> pa.Table:
        return _table(system, rows, answers, [label(a, self.emotions) for a in answers], [None] * len(answers))

    def _clip(self, rows: packed.Rows, number: int) -> Clip:
        samples = decode(rows, rows[number], number)
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


def _about(rows: packed.Rows) -> list[Row]:
    return pa.table({name: rows.column(name) for name in _ABOUT}).to_pylist()  # type: ignore[no-any-return]


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
