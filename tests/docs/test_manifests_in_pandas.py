"""docs/manifests-in-pandas.md runs as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.tables import continuations, manifest, quarantine
from tests.builders import utterance, write_table


def clip(i: int, emotion: str, votes: dict[str, float] | None) -> dict[str, Any]:
    return utterance(
        f"acting/{i}",
        corpus="acting",
        audio=f"{i}.wav",
        start_s=0.0,
        duration_s=1.0 + i,
        text=f"sentence {i}",
        speaker=f"acting/{i % 2}",
        emotion=emotion,
        emotion_votes=None if votes is None else list(votes.items()),
        split=("train", "test")[i % 2],
        attributes=[("Age", "51")] if i else None,
    )


def make_run(folder: Path) -> None:
    """Write what the page reads: manifests, a quarantine, continuations, audio, and where it lies."""
    votes = [{"sad": 0.6, "neutral": 0.4}, {"neutral": 1.0}, None, {"happy": 0.7, "sad": 0.3}]
    rows = [clip(i, emotion, votes[i]) for i, emotion in enumerate(("sad", "sad", "happy", "happy"))]
    answers = [
        {"id": row["id"], "continuation": "Yes.", "token_ids": [1], "finish_reason": "stop", "engine": "echo"}
        for row in rows
    ]
    refused = [{"id": "acting/9", "corpus": "acting", "audio": "9.wav", "reason": "silent", "detail": "peak 0"}]
    write_table(folder / "manifests/emotion.parquet", rows)
    write_table(folder / "manifests/acting.quarantine.parquet", refused, quarantine.SCHEMA)
    write_table(folder / "manifests/continuations/emotion.parquet", answers, continuations.SCHEMA)
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", np.full((1 + i) * 8_000, 0.5), 8_000)
    (folder / "params.yaml").write_text(f"ingest:\n  acting: {{reader: ravdess, root: {folder}, check: samples}}\n")


def test_the_page_runs_as_it_stands(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[tuple[Any, int]] = []
    display = ModuleType("IPython.display")
    monkeypatch.setattr(display, "Audio", lambda samples, rate: played.append((samples, rate)), raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)

    blocks = re.findall(r"```python\n(.*?)```", (root / "docs/manifests-in-pandas.md").read_text(), re.DOTALL)
    assert len(blocks) > 10, "the page has lost its code"
    page: dict[str, Any] = {}
    for block in blocks:
        exec(block, page)

    assert page["long_ones"].id.tolist() == ["acting/2"]
    assert page["sizes"].utterances.tolist() == [2, 2]
    assert page["shares"].loc["acting/0", "sad"] == 0.6
    assert page["agrees"].tolist() == [True, False, True]
    assert page["attributes"].Age.tolist()[1:] == ["51"] * 3
    assert page["answered"].continuation.tolist() == ["Yes."] * 4
    assert [(len(samples) % 16_000, rate) for samples, rate in played] == [(0, 16_000)]
    assert pq.read_schema("sad.parquet") == manifest.SCHEMA
