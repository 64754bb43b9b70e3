import errno
import sys
from pathlib import Path

import pytest

from pipeline.progress import track
from pipeline.stage import UserError, printable, run_app, say

pytestmark = pytest.mark.usefixtures("bars")

HOSTILE = "a\x1b[31mb\x07c\x9bd\u202ee\ud83d\u2028f\x7f\r"


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave tqdm as it is: run_app changes it for the whole process."""
    monkeypatch.setattr("pipeline.stage._hide_bars_in_logs", lambda: None)


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable(HOSTILE) == "a\\u001b[31mb\\u0007c\\u009bd\\u202ee\\ud83d\\u2028f\\u007f\\u000d"
    assert printable("Grüße, 你好 😀\t1\n2") == "Grüße, 你好 😀\t1\n2"


def test_lines_and_errors_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError(f"x: found {HOSTILE}")

    say(HOSTILE)
    with pytest.raises(SystemExit, match="1"):
        run_app(fail)
    printed = capsys.readouterr()
    assert "\\u001b[31m" in printed.out
    assert "\\u001b[31m" in printed.err
    assert all(character == "\n" or character.isprintable() for character in printed.out + printed.err)


def test_the_name_of_a_task_is_printed_without_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.FIRST_LINE_S", 0.0)
    list(track([1], "x\x1b[31m"))
    assert "\x1b[31m" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOSPC, errno.EACCES])
def test_what_a_disk_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(number, "Some Reason", "some/path")

    with pytest.raises(SystemExit, match="1"):
        run_app(fail)
    assert capsys.readouterr().err == "error: some/path: some reason\n"


def test_an_output_with_a_long_name_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.ingest.__main__ import main
    from pipeline.stage import run_stage

    (tmp_path / "mapping.yaml").write_text("language: en\nlicence: CC0-1.0\ntable: c.csv\n")
    (tmp_path / "c.csv").write_text("audio,speaker\na.wav,s\n")
    output = tmp_path / f"{'a' * 300}.parquet"
    monkeypatch.setattr(sys, "argv", ["ingest", "--reader", "table", "--root", str(tmp_path), "--output", str(output)])
    with pytest.raises(SystemExit, match="1"):
        run_stage(main)
    assert capsys.readouterr().err == f"error: {output}: file name too long\n"
