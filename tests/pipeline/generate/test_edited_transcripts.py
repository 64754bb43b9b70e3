"""Of 2,000 real transcripts 20 are edited, and edited back: what the real vLLM is asked, and what the store gives.

The LLM has random weights, for what is asked does not depend on them.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.builders import change_params, utterance, weights, write_table

NUM_ROWS, NUM_EDITED = 2_000, 20


def write_manifest(path: Path, texts: dict[str, str]) -> None:
    write_table(path, [utterance(f"librispeech/{key}", text=text) for key, text in texts.items()])


def run(folder: Path) -> tuple[str, float]:
    """Run the stage as DVC does; return what it says and its seconds, those of Python's start as well."""
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", "params.yaml"]
    command += ["--manifest", "manifest.parquet", "--output", "continuations.parquet"]
    started = time.monotonic()
    said = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    return said, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.shared
def test_the_edited_transcripts_alone_are_answered_and_the_earlier_ones_come_back(
    root: Path, shared: Path, tmp_path: Path, llm_for_vllm: Path
) -> None:
    sizes = {"generate.max_new_tokens": 4, "generate.max_model_len": 1024}  # its tokens are single bytes
    change_params({"models.llm": weights(llm_for_vllm), **sizes}, root / "params.yaml", to=tmp_path / "params.yaml")
    lines = (shared / "data" / "LibriSpeech-text" / "dev-clean.tsv").read_text().splitlines()
    texts = {key: text.lower() for key, _, text in (line.partition("\t") for line in lines[:NUM_ROWS])}
    num_distinct = len(set(texts.values()))
    write_manifest(tmp_path / "manifest.parquet", texts)
    said, _ = run(tmp_path)
    assert f"{num_distinct:,} generated" in said
    first = (tmp_path / "continuations.parquet").read_bytes()

    said, seconds = run(tmp_path)
    assert "none generated" in said
    assert seconds <= 2
    assert (tmp_path / "continuations.parquet").read_bytes() == first

    edited = {key: f"{text} indeed" if i % 100 == 7 else text for i, (key, text) in enumerate(texts.items())}
    write_manifest(tmp_path / "manifest.parquet", edited)
    said, _ = run(tmp_path)
    assert re.search(rf"{NUM_EDITED} prompts to answer", said)
    assert f" {NUM_EDITED} generated" in said
    assert (tmp_path / "continuations.parquet").read_bytes() != first

    write_manifest(tmp_path / "manifest.parquet", texts)
    said, seconds = run(tmp_path)
    assert "none generated" in said
    assert seconds <= 2
    assert (tmp_path / "continuations.parquet").read_bytes() == first
