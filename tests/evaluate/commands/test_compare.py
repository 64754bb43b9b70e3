"""The command that compares two runs, or two systems of a run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.commands.compare import main
from evaluate.comparison import Difference, state_verdict
from evaluate.metrics import score_divergence, score_recognition
from evaluate.predictions import RECOGNITION_SCHEMA, read_divergence, read_recognition
from pipeline.stage import UserError
from pipeline.tables import parquet
from tests.builders import CLASSES, divergence_table, recognition_table

FOUR_CANNOT_DECIDE = "4 speakers cannot decide this: the smallest p is 0.125."

Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def write_run(
    folder: Path, change: Change = dict, gap: float = 0.05, speakers: int = 8, divergence: Change = dict
) -> Path:
    """Write the predictions of a run; a change that returns None removes a row."""
    for name, table, each in (
        ("emotion/recognition.parquet", recognition_table(speakers), change),
        ("semantic/divergence.parquet", divergence_table(gap, speakers), divergence),
    ):
        rows = [changed for row in table.to_pylist() if (changed := each(row)) is not None]
        parquet.write(parquet.from_rows(rows, table.schema), folder / name)
    return folder


def run(capsys: pytest.CaptureFixture[str], a: Path, b: Path | None = None, **options: Any) -> list[dict[str, Any]]:
    main(a, b, **options, as_json=True)
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["comparisons"]
    return found


def head_is_right(row: dict[str, Any]) -> dict[str, Any]:
    """The head recognises each clip, but not those of one speaker."""
    of_head = row["system"] == "head" and row["speaker"] != "acted/0"
    return row | {"predicted": row["emotion"]} if of_head else row


def test_two_runs_are_compared_in_the_systems_that_use_the_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", head_is_right)
    found = run(capsys, a, b)
    assert [one["a"] for one in found] == [f"{a}: {name}" for name in ("head", "logprob", "prompted", "after")]
    assert [one["b"] for one in found] == [f"{b}: {name}" for name in ("head", "logprob", "prompted", "after")]
    head, logprob = found[0], found[1]
    assert (head["corpus"], head["clips"], head["speakers"], head["smallest_p"]) == ("acted", 80, 8, 2 / 2**8)
    assert [one["score"] for one in head["scores"]] == ["ua", "wa", "macro_f1", "weighted_f1"]
    of_head = [row for row in recognition_table(8).to_pylist() if row["system"] == "head"]
    truth = [row["emotion"] for row in of_head]
    for side, changed in (("a", of_head), ("b", [head_is_right(row) for row in of_head])):
        predicted = [row["predicted"] or "" for row in changed]
        expected = sklearn_metrics.recall_score(truth, predicted, labels=CLASSES, average="macro", zero_division=0)
        assert head["scores"][0][side] == pytest.approx(expected)
    # seven speakers prefer B and the eighth does not differ: four of 2^8 swaps are as extreme
    assert head["scores"][0]["p"] == 4 / 2**8
    assert head["scores"][0]["low"] > 0
    assert head["verdict"] == "B has a higher unweighted accuracy than A (p 0.0156)."
    assert logprob["scores"][0]["difference"] == 0
    assert logprob["verdict"] == "No difference in unweighted accuracy was shown (p 1)."


def test_the_weighted_accuracy_is_compared_as_in_the_textbook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = run(capsys, write_run(tmp_path / "a"), systems="transcript_logprob,logprob", margin=0.3)
    right: dict[str, dict[str, list[bool]]] = {}
    for row in recognition_table(8).to_pylist():
        of_system = right.setdefault(row["system"], {})
        of_system.setdefault(row["speaker"], []).append(row["predicted"] == row["emotion"])
    a, b = (
        np.array([np.mean(values) for values in right[name].values()]) for name in ("transcript_logprob", "logprob")
    )
    wa = found["scores"][1]
    assert (wa["a"], wa["b"]) == pytest.approx((a.mean(), b.mean()))
    interval = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (wa["low"], wa["high"]) == pytest.approx((interval.low, interval.high))
    flips = stats.permutation_test((a, b), lambda a, b: (b - a).mean(), permutation_type="samples", n_resamples=np.inf)
    assert wa["p"] == pytest.approx(flips.pvalue)
    assert wa["equivalence_p"] == pytest.approx(stats.ttest_1samp(b - a, -0.3, alternative="greater").pvalue)


def test_the_kl_is_compared_in_tokens_and_less_is_called_lower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", divergence=lambda row: row | {"kl": row["kl"] - 0.5})
    (found,) = run(capsys, a, b, systems="after")
    (kl,) = found["scores"]
    rows = [row for row in divergence_table(0.05, 8).to_pylist() if row["condition"] == "after"]
    expected = np.average([row["kl"] for row in rows], weights=[row["num_tokens"] for row in rows])
    assert (kl["a"], kl["difference"], kl["low"]) == pytest.approx((expected, -0.5, -0.5))
    assert found["verdict"] == "B has a lower KL than A (p 0.00781)."


def of_large_speaker(row: dict[str, Any]) -> dict[str, Any]:
    """The clips of three speakers are those of one."""
    corpus, number = row["speaker"].split("/")
    return row | {"speaker": f"{corpus}/large" if int(number) < 3 else row["speaker"]}


def test_the_interval_of_the_kl_is_that_of_the_gap_in_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, divergence=of_large_speaker)
    (found,) = run(capsys, folder, systems="after,shuffled")
    scores = score_divergence(read_divergence(folder / "semantic/divergence.parquet"), 0.95)
    gap = scores["continuation_kl_libri"]["hearing"]
    (kl,) = found["scores"]
    expected = (gap["gap"], gap["gap_low"], gap["gap_high"])
    assert (kl["difference"], kl["low"], kl["high"]) == pytest.approx(expected, abs=1e-6)


def test_the_difference_from_a_system_that_is_never_right_has_the_interval_of_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a", lambda row: of_large_speaker(row) | {"predicted": None})
    b = write_run(tmp_path / "b", of_large_speaker)
    (found,) = run(capsys, a, b, systems="head")
    rows = read_recognition(b / "emotion/recognition.parquet", CLASSES)
    head = score_recognition(rows, CLASSES, 0.95).metrics["emotion_acted"]["head"]
    ua, expected = found["scores"][0], (head["ua"], head["ua_low"], head["ua_high"])
    assert (ua["difference"], ua["low"], ua["high"]) == pytest.approx(expected, abs=1e-6)


def test_rows_without_a_wrong_clip_are_left_out_of_a_control(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        return None if row["id"] == "libri/3" and row["condition"] == "shuffled" else row

    (found,) = run(capsys, write_run(tmp_path, divergence=change), systems="after,shuffled")
    assert found["clips"] == 39
    none = write_run(tmp_path / "none", divergence=lambda row: None if row["condition"] == "shuffled" else row)
    with pytest.raises(UserError, match="found no clips that both after and shuffled have"):
        main(none, systems="after,shuffled")


def test_rows_are_matched_by_id_whatever_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", head_is_right)
    expected = run(capsys, a, b, systems="head")
    path = b / "emotion/recognition.parquet"
    table = parquet.read(path, RECOGNITION_SCHEMA)
    parquet.write(table.take([*reversed(range(table.num_rows))]), path)
    assert run(capsys, a, b, systems="head") == expected


def test_each_corpus_is_compared_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"corpus": "acted" if row["speaker"] < "acted/3" else "other"}

    a, b = write_run(tmp_path / "a", change), write_run(tmp_path / "b", lambda row: head_is_right(change(row)))
    found = run(capsys, a, b, systems="head")
    assert [(one["corpus"], one["clips"], one["speakers"]) for one in found] == [("acted", 30, 3), ("other", 50, 5)]
    assert [one["smallest_p"] for one in found] == [2 / 2**3, 2 / 2**5]


@pytest.mark.parametrize(
    ("speakers", "least"), [(1, "1 speaker cannot decide this: the smallest p is 1."), (4, FOUR_CANNOT_DECIDE)]
)
def test_few_speakers_cannot_decide(
    speakers: int, least: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_run(tmp_path / "a", speakers=speakers), write_run(tmp_path / "b", head_is_right, speakers=speakers)
    (found,) = run(capsys, a, b, systems="head")
    assert found["verdict"] == least
    assert (found["scores"][0]["low"] is None) == (speakers == 1)


def test_a_margin_adds_equivalence_to_the_verdict() -> None:
    values: dict[str, Any] = {"score": "ua", "a": 0.5, "b": 0.51, "difference": 0.01, "low": -0.01, "high": 0.03}
    near = Difference(**values, p=0.4, equivalence_p=0.03)
    expected = "No difference in unweighted accuracy was shown (p 0.4); the difference is within ±0.05 (p 0.03)."
    assert state_verdict(near, 12, 0.0005, 0.05) == expected
    far = Difference(**values, p=0.05, equivalence_p=0.06)
    expected = "B has a higher unweighted accuracy than A (p 0.05); "
    expected += "it was not shown that the difference is within ±0.05 (p 0.06)."
    assert state_verdict(far, 12, 0.0005, 0.05) == expected


def test_the_text_shows_the_figures_and_the_smallest_p(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(write_run(tmp_path), systems="transcript_logprob,logprob", margin=0.3)
    text = capsys.readouterr().out
    assert "80 clips of 8 speakers; their smallest possible p is 0.00781" in text
    assert re.search(r"^ua +0\.\d{3} +0\.\d{3} +-0\.\d{3} +-0\.\d{3} +-0\.\d{3} +0\.\d+ +0\.\d+$", text, re.MULTILINE)
    assert "within ±0.3" in text


def drop(*ids: str) -> Change:
    return lambda row: None if row["id"] in ids else row


@pytest.mark.parametrize(
    ("change_a", "change_b", "message"),
    [
        (
            dict,
            drop("acted/7", "acted/9"),
            r"2 only in \S+a/emotion/recognition.parquet \(acted/7, acted/9\); exp",
        ),
        (
            drop("acted/1"),
            drop(*(f"acted/{i}" for i in range(2, 10))),
            r"found 8 only in \S+/a/\S+ \(acted/2, acted/3, acted/4, …\) and 1 only in \S+/b/\S+ \(acted/1\); expected",
        ),
        (
            dict,
            lambda row: row | {"emotion": "happy"} if row["id"] == "acted/5" else row,
            "acted/5: emotion: found neutral in .* and happy in .*, expected the same",
        ),
        (dict, lambda row: row | {"speaker": "x"}, "acted/0: speaker: found acted/0 in .* and x in .*, expected"),
    ],
)
def test_rows_that_do_not_match_are_one_line(change_a: Change, change_b: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(write_run(tmp_path / "a", change_a), write_run(tmp_path / "b", change_b))


def test_other_continuations_are_one_line(tmp_path: Path) -> None:
    b = write_run(tmp_path / "b", divergence=lambda row: row | {"num_tokens": row["num_tokens"] + 1})
    with pytest.raises(UserError, match=r"libri/0: num_tokens: found 5 in .* and 6 in .*, expected the same"):
        main(write_run(tmp_path / "a"), b, systems="after")


@pytest.mark.parametrize(
    ("systems", "one_run", "message"),
    [
        (None, True, "found nothing, expected two different names if there is only one folder"),
        ("head,head", True, "found head, head, expected two different names"),
        ("head", True, "found head, expected two different names"),
        ("head,voice", False, "--systems: found voice, expected names of head, logprob, .*, shuffled"),
        ("head,after", False, "found head, after, expected one or two names, both of head, .* or both of before"),
        ("head,logprob,prompted", False, "found head, logprob, prompted, expected one or two names"),
        ("", False, "found nothing, expected one or two names"),
    ],
)
def test_unusable_systems_are_one_line(systems: str | None, one_run: bool, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(tmp_path, None if one_run else tmp_path, systems=systems)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_must_be_above_zero(margin: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--margin: found \S+, expected a number above 0"):
        main(tmp_path, systems="head,logprob", margin=margin)


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"emotion/recognition.parquet: no such file"):
        main(tmp_path, tmp_path)


def test_the_command_line_knows_the_command() -> None:
    listed = CliRunner().invoke(app, ["--help"])
    assert "compare Compare two runs" in " ".join(listed.output.split())
    shown = CliRunner().invoke(app, ["compare", "--help"])
    assert shown.exit_code == 0
    assert "--systems transcript_logprob,logprob" in shown.output


@pytest.mark.parametrize("module", ["evaluate.commands.compare", "evaluate.score.__main__", "evaluate.__main__"])
def test_score_and_compare_import_no_torch(module: str, root: Path) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
