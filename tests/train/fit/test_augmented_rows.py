"""Augmentation in a run: planned lengths, budgets, resume, the dev split, and the identity of the run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import halved, num_mel_frames, num_speech_tokens
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, model_config, noise, semantic_fit_section, write_audio
from train.data.augmentation import Augmentation
from train.data.dataset import visits
from train.data.effects import PRESETS
from train.fit import checkpoint, run, stage_model
from train.fit.ctc_warm_start import warm_start
from train.fit.data import Data, open_data
from train.fit.identity import fingerprint, identify
from train.fit.params import EmotionFitParams, SemanticFitParams, WarmStartParams
from train.fit.run import RunFolders
from train.model import Batch

EMOTIONS = ["sad", "happy"]
LARGE = batch_section(max_frames=10_000, max_positions=10_000)


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**{"augment": "with-speed", **changes}))


def opened(folder: Path, models: ModelsParams, settings: SemanticFitParams) -> Data:
    return open_data(folder, settings, model_config(models), with_teacher=True)


def write_rows(folder: Path, lengths: list[int]) -> Path:
    """Write a packed folder of clips with these numbers of samples."""
    shell = packed.PromptShell(before_speech=[5, 6], before_text=[5, 6], after=[7])
    made = 0.1 * np.random.default_rng(0).standard_normal(max(lengths)).astype(np.float32)
    rows = [
        {
            "id": f"x/{i}", "corpus": "x", "text": "t", "emotion": "sad", "num_samples": length,
            "audio": {"bytes": mono_16k.encode_flac(made[:length]), "path": None},
            "num_speech_tokens": num_speech_tokens(num_mel_frames(length)), "num_text_tokens": 1,
            "num_response_tokens": 1, "text_ids": [20], "response_ids": [0],
        }
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    with packed.Writer(folder, shell, shard_bytes=1 << 20) as writer:
        writer.write("train", rows)
        for split in ("dev", "test"):
            writer.write(split, rows[:1])
    return folder


def planned(data: Data, epoch: int) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Yield the rows of each batch of an epoch, and their costs in it."""
    assert data.sampler.costs_in is not None
    costs = data.sampler.costs_in(epoch)
    for step in data.sampler.plan(epoch):
        for rows in step:
            yield rows, costs[rows]


def lengths_of(data: Data) -> NDArray[np.int64]:
    """Return the planned samples of all rows in epoch 0."""
    assert isinstance(data.train.augment, Augmentation)
    assert data.train.augment.speeds is not None
    return data.train.augment.speeds.lengths(0)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_planned_frames_are_those_of_the_decoded_clips(
    tmp_path: Path, tiny_models: ModelsParams, layout: str
) -> None:
    lengths = np.random.default_rng(1).integers(6_000, 40_000, 200).tolist()
    settings = semantic(batches=batch_section(layout=layout, max_frames=900, max_positions=2000))
    data = opened(write_rows(tmp_path / "data", lengths), tiny_models, settings)
    unchanged = 0
    for epoch in (0, 1):
        plans = list(planned(data, epoch))
        read = data.batches(visits(rows, epoch) for rows, _ in plans)
        for (rows, costs), batch in zip(plans, read, strict=True):
            assert halved(batch.num_frames).tolist() == costs[:, 0].tolist()
            tokens = [num_speech_tokens(frames) for frames in batch.num_frames.tolist()]
            assert tokens == (costs[:, 1] - 1 - 1).tolist()
            frames, positions = data.sampler.budget.cost(costs)
            assert frames <= 900
            assert positions <= 2000
            unchanged += sum(num_mel_frames(lengths[row]) == n for row, n in zip(rows, batch.num_frames, strict=True))
    assert unchanged < 40  # of 400


def test_speed_stops_at_30_s_and_at_the_budget(tmp_path: Path, tiny_models: ModelsParams) -> None:
    folder = write_rows(tmp_path / "data", [470_000] * 20 + [490_000] * 20)
    data = opened(folder, tiny_models, semantic(batches=LARGE))
    lengths = lengths_of(data)
    assert lengths[:20].max() == 480_000
    assert lengths[20:].max() == 490_000
    assert lengths.min() < 450_000

    folder = write_rows(tmp_path / "short", [24_000] * 40)  # 10 speech tokens and 9 other positions
    for limit, longest in (({"max_frames": 78}, 24_960), ({"max_positions": 19}, 25_600), ({}, 26_666)):
        data = opened(folder, tiny_models, semantic(batches=LARGE | limit))
        assert longest - 100 < lengths_of(data).max() <= longest
        assert data.sampler.costs_in is not None
        assert len(data.sampler.budget.too_large(data.sampler.costs_in(0))) == 0


def test_a_clip_over_the_budget_of_speed_keeps_at_least_its_own_length(
    tmp_path: Path, tiny_models: ModelsParams
) -> None:
    folder = write_rows(tmp_path / "data", [16_000] * 40)
    data = opened(folder, tiny_models, semantic(batches=LARGE | {"max_frames": 50}))
    assert lengths_of(data).max() == 16_000
    assert lengths_of(data).min() < 15_000


def test_without_speed_the_costs_are_those_of_the_packed_clips(folders: RunFolders, tiny_models: ModelsParams) -> None:
    plain = opened(folders.data, tiny_models, semantic(augment="none"))
    safe = opened(folders.data, tiny_models, semantic(augment="emotion-safe"))
    assert plain.sampler.costs_in is None
    assert safe.sampler.costs_in is None
    assert plain.train.augment is None
    assert plain.sampler.plan(0) == safe.sampler.plan(0)


def log_mel_of(batch: Batch) -> torch.Tensor:
    assert isinstance(batch.features, torch.Tensor)
    return batch.features


def test_the_dev_split_is_never_augmented(folders: RunFolders, tiny_models: ModelsParams) -> None:
    plain, changed = (opened(folders.data, tiny_models, semantic(augment=a)) for a in ("none", "with-speed"))
    pairs = list(zip(plain.dev_batches(0, 1), changed.dev_batches(0, 1), strict=True))
    assert pairs
    assert all(torch.equal(log_mel_of(a), log_mel_of(b)) for a, b in pairs)
    assert changed.dev is not None
    assert changed.dev.augment is None


def test_devices_read_together_what_one_reads(folders: RunFolders, tiny_models: ModelsParams) -> None:
    data = opened(folders.data, tiny_models, semantic(batches=batch_section(max_frames=60, per_step=3)))
    _, step = next(data.sampler.steps())
    one = list(data.batches(visits(rows, 0) for rows in step))
    for rank in (0, 1):
        other = opened(folders.data, tiny_models, semantic(batches=batch_section(max_frames=60, per_step=3)))
        share = list(other.batches(visits(rows, 0) for rows in step[rank::2]))
        assert all(torch.equal(log_mel_of(a), log_mel_of(b)) for a, b in zip(share, one[rank::2], strict=True))


@pytest.mark.parametrize("stage", ["semantic", "emotion"])
def test_an_augmented_run_goes_on_as_if_it_had_not_been_interrupted(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    first = semantic(warm_start=WarmStartParams(epochs=1, learning_rate=1e-3))
    settings: SemanticFitParams | EmotionFitParams = first
    if stage == "emotion":
        run.fit(semantic(max_steps=1), tiny_models, EMOTIONS, folders, resume=False)
        folders = replace(folders, init=folders.output, output=tmp_path / "emotion")
        settings = EmotionFitParams.model_validate(emotion_fit_section(augment="emotion-safe"))
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    whole = (folders.output / "losses.jsonl").read_text()
    save = checkpoint.save

    def save_and_die(folder: Path, state: checkpoint.Checkpoint, keep: int) -> None:
        save(folder, state, keep)
        if state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run.fit(settings, tiny_models, EMOTIONS, folders, resume=True)
    monkeypatch.setattr(checkpoint, "save", save)
    run.fit(settings.model_copy(update={"workers": 2}), tiny_models, EMOTIONS, folders, resume=True)
    assert (folders.output / "losses.jsonl").read_text() == whole


def test_the_warm_start_is_augmented(
    folders: RunFolders, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WarmStartParams(epochs=2, learning_rate=1e-3)
    fit = semantic()
    model, _ = stage_model.build_model(fit, tiny_models, EMOTIONS, None)
    data = opened(folders.data, tiny_models, fit)
    seen = []
    augment = data.train.augment
    assert augment is not None

    def recorded(row: int, row_id: str, samples: mono_16k.Samples, epoch: int) -> mono_16k.Samples:
        seen.append((epoch, row_id))
        return augment(row, row_id, samples, epoch)

    monkeypatch.setattr(data.train, "augment", recorded)
    warm_start(model, data, fit, settings)
    assert sorted(seen) == sorted((epoch, f"corpus/train-{i}") for epoch in (0, 1) for i in range(12))


def test_the_effects_and_the_sounds_are_part_of_a_run(
    folders: RunFolders, tiny_models: ModelsParams, tmp_path: Path
) -> None:
    sounds = tmp_path / "noises"
    write_audio(sounds / "a.wav", noise(seed=1))
    noisy = dict(PRESETS["emotion-safe"] or {})
    noisy["noise"] = noisy["noise"] | {"folder": str(sounds)}

    def name(augment: Any) -> str:
        settings = semantic(augment=augment)
        return fingerprint(
            identify(settings, model_config(tiny_models), folders.data, None, torch.float32, is_main_process=True)
        )

    names = [name("none"), name("emotion-safe"), name("with-speed"), name(noisy)]
    write_audio(sounds / "a.wav", noise(seed=2))
    assert len({*names, name(noisy)}) == 5
