"""Stage 1 on held-out speech: the KL between the LLM on the transcript and the LLM on the speech.

The KL of each row is computed for three conditions: the untrained model, the trained model, and the trained model given
a wrong clip. The wrong clip is another speaker's clip with other words, from the same corpus if possible, and with the
most similar length. The difference between the last two conditions is due to hearing the words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from evaluate.predictions import DIVERGENCE_SCHEMA
from evaluate.respond.params import RespondParams
from evaluate.respond.shuffled_clips import swapped
from pipeline.progress import track
from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import Collator, Example, Examples
from train.data.log_mel import LogMel
from train.losses import response_kl
from train.model import Batch, SpeechLLM
from train.precision import answering_dtype, autocast, best_device

_ABOUT = ("id", "corpus", "speaker", "text", "num_samples")


def measure(folder: Path, rows: Any, shell: PromptShell, settings: RespondParams) -> pa.Table:
    """Return the divergence table of the test rows that have a continuation; only one model is in memory at a time."""
    config = saved_model.load_config(folder)
    rows = rows.select([i for i, response in enumerate(rows["response_ids"][:]) if response])
    if len(rows) == 0:
        raise UserError("test split: no row has a continuation; expected at least one")
    examples = Examples(rows, LogMel(fetch(config.models.encoder), config.pad_to_30s), config.emotions)
    about = [dict(zip(_ABOUT, values, strict=True)) for values in zip(*(rows[name][:] for name in _ABOUT), strict=True)]
    other = swapped(
        about,
        lambda a, b: a["speaker"] != b["speaker"] and a["text"] != b["text"],
        lambda a, b: (a["corpus"] != b["corpus"], abs(a["num_samples"] - b["num_samples"])),
        settings.seed,
    )
    collate = Collator(shell, with_teacher=True)
    dtype = answering_dtype(settings.precision, best_device())

    def take(model: SpeechLLM, conditions: dict[str, Sequence[int] | None]) -> Iterator[dict[str, Any]]:
        model.to(best_device())
        for condition, clips in conditions.items():
            divergences = _divergences(model, _batches(examples, clips, collate, settings.batch_size))
            shown = track(divergences, f"respond semantic: {condition}", len(about), "clips")
            for row, divergence in zip(about, shown, strict=True):
                known = {key: row[key] for key in ("id", "corpus", "speaker")}
                yield known | {"condition": condition, "kl": divergence.kl, "num_tokens": divergence.num_tokens}

    table_rows = list(take(saved_model.build(config, dtype), {"before": None}))
    table_rows += take(saved_model.load(folder, dtype), {"after": None, "shuffled": other})
    return parquet.from_rows(table_rows, DIVERGENCE_SCHEMA)


@dataclass(frozen=True, slots=True)
class _Divergence:
    kl: float
    num_tokens: int


def _batches(
    examples: Examples, clips: Sequence[int] | None, collate: Collator, batch_size: int
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield batches with the number of response tokens of each row.

    If given, `clips[i]` is the number of the row whose clip is used in place of row i's own.
    """
    for start in range(0, len(examples), batch_size):
        numbers = range(start, min(start + batch_size, len(examples)))
        batch = [examples[i] for i in numbers]
        if clips is not None:
            batch = [_with_voice(example, examples[clips[i]]) for i, example in zip(numbers, batch, strict=True)]
        yield collate(batch), [len(example.response_ids) for example in batch]


def _with_voice(example: Example, other: Example) -> Example:
    return replace(example, features=other.features, num_frames=other.num_frames)


def _divergences(model: SpeechLLM, batches: Iterable[tuple[Batch, list[int]]]) -> Iterator[_Divergence]:
    for batch, num_tokens in batches:
        with torch.no_grad():
            with autocast(model.llm):
                outputs = model(batch.to(model.token_embeddings.weight.device))
            kl = response_kl(outputs.student, outputs.teacher, model.output_embeddings, temperature=1.0)
        for row in kl.split(num_tokens):
            yield _Divergence(float(row.mean()), len(row))
