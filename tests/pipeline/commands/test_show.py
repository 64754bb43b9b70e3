import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import STAGES, app
from pipeline.commands.show import main as show
from pipeline.commands.text_tables import WIDTH
from pipeline.leaks import __main__ as leaks
from pipeline.stage import UserError
from pipeline.tables import continuations, manifest, quarantine
from tests.builders import utterance, write_table

COMMANDS = (
    "show", "sample", "diff", "quarantine", "dropped", "generate", "export", "import", "compare", "history", "leaks",
    "download", "publish", "doctor",
)  # fmt: skip


def row(key: str, split: str | None, emotion: str | None, corpus: str = "acting") -> dict[str, Any]:
    values = {"speaker": f"{corpus}/{key}", "duration_s": 5400.0, "split": split, "emotion": emotion}
    return utterance(key, corpus=corpus, **values)


def refusal(corpus: str, reason: str) -> dict[str, object]:
    return {"id": f"{corpus}/9", "corpus": corpus, "audio": "9.wav", "reason": reason, "detail": ""}


def write_summary(folder: Path, corpus: str, coverage: dict[str, list[int]]) -> None:
    (folder / "ingested").mkdir(exist_ok=True)
    (folder / "ingested" / f"{corpus}.json").write_text(json.dumps({"corpus": corpus, "coverage": coverage}))


def test_a_manifest_is_shown_by_corpus_and_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row("1", "test", "sad"), row("2", "train", "sad"), row("3", "train", "happy")]
    show(write_table(tmp_path / "a.parquet", rows))
    assert capsys.readouterr().out == (
        "corpus  split  hours  speakers  utterances\n"
        "acting  train   3.00         2           2\n"
        "acting  test    1.50         1           1\n"
        "\n"
        "corpus  split  happy  sad\n"
        "acting  train      1    1\n"
        "acting  test       0    1\n"
    )


def test_a_manifest_without_splits_and_emotions_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(write_table(tmp_path / "a.parquet", [row("1", None, None, "reading")]))
    out = capsys.readouterr().out
    assert "reading  none yet   1.50         1           1" in out
    assert len(out.splitlines()) == 2


def test_several_corpora_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("1", "train", "sad"), row("2", "train", None), row("3", "train", "sad", "plays"),
        row("4", "test", None, "reading"),
    ]  # fmt: skip
    show(write_table(tmp_path / "a.parquet", rows))
    assert capsys.readouterr().out == (
        "corpus   split  hours  speakers  utterances\n"
        "acting   train   3.00         2           2\n"
        "plays    train   1.50         1           1\n"
        "reading  test    1.50         1           1\n"
        "all      train   4.50         3           3\n"
        "all      test    1.50         1           1\n"
        "\n"
        "corpus  split  sad  none\n"
        "acting  train    1     1\n"
        "plays   train    1     0\n"
        "all     train    2     1\n"
    )


def test_what_lies_beside_a_manifest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_table(tmp_path / "emotion.parquet", [row("1", "train", None), row("2", "train", None, "plays")])
    refused = [refusal("acting", "silent"), refusal("acting", "no-file"), refusal("acting", "no-file")]
    write_table(tmp_path / "acting.quarantine.parquet", refused, quarantine.SCHEMA)
    write_summary(tmp_path, "acting", {"clips": [1080, 1440], "speakers": [18, 24], "calm": [96, 96]})
    write_summary(tmp_path, "plays", {"clips": [1, 1]})
    show(file)
    assert capsys.readouterr().out.partition("\n\n")[2] == (
        "corpus  coverage\n"
        "acting  incomplete: clips 1,080 of 1,440, speakers 18 of 24\n"
        "plays   complete\n"
        "\n"
        "corpus  quarantined  reasons\n"
        "acting            3  no-file 2, silent 1\n"
    )


def test_what_lies_beside_a_manifest_under_another_name_than_its_corpus_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_table(tmp_path / "mine.parquet", [row("1", "train", None)])
    write_table(tmp_path / "mine.quarantine.parquet", [], quarantine.SCHEMA)
    show(file)
    assert capsys.readouterr().out.endswith("corpus  quarantined  reasons\nacting            0\n")


def test_a_broken_summary_is_told(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", [row("1", "train", None)])
    write_summary(tmp_path, "acting", {})
    show(file)
    for broken in ('{"corpus"', "[]", '{"coverage": {"clips": 3}}'):
        (tmp_path / "ingested/acting.json").write_text(broken)
        with pytest.raises(UserError, match=r"acting\.json: not a summary of ingest; run ingest again"):
            show(file)


def test_other_tables_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blank = dict.fromkeys(continuations.SCHEMA.names)
    rows = [{**blank, "finish_reason": reason} for reason in ("length", "stop", "stop")]
    show(write_table(tmp_path / "a.parquet", rows, continuations.SCHEMA))
    assert (
        capsys.readouterr().out
        == "finish reason  rows\nstop              2\nlength            1\nall               3\n"
    )
    show(write_table(tmp_path / "b.parquet", [], quarantine.SCHEMA))
    assert capsys.readouterr().out == "reason  rows\nall        0\n"
    kinds = [{**dict.fromkeys(leaks.SCHEMA.names), "kind": "speaker"}]
    show(write_table(tmp_path / "c.parquet", kinds, leaks.SCHEMA))
    assert capsys.readouterr().out == "kind     rows\nspeaker     1\nall         1\n"


def test_excluded_rows_are_shown_by_corpus_and_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = manifest.SCHEMA.append(pa.field("reason", pa.string()))
    show(write_table(tmp_path / "a.parquet", [{**row("1", "train", "calm"), "reason": "not a class: calm"}], schema))
    out = capsys.readouterr().out
    assert "acting  train     1" in out
    assert out.endswith("reason             rows\nnot a class: calm     1\nall                   1\n")
    show(write_table(tmp_path / "b.parquet", [], schema))
    assert capsys.readouterr().out == "reason  rows\nall        0\n"


def test_json_holds_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_table(tmp_path / "acting.parquet", [row("1", "train", "sad"), row("2", None, None)])
    write_table(tmp_path / "acting.quarantine.parquet", [refusal("acting", "silent")], quarantine.SCHEMA)
    write_summary(tmp_path, "acting", {"clips": [3, 3]})
    show(file, as_json=True)
    group = {"corpus": "acting", "utterances": 1, "hours": 1.5, "speakers": 1}
    assert json.loads(capsys.readouterr().out) == {
        "file": str(file),
        "groups": [
            {**group, "split": "train", "emotions": {"sad": 1}},
            {**group, "split": None, "emotions": {"none": 1}},
        ],
        "coverage": {"acting": {"clips": [3, 3]}},
        "quarantined": {"acting": {"silent": 1}},
        "reason_column": None,
        "reasons": {},
        "packed": [],
    }


def test_twelve_corpora_with_thirteen_emotions_fit_on_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.tables.emotions import EMOTIONS

    corpora = [*(f"corpus-{i:02}" for i in range(11)), "a-corpus-whose-name-is-much-too-long-for-a-table"]
    rows = [
        row(f"{corpus}-{i}", split, emotion, corpus)
        for corpus in corpora
        for split in manifest.SPLITS
        for i, emotion in enumerate(EMOTIONS)
    ]
    show(write_table(tmp_path / "a.parquet", rows))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("all ") for line in lines) == 3 * 4  # sizes, and emotions in three blocks


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("hello")
    with pytest.raises(UserError, match=r"a\.yaml: not a Parquet file"):
        show(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="lacks the column corpus; found other"):
        show(write_table(tmp_path / "b.parquet", [{"other": "x"}], pa.schema([("other", pa.string())])))


def test_the_help_lists_the_stages_and_commands_that_there_are() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for name, does in STAGES.items():
        assert any(line.split() == ["python", "-m", f"pipeline.{name}", *does.split()] for line in text.splitlines())
        assert importlib.util.find_spec(f"pipeline.{name}") is not None
    assert [line.split()[0] for line in text.partition("Commands:\n")[2].splitlines()] == list(COMMANDS)
    assert "..." not in text.partition("Commands:\n")[2]


@pytest.mark.parametrize("command", ["", "show", "sample", "diff", "quarantine", "export", "import", "compare"])
def test_help_fits_on_a_screen(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= WIDTH


@pytest.mark.parametrize("command", ["leaks", "download"])
def test_a_stage_that_is_a_command_tells_its_own_options(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: root {command} [OPTIONS]")


def test_starting_loads_no_library_of_a_command() -> None:
    heavy = {"numpy", "pandas", "pyarrow", "pydantic", "torch", "dvc", "soundfile"}
    code = f"import sys, pipeline.__main__; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_packed_folder_is_shown_by_split(packed_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(packed_folder)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["corpus", "train", "0.00", "2", "12"] in lines
    assert ["corpus", "train", "6", "6"] in lines
    assert ["train", "12", "12"] in [line[:3] for line in lines]
    assert ["dev", "4", "3"] in [line[:3] for line in lines]


def test_a_folder_that_is_not_packed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found no packed split; expected a folder"):
        show(tmp_path)
