"""Stage 1 on cached encoder states: the same losses, files that a killed run completes, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, semantic_fit_section
from train.data import encoder_states
from train.data.dataset import Visit
from train.data.encoder_states import EncoderStates
from train.fit import cached_states, run, stage_model
from train.fit.cached_states import with_cached_states
from train.fit.data import Data, open_data
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.run import RunFolders
from train.model import SpeechLLM
from train.model.inputs import States

EMOTIONS = ["sad", "happy"]
CASES = [("packed", False), ("padded", False), ("padded", True)]


def semantic(**changes: Any) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(**{"encoder_states": "cached", **changes}))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard hold about three rows."""
    monkeypatch.setattr(encoder_states, "SHARD_BYTES", 10_000)


class Opened:
    """A model and its data, opened for stage 1."""

    def __init__(self, models: ModelsParams, folders: RunFolders, settings: SemanticFitParams) -> None:
        self.folders, self.settings = folders, settings
        self.model, self.config = stage_model.build_model(settings, models, EMOTIONS, None)
        self.data = open_data(folders.data, settings, self.config, with_teacher=True)

    def cached(self) -> Data:
        """Return the data with cached states."""
        return with_cached_states(
            self.data, self.model, self.settings, self.config, self.folders.checkpoints, self.folders.data
        )


def files_of(folders: RunFolders) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folders.checkpoints.glob("encoder-states/*/*.states"))}


def gradient_of(model: SpeechLLM, data: Data, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a function of what the model computes of rows, and its gradient by the adapter."""
    (batch,) = data.batches([rows])
    outputs = model(batch)
    loss = outputs.student.float().sin().sum() + outputs.emotion.float().sum()
    gradients = torch.autograd.grad(loss, list(model.adapter.parameters()))
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(("layout", "pad_to_30s"), CASES)
@pytest.mark.parametrize("log_mel_on", ["loader", "device"])
def test_cached_states_give_the_loss_and_the_gradient_of_computed_ones(
    tiny_models: ModelsParams, folders: RunFolders, layout: str, pad_to_30s: bool, log_mel_on: str, small_shards: None
) -> None:
    batches = batch_section(layout=layout, max_frames=10_000)
    settings = semantic(batches=batches, pad_to_30s=pad_to_30s, log_mel_on=log_mel_on)
    opened = Opened(tiny_models, folders, settings)
    cached = opened.cached()
    assert cached.sampler.plan(0) == opened.data.sampler.plan(0)
    for rows in ([0, 5, 11, 3], [7]):
        (batch,) = cached.batches([rows])
        assert isinstance(batch.features, States)
        (loss, gradient), (expected, expected_gradient) = (
            gradient_of(opened.model, data, rows) for data in (cached, opened.data)
        )
        assert float((loss - expected).abs()) < 1e-5 * float(expected.abs())
        assert float((gradient - expected_gradient).norm()) < 1e-5 * float(expected_gradient.norm())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_on_cached_states_learns_the_same(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, precision: str
) -> None:
    losses = {}
    for choice in ("computed", "cached"):
        own = replace(folders, output=tmp_path / choice, checkpoints=tmp_path / "checkpoints")
        warm_start = {"epochs": 1, "learning_rate": 1e-3}
        batches = batch_section(layout="packed")
        settings = semantic(encoder_states=choice, warm_start=warm_start, batches=batches, precision=precision)
        run.fit(settings, tiny_models, EMOTIONS, own, resume=False)
        losses[choice] = [json.loads(line) for line in (own.output / "losses.jsonl").read_text().splitlines()]
    assert len(losses["cached"]) > 6
    within = 0.05 if precision == "float32" else 0.1  # of a KL of 1e-4, after steps at a high rate
    for cached, computed in zip(losses["cached"], losses["computed"], strict=True):
        assert cached == pytest.approx(computed, rel=within)


def test_a_killed_run_goes_on_after_its_last_complete_shard(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    Opened(tiny_models, folders, semantic()).cached()
    whole = files_of(folders)
    assert len(whole) > 4

    killed = replace(folders, checkpoints=tmp_path / "killed")
    opened = Opened(tiny_models, killed, semantic())
    replaced = os.replace

    def replace_twice(source: Any, target: Any) -> None:
        if len(files_of(killed)) == 2:
            raise KeyboardInterrupt
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace_twice)
        with pytest.raises(KeyboardInterrupt):
            opened.cached()
    kept = {file: file.stat().st_mtime_ns for file in killed.checkpoints.glob("encoder-states/*/*.states")}
    assert len(kept) == 2
    half = next(iter(kept)).with_name(".train-00002.states.partial")  # what SIGKILL leaves
    half.write_bytes(b"half")
    opened.cached()
    assert not half.exists()
    assert files_of(killed) == whole
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_the_bytes_do_not_depend_on_the_number_of_processes(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, small_shards: None
) -> None:
    Opened(tiny_models, folders, semantic()).cached()
    opened = Opened(tiny_models, folders, semantic())
    rows, width = opened.data.train.rows, opened.model.encoder.width
    states = EncoderStates.of(tmp_path, rows, width, torch.float32)
    for rank in (1, 0):
        shards = list(range(len(states.shards) - 1))
        cached_states.write_shards(
            states, shards[rank::2], opened.data.train, opened.data.collate, opened.model, workers=0
        )
    whole = files_of(folders)
    written = {file.name: file.read_bytes() for file in tmp_path.glob("*.states")}
    assert len(written) > 3
    assert written == {name: content for name, content in whole.items() if name.startswith("train")}


def test_the_disk_is_told_before_anything_is_written(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tiny_models, folders, semantic(warm_start={"epochs": 3, "learning_rate": 1e-3}))

    def write(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cached_states, "write_shards", write)
    with pytest.raises(KeyboardInterrupt):
        opened.cached()
    (line,) = capsys.readouterr().out.splitlines()
    told = r"fit: semantic: the encoder states of 15 rows (0.00 hours) take 0.000 GB in "
    assert line.startswith(told)
    assert "free; they pay from the second epoch on (epochs of this run: 2, and 3 of the warm start)" in line


def test_states_that_do_not_fit_on_the_disk_are_refused(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened(tiny_models, folders, semantic())
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000})())
    message = r"^.*/encoder-states/\w+: needs 0\.000 GB more, where 0\.000 GB are free; set fit\.semantic\.encoder"
    with pytest.raises(UserError, match=message):
        opened.cached()
    assert not files_of(folders)


def test_augmentation_and_a_trained_encoder_are_refused() -> None:
    with pytest.raises(ValidationError, match="computed with an augment other than none, because it changes the clips"):
        semantic(augment="with-speed")
    with pytest.raises(ValidationError, match="encoder_states\n  Extra inputs are not permitted"):
        EmotionFitParams.model_validate(emotion_fit_section(encoder_states="cached"))


@pytest.fixture
def damage(tiny_models: ModelsParams, folders: RunFolders, small_shards: None) -> Callable[..., Any]:
    """Return a function that changes the second file of train, and then reads all rows."""
    opened = Opened(tiny_models, folders, semantic())
    cached = opened.cached()

    def change(edit: Callable[[bytes], bytes], *, opened_again: bool) -> None:
        (file,) = folders.checkpoints.glob("encoder-states/*/train-00001.states")
        file.write_bytes(edit(file.read_bytes()))
        data = opened.cached() if opened_again else cached
        for row in range(len(data.train)):
            data.train[Visit(row, 0)]

    return change


def test_a_damaged_file_is_named(damage: Callable[..., Any]) -> None:
    message = r"train-00001\.states: found 3 bytes, expected [\d,]+; the file is damaged, remove it and run again$"
    with pytest.raises(UserError, match=message):
        damage(lambda content: content[:3], opened_again=True)


@pytest.mark.parametrize("place", [100, -1])
def test_a_changed_byte_is_noticed_when_its_row_is_read(damage: Callable[..., Any], place: int) -> None:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 1
        return bytes(changed)

    message = r"train-00001\.states: found other states of row \d+ of train than were written, expected the same; the f"
    with pytest.raises(UserError, match=message):
        damage(flip, opened_again=True)


def test_other_weights_data_or_settings_have_states_of_their_own(
    tiny_models: ModelsParams, folders: RunFolders
) -> None:
    for changes in ({}, {"pad_to_30s": True}, {"log_mel_on": "device"}, {"epochs": 3.0}):
        batches = batch_section(max_frames=10_000)
        Opened(tiny_models, folders, semantic(batches=batches, **changes)).cached()
    assert len(list(folders.checkpoints.glob("encoder-states/*"))) == 3


def test_a_trained_run_leaves_its_states(tiny_models: ModelsParams, folders: RunFolders) -> None:
    run.fit(semantic(), tiny_models, EMOTIONS, folders, resume=False)
    assert files_of(folders)
    assert not list(folders.checkpoints.glob("semantic-*/step-*"))
    assert load_file(folders.output / "adapter.safetensors")
