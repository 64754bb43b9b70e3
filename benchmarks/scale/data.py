"""Make up the inputs of the stages: manifests, continuations, predictions, and a few clips that all rows share.

Every sentence, speaker and content hash is made up, so that no two rows are equal. Ids are in order, as in the tables
of the stages.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
import yaml

from evaluate.predictions import CONDITIONS, DIVERGENCE_SCHEMA, RECOGNITION_SCHEMA, SYSTEMS
from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.tables import continuations, manifest, parquet

READ, ACTED = "read", "acted"
ACTED_SHARE = 0.3  # rows of emotional speech, for each row of read speech; these are packed
ROWS_AT_ONCE = 20_000
CLIP_SAMPLES = range(1_600, 8_801, 800)  # 0.1 to 0.55 s
ROWS_PER_SPEAKER, ROWS_PER_DIALOGUE = 50, 25
CLASSES = ("neutral", "sad", "angry", "happy")
TEXT = (
    "after all the old man said that his house by the river was never sold but given away in spring when "
    "water rose over every field and nobody could reach town for bread or news until we built another road through "
    "wood where my sister once lost her dog under snow"
)
WORDS = TEXT.split()

Make = Callable[[np.random.Generator, range], list[dict[str, Any]]]


def make_inputs(folder: Path, num_rows: int, params_file: Path) -> None:
    """Write the inputs of all stages: `num_rows` rows of read speech and three tenths of it of emotional speech."""
    num_acted = round(ACTED_SHARE * num_rows)
    for number, num_samples in enumerate(CLIP_SAMPLES):
        samples = np.random.default_rng(number).integers(-7, 8, num_samples, dtype=np.int16)
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "audio" / f"{number}.flac", samples, SAMPLE_RATE_HZ)
    write_params(folder, params_file)
    for corpus, count in ((READ, num_rows), (ACTED, num_acted)):
        rows = manifest_rows(corpus)
        write(folder / "manifests" / f"{corpus}.parquet", manifest.SCHEMA, count, rows)
    write(folder / "continuations.parquet", continuations.SCHEMA, num_rows, answer_rows(READ))
    write(folder / "kept.parquet", continuations.KEPT_SCHEMA, num_acted, answer_rows(ACTED))
    write(folder / "dropped.parquet", continuations.DROPPED_SCHEMA, 0, answer_rows(ACTED))
    num_clips = num_rows // len(SYSTEMS)
    write(folder / "recognition.parquet", RECOGNITION_SCHEMA, num_clips, recognition_rows)
    write(folder / "divergence.parquet", DIVERGENCE_SCHEMA, num_clips, divergence_rows)


def write_params(folder: Path, params_file: Path) -> None:
    """Write the parameters: those of a file, with these corpora, and with all limits of the filter for a 7B LLM."""
    values = yaml.safe_load(params_file.read_text())
    corpora = {name: {"reader": "table", "root": str(folder / "audio"), "check": "headers"} for name in (READ, ACTED)}
    limits = {
        "min_duration_s": 0.05, "min_words": 1, "drop_refusals": True, "drop_model_talk": True,
        "drop_sentence_talk": True, "max_prompt_words": 3, "max_non_text": 0.3, "max_other_language": 0.9,
        "max_repetition": 0.3, "max_echo": 0.8,
    }  # fmt: skip
    values |= {"ingest": corpora, "emotions": list(CLASSES)}
    values["split"] |= {"semantic": [READ], "emotion": [ACTED], "test_speakers": {}, "folds": {}, "lists": {}}
    values["leaks"] |= {"forbid": [], "allow": {}, "near_audio_of": []}
    values["filter"]["semantic"] |= limits
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def write(path: Path, schema: pa.Schema, count: int, make: Make) -> None:
    """Write a table of `count` made-up utterances."""
    generator = np.random.default_rng(0)
    with parquet.stream(path, schema) as table:
        for start in range(0, count, ROWS_AT_ONCE):
            table.write(make(generator, range(start, min(start + ROWS_AT_ONCE, count))))
        table.commit()


def sentence(generator: np.random.Generator, i: int, num_words: int) -> str:
    """Make up a sentence that differs for each `i`."""
    return " ".join([*(WORDS[n] for n in generator.integers(len(WORDS), size=num_words).tolist()), f"{i}"])


def manifest_rows(corpus: str) -> Make:
    """Return a function that makes rows of the manifest of a corpus without splits."""

    def make(generator: np.random.Generator, numbers: range) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{corpus}/{i:08}", "corpus": corpus, "audio": f"{i % len(CLIP_SAMPLES)}.flac", "start_s": 0.0,
                "duration_s": CLIP_SAMPLES[i % len(CLIP_SAMPLES)] / SAMPLE_RATE_HZ, "sample_rate_hz": SAMPLE_RATE_HZ,
                "channels": 1, "text": (text := sentence(generator, i, 10)), "text_published": text.upper(),
                "language": "en", "speaker": f"{corpus}/{i // ROWS_PER_SPEAKER}",
                "dialogue": f"{i // ROWS_PER_DIALOGUE}", "turn": i % ROWS_PER_DIALOGUE,
                "emotion": CLASSES[i % 4] if corpus == ACTED else None, "licence": "CC0-1.0",
                "content_hash": f"{i:032x}",
            }
            for i in numbers
        ]  # fmt: skip

    return make


def answer_rows(corpus: str) -> Make:
    """Return a function that makes continuations of 20 words for the rows of a corpus."""

    def make(generator: np.random.Generator, numbers: range) -> list[dict[str, Any]]:
        return [
            {
                "id": f"{corpus}/{i:08}", "key": f"{i:032x}", "text_ids": list(range(12)), "num_prompt_tokens": 40,
                "continuation": sentence(generator, i, 20), "token_ids": generator.integers(30_000, size=24).tolist(),
                "finish_reason": continuations.STOP, "end_id": 2, "engine": "made up", "logprob": -40.0,
                "generation": 1, "echo": 0.1,
            }
            for i in numbers
        ]  # fmt: skip

    return make


def test_rows(numbers: range) -> list[dict[str, Any]]:
    """Make up what respond knows of its test rows; four corpora, 40 clips of a speaker."""
    return [
        {
            "id": f"{ACTED}/{i:08}", "corpus": f"{ACTED}{i % 4}", "speaker": f"{i // 40}", "text": f"sentence {i}",
            "emotion": CLASSES[i // 4 % 4], "num_samples": 16_000 + i * 7_919 % 160_000,
        }
        for i in numbers
    ]  # fmt: skip


def recognition_rows(generator: np.random.Generator, numbers: range) -> list[dict[str, Any]]:
    """Make up what every system answers to each clip."""
    guesses = generator.integers(5, size=(len(numbers), len(SYSTEMS))).tolist()
    return [
        {
            **{key: row[key] for key in ("id", "corpus", "speaker", "emotion")}, "system": system.name,
            "answer": None, "predicted": [*CLASSES, None][guess], "scores": [-1.0, -2.0, -3.0, -4.0],
        }
        for row, of_row in zip(test_rows(numbers), guesses, strict=True)
        for system, guess in zip(SYSTEMS, of_row, strict=True)
    ]  # fmt: skip


def divergence_rows(generator: np.random.Generator, numbers: range) -> list[dict[str, Any]]:
    """Make up the divergence of each clip under every condition."""
    return [
        {key: row[key] for key in ("id", "corpus", "speaker")}
        | {"condition": condition, "kl": generator.uniform(1, 2), "num_tokens": 48, "num_agree": 24}
        for row in test_rows(numbers)
        for condition in CONDITIONS
    ]
