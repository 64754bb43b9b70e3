"""Compute the frozen encoder's states of all rows once, before stage 1 reads them (`encoder_states: cached`).

The states of a row depend on the rows that are encoded together with it, by rounding. So these are always the same:
rows of a shard that follow each other. The bytes depend neither on the number of processes nor on an interruption.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.audio.speech_tokens import MAX_MEL_FRAMES, MEL_FRAMES_PER_S, halved
from pipeline.progress import Task
from pipeline.stage import UserError, say
from pipeline.tables import packed, parquet
from pipeline.weights.source import digest_files, fetch, name_weights
from train.data.dataset import Collator, Examples
from train.data.encoder_states import EncoderStates
from train.fit.data import BATCHES_AHEAD, Data
from train.fit.params import SemanticFitParams
from train.model import Batch, SpeechLLM
from train.model_config import ModelConfig
from train.precision import autocast
from train.saved_model import ENCODER_FILE

FOLDER = "encoder-states"
"""Folder beside the checkpoints of the runs: like them, it is not tracked, and can be removed at any time."""
FRAMES_AT_ONCE = 6_000
"""Encoder frames of a batch: two minutes of clips. It is no parameter, because the states depend on it by rounding."""
FORMAT = 1
"""Increase it when the files change."""
_CODE = (
    "data/dataset.py", "data/encoder_states.py", "data/log_mel.py", "fit/cached_states.py", "model/batch_log_mel.py",
    "model/encoder.py", "model/packing.py", "model/speech_llm.py",
)  # fmt: skip
_ABOUT_FILE = "about.json"
_GB = 1e9
STATES_PER_S = MEL_FRAMES_PER_S // 2


def with_cached_states(
    data: Data, model: SpeechLLM, settings: SemanticFitParams, config: ModelConfig, checkpoints: Path, packed_data: Path
) -> Data:
    """Return the data with states in place of clips; compute and write those that are missing.

    All processes call it, and each writes its share. The main process says first which disk the states take. Raises
    UserError if they do not fit on the disk, or if a file is damaged.
    """
    processes, dtype = PartialState(), next(model.llm.parameters()).dtype
    about = _describe(settings, config, packed_data, dtype)
    folder = checkpoints / FOLDER / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    splits = [data.train] if data.dev is None else [data.train, data.dev]
    states = {each.rows.split: EncoderStates.of(folder, each.rows, model.encoder.width, dtype) for each in splits}
    missing = [(each, shard) for each in states.values() for shard in each.missing()]
    needed = sum(each.size(shard) for each, shard in missing)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if processes.is_main_process:
        say(f"fit: semantic: {describe(folder, states, needed, free, settings)}")
    if needed > free:
        raise UserError(
            f"{folder}: needs {needed / _GB:,.3f} GB more, where {free / _GB:,.3f} GB are free; set "
            "fit.semantic.encoder_states to computed"
        )
    processes.wait_for_everyone()  # nobody writes before all have seen how much is missing
    if processes.is_main_process and missing:
        with parquet.whole(folder / _ABOUT_FILE) as partial:
            partial.write_text(json.dumps(about, indent=1))
    own = missing[processes.process_index :: processes.num_processes]
    collate = {"train": data.collate, "dev": data.dev_collate}
    for each in splits:
        name = each.rows.split
        shards = [shard for of_split, shard in own if of_split is states[name]]
        write_shards(states[name], shards, each, collate[name], model, settings.workers)
    processes.wait_for_everyone()
    for each_states in states.values():
        if absent := each_states.missing():
            raise UserError(
                f"{each_states.file(absent[0])}: not there after all processes have written, expected a folder that "
                "all machines share"
            )
    dev = None if data.dev is None else data.dev.with_states(states["dev"].read)
    return replace(data, train=data.train.with_states(states["train"].read), dev=dev)


def describe(
    folder: Path, states: Mapping[str, EncoderStates], needed: int, free: int, settings: SemanticFitParams
) -> str:
    """Say which disk the states take, and from which reading on they pay."""
    rows = sum(len(each.starts) - 1 for each in states.values())
    hours = sum(int(each.starts[-1]) for each in states.values()) / STATES_PER_S / 3600
    whole = sum(each.size(shard) for each in states.values() for shard in range(len(each.shards) - 1))
    size = f"the encoder states of {rows:,} rows ({hours:,.2f} hours) take {whole / _GB:,.3f} GB in {folder}"
    if not needed:
        return f"{size}; they are there"
    warm_start = 0 if settings.warm_start is None else settings.warm_start.epochs
    epochs = f"{settings.epochs:g}" + (f", and {warm_start} of the warm start" if warm_start else "")
    return (
        f"{size}, of which {needed / _GB:,.3f} GB are not there yet and {free / _GB:,.3f} GB are free; they pay from "
        f"the second epoch on (epochs of this run: {epochs})"
    )


def write_shards(
    states: EncoderStates, shards: list[int], examples: Examples, collate: Collator, model: SpeechLLM, workers: int
) -> None:
    """Encode the rows of some shards and write them."""
    if not shards:
        return
    pads = model.encoder.pad_to_30s
    batches = {shard: list(_batches(states, shard, pads)) for shard in shards}
    loader = iter(
        DataLoader(
            examples,
            batch_sampler=[batch for shard in shards for batch in batches[shard]],
            collate_fn=collate,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
    )
    with Task(f"encoder states of {states.split}", sum(len(states.rows(shard)) for shard in shards)) as task:
        for shard in shards:
            states.write(shard, _states_of(loader, len(batches[shard]), model, task))


def _batches(states: EncoderStates, shard: int, pads: bool) -> Iterator[list[int]]:
    """Cut the rows of a shard into batches."""
    batch: list[int] = []
    longest = 0
    for row in states.rows(shard):
        length = MAX_MEL_FRAMES // 2 if pads else int(states.starts[row + 1] - states.starts[row])
        if batch and (len(batch) + 1) * max(longest, length) > FRAMES_AT_ONCE:
            yield batch
            batch, longest = [], 0
        batch.append(row)
        longest = max(longest, length)
    yield batch


def _states_of(
    loader: Iterator[Batch], num_batches: int, model: SpeechLLM, task: Task
) -> Iterator[Float[Tensor, "t e"]]:
    """Yield the states of each row of the next batches."""
    device = model.token_embeddings.weight.device
    for _ in range(num_batches):
        batch = next(loader)
        lengths = halved(batch.num_frames[: len(batch.ids)]).tolist()
        there = batch.to(device)
        with torch.no_grad(), autocast(model.llm):
            states, _ = model.encode(there.features, there.num_frames, there.clips)
        states = states.cpu()
        rows = states[: sum(lengths)].split(lengths) if batch.clips is not None else states
        for length, of_row in zip(lengths, rows, strict=True):
            yield of_row[:length]
            task.advance()


def _describe(
    settings: SemanticFitParams, config: ModelConfig, packed_data: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Return all that the states depend on."""
    root, hashes = Path(__file__).parents[1], packed.hashes(packed_data)
    trained = Path(settings.init) / ENCODER_FILE if settings.init is not None and config.encoder_trained else None
    return {
        "format": FORMAT,
        "encoder": name_weights(config.models.encoder, fetch(config.models.encoder)),
        "trained encoder": trained and digest_files([trained]),
        "data": {name: digest for name, digest in hashes.items() if name.split("/")[0] in ("train", "dev")},
        "dtype": str(dtype),
        "pad_to_30s": config.pad_to_30s,
        "log_mel_on": settings.log_mel_on,
        "layout": settings.batches.layout,
        "round_up": settings.batches.round_up,
        "code": digest_files(root / name for name in _CODE),
        "libraries": {"torch": torch.__version__, "transformers": version("transformers")},
    }
