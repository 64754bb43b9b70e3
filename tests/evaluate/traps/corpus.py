"""A made-up corpus whose clips are codes: the first samples are the numbers of the speaker, the words and the emotion.

So a stand-in for a model hears exactly what its author lets it hear. Three corpora:

    acted  every speaker says every sentence in every emotion; training has seen half of the sentences
    felt   every sentence is said once; the words of every other one tell its emotion
    read   speech for stage 1

The length of a clip tells its emotion, so that silence of the same length is a control that can fail.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import HOP_SAMPLES, NUM_HALVINGS
from pipeline.prompts import Prompter
from pipeline.tables import packed
from pipeline.tables.continuations import STOP, TOLD_SCHEMA
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import CLASSES, change_params, model_config, utterance, write_table
from tests.conftest import ROOT

NUM_SPEAKERS = 12  # of each corpus in the test split
NUM_SENTENCES, NUM_FELT, NUM_READ = 6, 8, 4  # sentences of acted; clips of a speaker of felt and of read
SHORTEST = 4  # speech embeddings of a neutral clip; each further class has one more
TEXT_IDS = 1000  # the token id of text 0: a transcript of stage 1 is one token
REPLIES = ("noted", "oh dear oh dear", "my apologies", "lovely")
"""What the LLM answers to each emotion; none of these names it."""
PROMPTS = {
    kind: {"system": "S", "text": text, "speech": "Listen: "}
    for kind, text in (
        ("semantic", "Read: "), ("emotion", "Answer the {emotion} speaker: "), ("recognition", "Which emotion? "),
    )
}  # fmt: skip
CHANGES = {
    "emotions": CLASSES,
    "prompts": PROMPTS,
    "processes": 1,
    "respond.examples": 4,
    "respond.recognition_wordings": [],
    "respond.option_orders": 1,
}
"""What differs from the demo's parameters."""


@dataclass(frozen=True, slots=True)
class Words:
    """A sentence, and the class that it tells, if it tells one."""

    text: str
    tells: int | None = None


ACTED = [Words(f"sentence {i}") for i in range(NUM_SENTENCES)]
FELT = [
    Words(f"story {i}", tells=i % len(CLASSES) if i // len(CLASSES) % 2 else None)
    for i in range(NUM_SPEAKERS * NUM_FELT)
]
READ = [Words(f"page {i}") for i in range(NUM_SPEAKERS * NUM_READ)]
WORDS = [*ACTED, *FELT, *READ]
NUMBERS = {words.text: number for number, words in enumerate(WORDS, start=1)}
"""text -> its number, from 1; 0 is silence."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Folders:
    """What the stages need, in one folder."""

    root: Path

    @property
    def params_file(self) -> Path:
        """The parameters."""
        return self.root / "params.yaml"

    @property
    def told(self) -> Path:
        """The continuations for each emotion."""
        return self.root / "told.parquet"

    def data(self, kind: str) -> Path:
        """The packed data of an alignment."""
        return self.root / "packed" / kind


def make(root: Path, models: ModelsParams, num_shared: int = 0) -> Folders:
    """Write packed data, manifests, told continuations, parameters, and the folders of two models.

    The first `num_shared` test speakers of each emotional corpus also speak in its train split.
    """
    made, prompter = Folders(root), Prompter.load(fetch(models.llm))
    of_kind = {"emotion": list(_emotion_rows(num_shared)), "semantic": list(_semantic_rows())}
    shell = packed.PromptShell(before_speech=[5, 6], before_text=[5, 6], after=[7])
    for kind, rows in of_kind.items():
        with packed.Writer(made.data(kind), shell, shard_bytes=1 << 20) as writer:
            for split in ("train", "dev", "test"):
                writer.write(split, (_packed(row, prompter) for row in rows if row["split"] == split))
        write_table(root / "manifests" / f"{kind}.parquet", [row["manifest"] for row in rows])
    write_table(made.told, [*_told(prompter)], TOLD_SCHEMA)
    change_params(CHANGES, ROOT / "params.yaml", to=made.params_file)
    for folder in ("stage1", "stage2"):
        (root / folder).mkdir()
        (root / folder / "config.json").write_text(model_config(models, emotions=CLASSES).model_dump_json())
    return made


def _emotion_rows(num_shared: int) -> Iterator[Row]:
    everyone = range(1, NUM_SPEAKERS + 1)
    for speaker in everyone:
        for words in ACTED:
            for emotion in range(len(CLASSES)):
                yield _row("acted", speaker, words, emotion, "test")
        for number in range(NUM_FELT):
            place = (speaker - 1) * NUM_FELT + number
            yield _row("felt", NUM_SPEAKERS + speaker, FELT[place], place % len(CLASSES), "test")
    for split, other in (("train", 100), ("dev", 200)):
        for words in ACTED[: NUM_SENTENCES // 2]:
            for emotion in range(len(CLASSES)):
                yield _row("acted", other, words, emotion, split)
    for speaker in range(1, num_shared + 1):
        yield _row("acted", speaker, ACTED[0], 0, "train", take=1)
        yield _row("felt", NUM_SPEAKERS + speaker, ACTED[0], 0, "train", take=1)


def _semantic_rows() -> Iterator[Row]:
    for place, words in enumerate(READ):
        yield _row("read", 2 * NUM_SPEAKERS + 1 + place % NUM_SPEAKERS, words, None, "test")
    yield _row("read", 300, ACTED[0], None, "train")


def _row(corpus: str, speaker: int, words: Words, emotion: int | None, split: str, take: int = 0) -> Row:
    name = None if emotion is None else CLASSES[emotion]
    num_embeddings = SHORTEST + (emotion or 0)
    samples = np.zeros((HOP_SAMPLES << NUM_HALVINGS) * num_embeddings, np.float32)
    codes = (speaker, NUMBERS[words.text], 0 if emotion is None else emotion + 1)
    samples[: len(codes)] = np.array(codes) / mono_16k.PCM16_STEPS
    about = {
        "corpus": corpus, "speaker": f"{corpus}/{speaker}", "text": words.text, "emotion": name, "split": split,
    }  # fmt: skip
    key = f"{corpus}/{speaker}-{words.text}-{name}-{take}".replace(" ", "-")
    facts = {"duration_s": len(samples) / mono_16k.SAMPLE_RATE_HZ, "gender": ("female", "male")[speaker % 2]}
    return about | {"samples": samples, "num_speech_tokens": num_embeddings, "id": key} | {
        "manifest": utterance(key, **about, **facts)
    }  # fmt: skip


def _packed(row: Row, prompter: Prompter) -> Row:
    response_ids = [40, 41, 0]
    return {
        **{name: row[name] for name in ("id", "corpus", "speaker", "emotion", "text", "num_speech_tokens")},
        "audio": {"bytes": mono_16k.encode_flac(row["samples"]), "path": None},
        "num_samples": len(row["samples"]),
        "num_text_tokens": 1,
        "num_response_tokens": len(response_ids),
        "text_ids": [TEXT_IDS + NUMBERS[row["text"]]],
        "response_ids": response_ids,
    }


def _told(prompter: Prompter) -> Iterator[Row]:
    for words in (*ACTED, *FELT):
        for emotion, reply in zip(CLASSES, REPLIES, strict=True):
            continuation = f"{reply}: {words.text}"
            ids = {"token_ids": [*prompter.answer_ids(continuation), prompter.end_id], "end_id": prompter.end_id}
            about = {"continuation": continuation, "finish_reason": STOP, "engine": "x", "generation": 1}
            yield {"text": words.text, "emotion": emotion, "key": None, "logprob": -1.0} | about | ids
