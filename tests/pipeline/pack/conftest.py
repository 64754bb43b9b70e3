"""Inputs of pack: clips, a manifest, continuations and parameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.pack import __main__ as pack
from pipeline.prompts import Prompter
from pipeline.tables import continuations
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import utterance, write_table

PROMPTS = {
    "semantic": {"system": "s", "text": "say: ", "speech": "hear: "},
    "emotion": {"system": "s", "text": "a '{emotion}' one: ", "speech": "hear: "},
}


@dataclass(frozen=True)
class Inputs:
    """What the stage reads: a manifest of five clips, continuations of four, parameters."""

    folder: Path

    def run(self, kind: str = "semantic") -> Path:
        output = self.folder / "packed"
        pack.main(
            kind="semantic" if kind == "semantic" else "emotion",
            manifest_file=self.folder / "manifest.parquet",
            kept_file=self.folder / "kept.parquet",
            dropped_file=self.folder / "dropped.parquet",
            output=output,
            params_file=self.folder / "params.yaml",
        )
        return output


@pytest.fixture
def inputs(tmp_path: Path, tiny_models: ModelsParams) -> Inputs:
    rows: list[dict[str, Any]] = []
    for i, split in enumerate(("train", "train", "dev", "test", "test")):
        soundfile.write(tmp_path / f"{i}.wav", np.full((4_800 + 100 * i, 2), 0.25), 48_000)
        known = {"corpus": "c", "audio": f"{i}.wav", "text": f"word {i}", "split": split}
        times = {"start_s": 0.0, "duration_s": (4_800 + 100 * i) / 48_000}
        rows.append(utterance(f"c/{i}", speaker=f"c/{i}", emotion="sad") | known | times)
    write_table(tmp_path / "manifest.parquet", rows)
    prompter = Prompter.load(fetch(tiny_models.llm))
    answers = [
        dict.fromkeys(continuations.SCHEMA.names)
        | {"id": f"c/{i}", "key": f"0{i}", "text_ids": prompter.content_ids(f"word {i}"), "token_ids": [30, 31]}
        | {"continuation": "x", "finish_reason": "length" if i == 3 else "stop", "engine": "test"}
        for i in range(5)
    ]
    write_table(tmp_path / "kept.parquet", [answers[i] for i in (0, 2, 3)], continuations.SCHEMA)
    write_table(tmp_path / "dropped.parquet", [answers[i] for i in (1, 4)], continuations.SCHEMA)
    values = {
        "models": tiny_models.model_dump(),
        "prompts": PROMPTS,
        "ingest": {"c": {"reader": "cremad", "root": str(tmp_path), "check": "samples"}},
        "pack": {"shard_mb": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return Inputs(tmp_path)
