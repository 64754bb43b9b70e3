"""The benchmark of the loader runs on a few seconds of audio, and its two sides read the same clips."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import loader
from pipeline.audio import mono_16k
from pipeline.weights.source import ModelsParams


@pytest.fixture
def params_file(root: Path, tmp_path: Path, tiny_models: ModelsParams) -> Path:
    values = yaml.safe_load((root / "params.yaml").read_text()) | {"models": tiny_models.model_dump()}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_both_sides_read_the_same_clips(tmp_path: Path, params_file: Path) -> None:
    inputs = loader.prepare(tmp_path / "rows", 0.5, params_file, params_file, pass_s=64)
    read = [inputs.data.train[row].features for batch in inputs.batches for row in batch]
    assert len(read) == len(inputs.clips) == 2 * loader.NUM_CLIPS
    for clip, own in zip(inputs.clips, read, strict=True):
        np.testing.assert_allclose(inputs.bare_log_mel(mono_16k.decode(clip)), own, rtol=0, atol=5e-7)
    assert sorted(inputs.clips) == sorted(clip for share in inputs.shares() for clip in share)


def test_every_way_is_timed_and_compared(
    tmp_path: Path, params_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loader, "DURATIONS_S", (0.3,))
    monkeypatch.setattr(loader, "NUM_CLIPS", 8)
    monkeypatch.setattr(loader, "ROUNDS", 1)
    monkeypatch.setattr(loader, "BATCHES_OF", (params_file,))
    loader.main(tmp_path / "rows", 1.0, params_file, tmp_path / "results")
    assert capsys.readouterr().out.startswith(f"batches of {params_file}, clips of  0.3 s: ")
    assert not (tmp_path / "rows").exists()
    assert not (tmp_path / "results").exists()  # only whole passes are recorded
