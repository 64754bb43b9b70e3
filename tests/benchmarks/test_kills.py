"""Killed trainings end as uninterrupted ones, here with tiny models; python -m benchmarks.kills has real weights."""

from pathlib import Path

import pytest

from benchmarks import kills
from pipeline.weights.source import ModelsParams
from tests.builders import emotion_fit_section, semantic_fit_section

WITHIN = 1e-6


@pytest.mark.slow
def test_killed_and_stopped_trainings_end_as_uninterrupted_ones(
    tmp_path: Path, tiny_models: ModelsParams, packed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "STEPS", 60)  # tiny steps are short, and a kill has to arrive before the last one
    monkeypatch.setattr(kills, "KILLS", 2)
    monkeypatch.setattr(kills, "FEW_CLIPS", {"max_frames": 100, "max_positions": 100, "per_step": 2})
    for kind in kills.STAGES:
        (tmp_path / "packed").mkdir(exist_ok=True)
        (tmp_path / "packed" / kind).symlink_to(packed_folder)
    params = {
        "models": tiny_models.model_dump(),
        "emotions": ["sad", "happy"],
        "fit": {"semantic": semantic_fit_section(), "emotion": emotion_fit_section()},
    }
    found = kills.measure(params, tmp_path / "packed", tmp_path, seed=1)
    for kind in kills.STAGES:
        figures = found[kind]
        assert (figures["equal_bit_for_bit"], figures["steps"]) == (True, 60)
        assert figures["files"][-1] == "losses.jsonl" or kind == "emotion"
        assert (figures["exit_status"], figures["finished_steps_lost"]) == (75, 0)
        assert figures["largest_difference_of_losses"] <= WITHIN
        assert figures["largest_difference_of_weights"] <= WITHIN
