"""docs/add-a-corpus.md, followed as a new user would: its reader and its table read what the page says they read."""

import re
from pathlib import Path

import pytest

from pipeline.corpora import registry
from pipeline.ingest import __main__ as ingest
from pipeline.tables import manifest
from tests.builders import write_clip


@pytest.fixture
def blocks(root: Path) -> list[str]:
    """The page's code blocks, in order."""
    return re.findall(r"```\w*\n(.*?)```", (root / "docs" / "add-a-corpus.md").read_text(), re.DOTALL)


def test_the_table_is_read(blocks: list[str], tmp_path: Path) -> None:
    table = next(block for block in blocks if block.startswith("file,actor"))
    mapping = next(block for block in blocks if block.startswith("language:"))
    (tmp_path / "clips.csv").write_text(table)
    (tmp_path / "mapping.yaml").write_text(mapping)
    write_clip(tmp_path / "wav" / "0001.wav")
    write_clip(tmp_path / "wav" / "0002.wav")
    ingest.main("table", tmp_path, tmp_path / "ours.parquet", name="ours")
    rows = manifest.read(tmp_path / "ours.parquet").to_pylist()
    assert [(row["id"], row["speaker"], row["emotion"], row["text"]) for row in rows] == [
        ("ours/wav/0001", "ours/anna", "happy", "ich habe bestanden"),
        ("ours/wav/0002", "ours/ben", "angry", "schon wieder zu spät"),
    ]


def test_the_reader_is_one_file_of_at_most_80_lines(
    blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(block for block in blocks if block.startswith('"""TESS'))
    assert len(code.splitlines()) <= 80
    module: dict[str, object] = {}
    exec(compile(code, "tess.py", "exec"), module)
    monkeypatch.setattr(registry, "open_corpus", lambda *_, **__: module["CORPUS"])
    for emotion in ("angry", "ps"):
        write_clip(tmp_path / "TESS" / f"OAF_{emotion}" / f"OAF_back_{emotion}.wav")
    ingest.main("tess", tmp_path / "TESS", tmp_path / "tess.parquet")
    rows = manifest.read(tmp_path / "tess.parquet").to_pylist()
    assert [(row["id"], row["emotion"]) for row in rows] == [
        ("tess/OAF_back_angry", "angry"),
        ("tess/OAF_back_ps", "surprise"),
    ]
