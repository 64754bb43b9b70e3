"""Stage 1 on held-out speech: the KL between the LLM on the transcript and the LLM on the speech.

The KL of each row is computed for three conditions: the untrained model, the trained model, and the trained model given
a wrong clip. The wrong clip is another speaker's clip with other words, from the same corpus if possible, and with the
most similar length. The difference between the last two conditions is due to hearing the words.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from evaluate.predictions import DIVERGENCE_SCHEMA
from evaluate.respond.params import RespondParams
from evaluate.respond.processes import ask_all
from evaluate.respond.shuffled_clips import Pairs, own_clips, tell_missing, wrong_clips
from pipeline.stage import UserError
from pipeline.tables import parquet
from pipeline.tables.packed import PromptShell, Rows
from pipeline.weights.source import fetch
from train import saved_model
from train.data.dataset import Collator, Example, Examples
from train.data.log_mel import LogMel
from train.losses import response_kl
from train.model import SpeechLLM
from train.model_config import load_config
from train.precision import answering_dtype, autocast, best_device

_ABOUT = ("id", "corpus", "speaker", "text", "num_samples")


def measure(folder: Path, rows: Rows, shell: PromptShell, settings: RespondParams) -> pa.Table:
    """Return the divergence table of the test rows that have a continuation; only one model is in memory at a time."""
    config = load_config(folder)
    rows = rows.select(np.flatnonzero(rows.column("num_response_tokens").to_numpy()))
    if len(rows) == 0:
        raise UserError("test split: no row has a continuation; expected at least one")
    examples = Examples(rows, LogMel(fetch(config.models.encoder), config.pad_to_30s), config.emotions)
    about = pa.table({name: rows.column(name) for name in _ABOUT}).to_pylist()
    own, wrong = own_clips(about), wrong_clips(about, ("speaker", "text"), settings.seed, similar="num_samples")
    tell_missing("semantic", about, wrong, "another speaker with other words in the test split")
    collate = Collator(shell, with_teacher=True)
    dtype = answering_dtype(settings.precision, best_device())

    def take(model: SpeechLLM, conditions: dict[str, Pairs]) -> Iterator[dict[str, Any]]:
        model.to(best_device())
        for condition, pairs in conditions.items():

            def ask(batch: Pairs, condition: str = condition) -> list[_Divergence]:
                found = _divergences(model, [_given_clip(examples, *pair) for pair in batch], collate)
                for (number, _), divergence in zip(batch, found, strict=True):
                    if not math.isfinite(divergence.kl):
                        wrong = f"found the KL {divergence.kl}, expected a finite number"
                        raise UserError(f"respond: {about[number]['id']}: {condition}: {wrong}")
                return found

            name = f"respond semantic: {condition}"
            divergences = ask_all(name, pairs, settings.batch_size, ask, "clips")
            for (number, _), divergence in zip(pairs, divergences, strict=True):
                known = {key: about[number][key] for key in ("id", "corpus", "speaker")}
                yield known | {"condition": condition, "kl": divergence.kl, "num_tokens": divergence.num_tokens}

    table_rows = list(take(saved_model.build(config, dtype), {"before": own}))
    table_rows += take(saved_model.load(folder, dtype), {"after": own, "shuffled": wrong})
    return parquet.from_rows(table_rows, DIVERGENCE_SCHEMA)


@dataclass(frozen=True, slots=True)
class _Divergence:
    kl: float
    num_tokens: int


def _given_clip(examples: Examples, row: int, clip: int) -> Example:
    """Return a row with the clip of another row, or with its own."""
    example = examples[row]
    if row == clip:
        return example
    other = examples[clip]
    return replace(example, features=other.features, num_frames=other.num_frames)


@torch.no_grad()
def _divergences(model: SpeechLLM, rows: Sequence[Example], collate: Collator) -> list[_Divergence]:
    batch = collate(rows).to(model.token_embeddings.weight.device)
    with autocast(model.llm):
        outputs = model(batch)
    kl = response_kl(outputs.student, outputs.teacher, model.output_head, temperature=1.0)
    return [_Divergence(float(row.mean()), len(row)) for row in kl.split([len(row.response_ids) for row in rows])]
