import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline import progress
from pipeline.progress import Task, heartbeat, track

Tick = Callable[[float], None]


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Tick:
    """Let time pass; without it, time stands still."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def tick(seconds: float) -> None:
        now[0] += seconds

    return tick


def lines(captured: pytest.CaptureFixture[str]) -> list[str]:
    out, err = captured.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_log_gets_a_line_after_half_a_minute_and_then_one_a_minute(
    tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    with Task("ingest meld", 1_000) as task:
        for _ in range(200):
            tick(1)
            task.advance()
    assert lines(capsys) == [
        "ingest meld: 30 of 1,000 rows after 30 s, about 16 min left",
        "ingest meld: 90 of 1,000 rows after 2 min, about 15 min left",
        "ingest meld: 150 of 1,000 rows after 2 min, about 14 min left",
    ]


def test_a_short_task_leaves_no_line_in_a_log(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    with Task("pack", 10) as task:
        for _ in range(10):
            tick(2.9)
            task.advance()
    assert lines(capsys) == []


def test_a_line_tells_the_unit_and_the_note_and_no_end_where_the_total_is_unknown(
    tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    with Task("generate emotion", unit="answers") as task:
        tick(3 * 3600 + 5 * 60)
        task.advance(2_500, note="80 tok/s")
    assert lines(capsys) == ["generate emotion: 2,500 answers after 3 h 05 min, 80 tok/s"]


def test_the_items_pass_unchanged_and_are_counted_when_they_have_been_used(
    tick: Tick, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)

    def slowly() -> Iterator[str]:
        for item in "abc":
            tick(10)
            yield item

    assert list(itertools.islice(track(slowly(), "read", 3, "files"), 2)) == ["a", "b"]
    assert lines(capsys) == ["read: 1 of 3 files after 10 s, about 20 s left"]
    assert list(track("abc", "read")) == ["a", "b", "c"]


def test_a_terminal_sees_a_bar_and_no_lines(
    tick: Tick, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Task("filter", 4) as task:
        for _ in range(4):
            tick(100)
            task.advance(note="x")
    out, err = capsys.readouterr()
    assert out == ""
    assert "filter: 100%" in err
    assert "4/4" in err
    assert " after " not in err


def test_a_task_that_goes_on_reckons_with_what_it_did_itself(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    with Task("download", 100, "MB", initial=50) as task:
        tick(60)
        task.advance(10)
    assert lines(capsys) == ["download: 60 of 100 MB after 1 min, about 4 min left"]


def test_a_call_that_tells_nothing_has_lines_as_long_as_it_lasts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    states = iter(["1 GB so far", "2 GB so far"])
    enough = threading.Event()

    def state() -> str:
        if (said := next(states, "")) == "":
            enough.set()
        return said

    with heartbeat("models: downloading llm", state):
        assert enough.wait(10)
    count = threading.active_count()
    told = lines(capsys)
    assert told[:2] == ["models: downloading llm: 0 s, 1 GB so far", "models: downloading llm: 0 s, 2 GB so far"]
    assert set(told[2:]) <= {"models: downloading llm: 0 s"}
    with pytest.raises(ZeroDivisionError), heartbeat("divide"):
        1 // 0  # noqa: B018
    assert threading.active_count() == count


def test_the_bar_ends_with_a_task_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ZeroDivisionError):
        list(track((1 // n for n in (1, 0)), "divide", 2))
    assert capsys.readouterr().err.endswith("\n")
