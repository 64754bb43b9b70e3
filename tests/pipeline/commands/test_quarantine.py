import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.commands import quarantine as refusals
from pipeline.commands.text_tables import WIDTH
from pipeline.stage import UserError
from pipeline.tables import quarantine
from pipeline.tables.quarantine import REASONS, Fault
from tests.builders import write_table


def refusal(i: int, reason: str, corpus: str = "acting", detail: str = "") -> dict[str, str]:
    return {"id": f"{corpus}/{i}", "corpus": corpus, "audio": f"{i}.wav", "reason": reason, "detail": detail}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    return write_table(path, rows, quarantine.SCHEMA)


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    rows = [refusal(1, "silent", detail="peak 0"), refusal(2, "truncated"), refusal(3, "silent", detail="peak 0.0001")]
    return write(tmp_path / "acting.quarantine.parquet", rows)


def test_reasons_are_counted_and_explained(refused: Path) -> None:
    assert refusals.describe(refusals.summarise(refused, None, 10)) == (
        "reason     rows  meaning\n"
        "silent        2  no sample is louder than -60 dB of full scale\n"
        "truncated     1  the audio ends before the length in its header, or before the\n"
        "                 end of the utterance\n"
        "all           3"
    )


def test_several_corpora_are_told_apart(tmp_path: Path) -> None:
    rows = [refusal(1, "silent"), refusal(1, "no-file", "plays"), refusal(2, "silent", "plays")]
    text = refusals.describe(refusals.summarise(write(tmp_path / "a.parquet", rows), None, 10))
    assert text.endswith(
        "corpus  quarantined  reasons\nacting            1  silent 1\nplays             2  silent 1, no-file 1"
    )


def test_the_rows_of_a_reason_are_told_with_what_was_seen(refused: Path) -> None:
    assert refusals.describe(refusals.summarise(refused, "silent", 1)) == (
        "reason  rows  meaning\n"
        "silent     2  no sample is louder than -60 dB of full scale\n"
        "all        2\n"
        "\n"
        "acting/1\n"
        "  audio   1.wav\n"
        "  detail  peak 0\n"
        "\n"
        "1 of 2 rows"
    )
    assert refusals.describe(refusals.summarise(refused, "silent", 10)).endswith(
        "acting/3\n  audio   3.wav\n  detail  peak 0.0001"
    )


def test_a_manifest_stands_for_the_quarantine_beside_it(refused: Path, tmp_path: Path) -> None:
    # after an ingest that found no usable clip, the manifest is not there
    assert refusals.summarise(tmp_path / "acting.parquet", None, 10) == refusals.summarise(refused, None, 10)
    write_table(tmp_path / "acting.parquet", [])
    assert refusals.summarise(tmp_path / "acting.parquet", None, 10) == refusals.summarise(refused, None, 10)
    write_table(tmp_path / "lonely.parquet", [])
    with pytest.raises(UserError, match=r"lonely\.quarantine\.parquet: no such file"):
        refusals.summarise(tmp_path / "lonely.parquet", None, 10)


def test_an_empty_quarantine_is_shown(tmp_path: Path) -> None:
    text = refusals.describe(refusals.summarise(write(tmp_path / "a.parquet", []), None, 10))
    assert text == "reason  rows  meaning\nall        0"


def test_a_reason_that_is_none_is_told(refused: Path) -> None:
    with pytest.raises(UserError, match=r"--reason: found silly, expected one of no-file, .*, double-audio$"):
        refusals.summarise(refused, "silly", 10)
    assert refusals.summarise(refused, "no-file", 10).rows == 0


def test_a_reason_of_another_version_is_counted_without_a_meaning(tmp_path: Path) -> None:
    found = refusals.summarise(write(tmp_path / "a.parquet", [refusal(1, "file is missing")]), "file is missing", 10)
    assert found.reasons["file is missing"].meaning == ""
    assert len(found.clips) == 1


def test_json_holds_all_of_it(refused: Path) -> None:
    command = ["quarantine", str(refused), "--json"]
    reasons = {
        "silent": {"meaning": REASONS["silent"], "rows": 2, "corpora": {"acting": 2}},
        "truncated": {"meaning": REASONS["truncated"], "rows": 1, "corpora": {"acting": 1}},
    }
    told = json.loads(CliRunner().invoke(app, command).output)
    assert told == {"file": str(refused), "rows": 3, "reasons": reasons, "clips": []}
    told = json.loads(CliRunner().invoke(app, [*command, "--reason", "silent"]).output)
    assert told["rows"] == 2
    assert told["clips"] == [refusal(1, "silent", detail="peak 0"), refusal(3, "silent", detail="peak 0.0001")]


def test_a_table_of_all_reasons_fits_on_a_screen(tmp_path: Path) -> None:
    corpora = [f"corpus-{i}" for i in range(12)]
    rows = [refusal(i, reason, corpus) for corpus in corpora for i, reason in enumerate(REASONS)]
    text = refusals.describe(refusals.summarise(write(tmp_path / "a.parquet", rows), None, 10))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert set(text.split()) >= {*REASONS, *corpora}


def test_a_fault_has_a_declared_reason() -> None:
    with pytest.raises(AssertionError, match="silly"):
        Fault("silly")
