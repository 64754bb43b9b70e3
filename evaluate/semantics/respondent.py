"""Ask a model and the LLM alone: to repeat a clip, to answer it, and to answer a spoken question in a given form."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import xxhash

from evaluate.asking.clip_choice import choose_clips
from evaluate.asking.finished import FinishedBatches
from evaluate.asking.processes import Item, ask_all
from evaluate.asking.shuffled_clips import wrong_clips
from evaluate.semantics.params import SemanticsParams
from evaluate.semantics.questions import read_instructions, speak
from evaluate.semantics.rules import complies
from evaluate.word_errors import Normaliser, WordErrors, count_errors, word_f1
from pipeline.audio.mono_16k import Samples
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.stage import say
from pipeline.tables import packed
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.model_config import load_config
from train.precision import answering_dtype, best_device

Row = dict[str, Any]
"""A row of the table of the stage."""
Answers = dict[str, str]
"""What the model answers to a clip (voice), and the LLM to its transcript (transcript)."""

_ABOUT = ("id", "corpus", "speaker", "language", "text", "text_ids", "num_samples", "num_speech_tokens")


class Respondent:
    """A trained model, and the test rows with a transcript."""

    def __init__(self, folder: Path, data: Path, settings: SemanticsParams, finished: FinishedBatches) -> None:
        config, device = load_config(folder), best_device()
        self.name, self.settings, self.finished = folder.name, settings, finished
        whisper = fetch(config.models.encoder)
        self.log_mel, self.normalise = LogMel(whisper, config.pad_to_30s), Normaliser(whisper)
        self.llm_folder = fetch(config.models.llm)
        self.prompter, self.shell = Prompter.load(self.llm_folder), packed.load_shell(data)
        self.packed = packed.load(data, "test")
        about = pa.table({name: self.packed.column(name) for name in _ABOUT}).to_pylist()
        self.rows = {place: row for place, row in enumerate(about) if row["text"]}
        model = saved_model.load(folder, answering_dtype(settings.precision, device)).to(device)
        self.answering = Answering(model, self.prompter, settings.max_new_tokens)

    def repeat(self, whisper: Mapping[str, tuple[str, WordErrors]]) -> list[Row]:
        """Let the model repeat clips and the LLM their transcripts; return the word errors.

        `whisper` has what Whisper hears in clips, and its word errors, by their ids; it may lack clips.
        """
        prompt = self._prompt(self.settings.repeat_prompt)
        places = self._choose(self.settings.repeat)
        speech = self.prompter.speech(prompt)
        texts = {place: self.prompter.text(prompt, self.rows[place]["text"]) for place in places}
        given = self._ask("repeat", places, speech, texts)
        table = []
        for place, system, answer in self._systems(places, given):
            row = self.rows[place]
            found = count_errors(*(self.normalise(text, row["language"]) for text in (row["text"], answer)))
            table.append(self._row(row, "repeat", system, speech, answer, found.errors, found.words))
        for place in places:
            if (row := self.rows[place])["id"] in whisper:
                written, errors = whisper[row["id"]]
                table.append(self._row(row, "repeat", "whisper", None, written, errors.errors, errors.words))
        return table

    def answers(self, cosine: Callable[[Sequence[str], Sequence[str]], list[float]] | None) -> list[Row]:
        """Let the model answer clips in the prompt of its data; compare with the LLM's answers to the transcripts."""
        places = self._choose(self.settings.answers)
        before, after = tuple(self.shell.before_speech), tuple(self.shell.after)
        speech = PromptIds(before, (), after)
        texts = {place: PromptIds(before, tuple(self.rows[place]["text_ids"]), after) for place in places}
        given = self._ask("answers", places, speech, texts)
        compared = [each for each in self._systems(places, given) if each[1] != "transcript"]
        expected = [given[place]["transcript"] for place, _, _ in compared]
        measured = {"answers": [self._f1(*each) for each in zip(compared, expected, strict=True)]}
        if cosine is not None:
            measured["answers_cosine"] = cosine([answer for _, _, answer in compared], expected)
        return [
            self._row(self.rows[place], task, system, speech, answer, value, 1)
            for task, values in measured.items()
            for (place, system, answer), value in zip(compared, values, strict=True)
        ]

    def instructions(self) -> list[Row]:
        """Let the model answer spoken questions, and the LLM the same questions as text, in a given form."""
        chosen = read_instructions()[: self.settings.instructions]
        prompts = [self._prompt(f"{each.instruction}\n\n") for each in chosen]
        samples = speak(chosen)

        def ask(numbers: list[int]) -> list[list[Answers]]:
            return [
                self._write(
                    self.prompter.speech(prompts[number]),
                    [self._clip(each) for each in samples[number]],
                    [self.prompter.text(prompts[number], question) for question in chosen[number].questions],
                )
                for number in numbers
            ]

        numbers = list(range(len(chosen)))
        found = self._ask_all("instructions", numbers, 1, ask, [len(each.questions) for each in chosen])
        table = []
        for instruction, prompt, of_questions in zip(chosen, prompts, found, strict=True):
            for number, answers in enumerate(of_questions):
                about = {"id": f"{instruction.name}/{number}", "corpus": "instructions", "speaker": instruction.name}
                for system, answer in answers.items():
                    value = complies(instruction.rule, answer, instruction.arguments)
                    asked = self.prompter.speech(prompt)
                    table.append(self._row(about, "instructions", system, asked, answer, value, 1))
        return table

    def text_prompts(self) -> dict[str, PromptIds]:
        """Return prompts with transcripts, by the ids of their rows."""
        before, after = tuple(self.shell.before_speech), tuple(self.shell.after)
        chosen = (self.rows[place] for place in self._choose(self.settings.text_prompts))
        return {row["id"]: PromptIds(before, tuple(row["text_ids"]), after) for row in chosen}

    def text_alone(self, differences: Mapping[str, float]) -> list[Row]:
        """Return the rows of the largest differences from the LLM's own logits, by the ids of the prompts' rows."""
        rows = (row for row in self.rows.values() if row["id"] in differences)
        return [self._row(row, "text_alone", "transcript", None, None, differences[row["id"]], 1) for row in rows]

    def _prompt(self, instruction: str) -> Prompt:
        return Prompt(system=self.settings.system, text=instruction, speech=instruction)

    def _choose(self, count: int) -> list[int]:
        places = list(self.rows)
        return [
            places[i] for i in choose_clips([row["speaker"] for row in self.rows.values()], count, self.settings.seed)
        ]

    def _ask(
        self, task: str, places: list[int], speech: PromptIds, texts: Mapping[int, PromptIds]
    ) -> dict[int, Answers]:
        def ask(batch: list[int]) -> list[Answers]:
            clips = [self._clip(decode(self.packed, self.packed[place], place)) for place in batch]
            return self._write(speech, clips, [texts[place] for place in batch])

        lengths = [self.rows[place]["num_speech_tokens"] for place in places]
        return dict(zip(places, self._ask_all(task, places, self.settings.batch_size, ask, lengths), strict=True))

    def _ask_all(
        self, task: str, items: list[Item], batch_size: int, ask: Callable[[list[Item]], Any], lengths: Sequence[int]
    ) -> list[Any]:
        name = f"semantics {self.name}: {task}"
        return ask_all(name, items, batch_size, ask, task, lengths=lengths, finished=self.finished)

    @torch.no_grad()
    def _write(self, speech: PromptIds, clips: Sequence[Clip], texts: Sequence[PromptIds]) -> list[Answers]:
        written = self.answering.write([speech] * len(clips), clips), self.answering.write(texts, None)
        return [{"voice": voice, "transcript": text} for voice, text in zip(*written, strict=True)]

    def _systems(self, places: Sequence[int], given: Mapping[int, Answers]) -> list[tuple[int, str, str]]:
        """Return the place of a row, the system, and the answer; the wrong clip of a row is another chosen clip."""
        rows = [self.rows[place] for place in places]
        if not rows:
            return []
        wrong = wrong_clips(rows, ("speaker", "text"), self.settings.seed, similar="num_samples")
        if lacking := len(rows) - len(wrong):
            say(f"semantics: found no wrong clip for {lacking:,} of {len(rows):,} clips, expected another speaker with "
                "other words; these clips are not in this control")  # fmt: skip
        own = [(place, system, answer) for place in places for system, answer in given[place].items()]
        return own + [(places[row], "shuffled", given[places[clip]]["voice"]) for row, clip in wrong]

    def _f1(self, compared: tuple[int, str, str], expected: str) -> float:
        place, _, answer = compared
        language = self.rows[place]["language"]
        return word_f1(self.normalise(answer, language), self.normalise(expected, language))

    def _clip(self, samples: Samples) -> Clip:
        return Clip(self.log_mel(samples), num_mel_frames(len(samples)))

    def _row(
        self,
        about: Mapping[str, Any],
        task: str,
        system: str,
        prompt: PromptIds | None,
        answer: str | None,
        value: float,
        weight: float,
    ) -> Row:
        around = "" if prompt is None else xxhash.xxh3_64_hexdigest(repr((prompt.before, prompt.after)).encode())
        return {key: about[key] for key in ("id", "corpus", "speaker")} | {
            "model": self.name,
            "task": task,
            "system": system,
            "prompt": around or None,
            "answer": answer,
            "value": float(value),
            "weight": float(weight),
        }
