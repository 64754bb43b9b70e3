"""The benchmark of packed data runs on a few clips."""

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import packing
from benchmarks.results_file import recorded


def test_both_sides_are_timed_on_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NUM_CLIPS", 8), ("ROUNDS", 1), ("NUM_READS", 8)):
        monkeypatch.setattr(packing, name, value)
    monkeypatch.setattr(packing, "recorded", partial(recorded, folder=tmp_path / "results"))
    packing.main(tmp_path / "clips")
    figures = json.loads((tmp_path / "results" / "packing.json").read_text())["figures"]
    names = ["write_flac_ours_s", "write_flac_theirs_s", "write_wav_ours_s", "write_wav_theirs_s"]
    assert [name for name in figures if not name.endswith("_runs")] == [*names, "read_ours_us", "read_theirs_us"]
    assert min(figures[name] for name in names) > 0
