import importlib.util
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline import continuations, manifest, tables
from pipeline.__main__ import STAGES, app, show
from pipeline.stage import UserError


def row(key: str, split: str | None, emotion: str | None, corpus: str = "acting") -> dict[str, object]:
    row = {**dict.fromkeys(manifest.SCHEMA.names), "id": key, "corpus": corpus, "speaker": f"{corpus}/{key}"}
    return {**row, "duration_s": 5400.0, "split": split, "emotion": emotion}


def write(path: Path, rows: list[dict[str, object]], schema: pa.Schema = manifest.SCHEMA) -> Path:
    tables.write(tables.from_rows(rows, schema), path)
    return path


def test_a_manifest_is_shown_by_corpus_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("1", "test", "sad"), row("2", "train", "sad"), row("3", "train", "happy")]
    show(write(tmp_path / "a.parquet", rows))
    assert capsys.readouterr().out == (
        "corpus  split  hours  speakers  utterances\n"
        "acting  train   3.00         2           2\n"
        "acting  test    1.50         1           1\n"
        "\n"
        "corpus  split  happy  sad\n"
        "acting  train      1    1\n"
        "acting  test       0    1\n"
    )


def test_a_manifest_without_parts_and_emotions_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(write(tmp_path / "a.parquet", [row("1", None, None, "reading")]))
    out = capsys.readouterr().out
    assert "reading  none yet   1.50         1           1" in out
    assert len(out.splitlines()) == 2


def test_other_tables_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank = dict.fromkeys(continuations.SCHEMA.names)
    rows = [{**blank, "finish_reason": reason} for reason in ("length", "stop", "stop")]
    show(write(tmp_path / "a.parquet", rows, continuations.SCHEMA))
    assert (
        capsys.readouterr().out
        == "finish reason  rows\nstop              2\nlength            1\nall               3\n"
    )
    show(write(tmp_path / "b.parquet", [], manifest.QUARANTINE_SCHEMA))
    assert capsys.readouterr().out == "reason  rows\nall        0\n"


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("hello")
    with pytest.raises(UserError, match=r"a\.yaml: not a Parquet file"):
        show(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="lacks the column id; found other"):
        show(write(tmp_path / "b.parquet", [{"other": "x"}], pa.schema([("other", pa.string())])))


def test_the_help_lists_the_stages_that_there_are() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for name, does in STAGES.items():
        assert any(line.split() == ["python", "-m", f"pipeline.{name}", *does.split()] for line in text.splitlines())
        assert importlib.util.find_spec(f"pipeline.{name}") is not None
    assert "show" in text
