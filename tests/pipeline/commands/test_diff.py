import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.commands import diff
from pipeline.commands.diff import Rows, Totals
from pipeline.commands.text_tables import WIDTH
from pipeline.stage import UserError
from pipeline.tables import manifest, quarantine
from tests.builders import utterance, write_table


def clip(i: int, **values: Any) -> dict[str, Any]:
    known = {"corpus": "acting", "duration_s": 1800.0, "emotion": "sad", "split": "train"}
    return utterance(f"acting/{i}") | known | values


def test_rows_that_came_went_and_changed_are_found(tmp_path: Path) -> None:
    a = write_table(tmp_path / "a.parquet", [clip(i) for i in range(6)])
    changed = [clip(2, split="test", emotion="happy"), clip(3, emotion=None), clip(4, text="one")]
    b = write_table(tmp_path / "b.parquet", [clip(9), *reversed(changed), clip(5)])
    found = diff.compare(a, b, num_ids=2)
    assert found.added == Rows(1, ["acting/9"])
    assert found.removed == Rows(2, ["acting/0", "acting/1"])
    assert found.changed == Rows(3, ["acting/2", "acting/3"])
    assert found.unchanged == 1
    assert found.columns == {
        "text": Rows(1, ["acting/4"]),
        "emotion": Rows(2, ["acting/2", "acting/3"]),
        "split": Rows(1, ["acting/2"]),
    }
    assert found.by["corpus"] == {"acting": Totals((6, 5), (3.0, 2.5))}
    assert found.by["emotion"] == {
        "happy": Totals((0, 1), (0.0, 0.5)), "sad": Totals((6, 3), (3.0, 1.5)), "none": Totals((0, 1), (0.0, 0.5)),
    }  # fmt: skip
    assert list(found.by["emotion"]) == ["happy", "sad", "none"]


def test_equal_tables_have_no_difference(tmp_path: Path) -> None:
    rows = [clip(i, emotion_votes=[("sad", 0.6), ("happy", 0.4)], turn=i) for i in range(5)]
    a, b = write_table(tmp_path / "a.parquet", rows), write_table(tmp_path / "b.parquet", rows[::-1])
    found = diff.compare(a, b, num_ids=3)
    assert found.unchanged == 5
    assert found.columns == {}
    assert found.added == found.removed == found.changed == Rows(0, [])


def test_votes_are_compared(tmp_path: Path) -> None:
    votes = [[("sad", 1.0)], [("sad", 1.0)], None, None]
    other = [[("sad", 1.0)], [("sad", 0.5), ("happy", 0.5)], [("sad", 1.0)], None]
    a = write_table(tmp_path / "a.parquet", [clip(i, votes=vote) for i, vote in enumerate(votes)])
    b = write_table(tmp_path / "b.parquet", [clip(i, votes=vote) for i, vote in enumerate(other)])
    assert diff.compare(a, b, num_ids=3).columns == {"votes": Rows(2, ["acting/1", "acting/2"])}


def test_tables_of_different_versions_are_compared_in_what_both_have(tmp_path: Path) -> None:
    names = [name for name in manifest.SCHEMA.names if name not in ("dialogue", "turn")]
    old = pa.schema([manifest.SCHEMA.field(name) for name in names]).append(pa.field("turn", pa.string()))
    rows = [{name: clip(i)[name] for name in names} for i in range(2)]
    a = write_table(tmp_path / "a.parquet", [{**rows[0], "turn": "1"}, {**rows[1], "turn": None}], old)
    b = write_table(tmp_path / "b.parquet", [clip(0, turn=1), clip(1)])
    found = diff.compare(a, b, num_ids=3)
    assert (found.only_in_a, found.only_in_b) == ([], ["dialogue"])
    assert found.columns == {"turn": Rows(1, ["acting/0"])}
    assert diff.describe(found).endswith("only in  columns\nB        dialogue")


def test_quarantines_are_compared_though_an_id_is_there_twice(tmp_path: Path) -> None:
    def refusal(i: int, reason: str) -> dict[str, str]:
        return {"id": f"acting/{i}", "corpus": "acting", "audio": f"{i}.wav", "reason": reason, "detail": ""}

    before = [refusal(1, "silent"), refusal(1, "double-id"), refusal(2, "silent")]
    a = write_table(tmp_path / "a.parquet", before, quarantine.SCHEMA)
    b = write_table(tmp_path / "b.parquet", [*before, refusal(1, "double-id")], quarantine.SCHEMA)
    found = diff.compare(a, b, num_ids=3)
    assert found.added == Rows(1, ["acting/1"])
    assert found.unchanged == 3
    assert found.by["reason"] == {"double-id": Totals((1, 2), None), "silent": Totals((2, 2), None)}
    assert diff.describe(found) == (
        f"A  {a}\nB  {b}\n"
        "\n"
        "corpus  rows A  rows B  change\n"
        "acting       3       4      +1\n"
        "\n"
        "reason     rows A  rows B  change\n"
        "double-id       1       2      +1\n"
        "silent          2       2       0\n"
        "all             3       4      +1\n"
        "\n"
        "rows       count  first ids\n"
        "added          1  acting/1\n"
        "removed        0\n"
        "changed        0\n"
        "unchanged      3"
    )


def test_a_comparison_fits_on_a_screen(tmp_path: Path) -> None:
    rows = [clip(i, id=f"corpus-{i % 12}-with-a-long-name-for-a-table/{'x' * 70}{i}") for i in range(60)]
    rows = [{**row, "corpus": row["id"].partition("/")[0], "duration_s": 3.6e6} for row in rows]
    a = write_table(tmp_path / "a.parquet", rows)
    b = write_table(tmp_path / "b.parquet", [{**row, "split": "test"} for row in rows[:40]])
    *_, text = diff.describe(diff.compare(a, b, num_ids=5)).partition("\n\n")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "hours A    hours B      change" in text
    assert "+40,000.00" in text


def test_json_holds_all_of_it(tmp_path: Path) -> None:
    a, b = (
        write_table(tmp_path / "a.parquet", [clip(0)]),
        write_table(tmp_path / "b.parquet", [clip(0, split="test"), clip(1)]),
    )
    told = json.loads(CliRunner().invoke(app, ["diff", str(a), str(b), "-n", "1", "--json"]).output)
    assert told.pop("by")["split"] == {
        "train": {"rows": [1, 1], "hours": [0.5, 0.5]},
        "test": {"rows": [0, 1], "hours": [0.0, 0.5]},
    }
    assert told == {
        "a": str(a), "b": str(b), "unchanged": 0, "only_in_a": [], "only_in_b": [],
        "added": {"rows": 1, "ids": ["acting/1"]},
        "removed": {"rows": 0, "ids": []},
        "changed": {"rows": 1, "ids": ["acting/0"]},
        "columns": {"split": {"rows": 1, "ids": ["acting/0"]}},
    }  # fmt: skip


def run(*words: str | Path) -> None:
    """Run the command, so that the user's mistakes come as UserError."""
    result = CliRunner().invoke(app, ["diff", *map(str, words)])
    if result.exception is not None:
        raise result.exception


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    a = write_table(tmp_path / "a.parquet", [clip(0)])
    with pytest.raises(
        UserError, match="HEAD~1: no such file; to compare a table at two git revisions, name it with --file"
    ):
        run("HEAD~1", a)
    with pytest.raises(UserError, match=r"b\.parquet: lacks the column id; found other"):
        run(a, write_table(tmp_path / "b.parquet", [{"other": "x"}], pa.schema([("other", pa.string())])))
    result = CliRunner().invoke(app, ["diff", str(a)])
    assert result.exit_code == 2
    assert "found one table, expected two, or one git revision and --file" in result.output


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which a manifest, an output of the graph, was committed twice and then changed."""
    folder = tmp_path_factory.mktemp("repository")
    bin_ = Path(sys.executable).parent
    who = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def call(*command: str | Path) -> None:
        env = {**os.environ, **who, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)

    def commit(rows: list[dict[str, Any]]) -> None:
        (folder / "manifests/emotion.parquet").unlink(missing_ok=True)
        write_table(folder / "manifests/emotion.parquet", rows)
        call("dvc", "commit", "--quiet", "--force")
        call("git", "add", "--all")
        call("git", "commit", "--quiet", "--message", "x")

    call("git", "init", "--quiet")
    call("dvc", "init", "--quiet")
    graph = "stages:\n  split:\n    cmd: none\n    outs: [manifests/emotion.parquet]\n"
    (folder / "dvc.yaml").write_text(graph)
    (folder / ".gitignore").write_text("/manifests\n")
    commit([clip(0), clip(1)])
    commit([clip(0), clip(1), clip(2)])
    (folder / "manifests/emotion.parquet").unlink()
    write_table(folder / "manifests/emotion.parquet", [clip(0)])
    return folder


def test_a_table_is_compared_at_two_git_revisions(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    words = ["diff", "HEAD~1", "HEAD", "--file", "manifests/emotion.parquet", "--json"]
    told = json.loads(CliRunner().invoke(app, words).output)
    assert (told["a"], told["b"]) == ("manifests/emotion.parquet at HEAD~1", "manifests/emotion.parquet at HEAD")
    assert told["added"] == {"rows": 1, "ids": ["acting/2"]}
    assert told["unchanged"] == 2


def test_a_table_is_compared_with_how_it_was_from_any_folder(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository / "manifests")
    told = json.loads(CliRunner().invoke(app, ["diff", "HEAD", "--file", "emotion.parquet", "--json"]).output)
    assert told["b"] == "emotion.parquet"
    assert told["removed"] == {"rows": 2, "ids": ["acting/1", "acting/2"]}


def test_what_git_or_dvc_does_not_have_is_told(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    file = "manifests/emotion.parquet"
    with pytest.raises(UserError, match=r"^manifests/emotion\.parquet at nowhere: unknown Git revision 'nowhere'"):
        run("nowhere", "HEAD", "--file", file)
    lost = "not in git, and not in DVC's cache as an output of the pipeline"
    with pytest.raises(UserError, match=rf"other\.parquet at HEAD~1: {lost}"):
        run("HEAD~1", "HEAD", "--file", "manifests/other.parquet")
    cache = repository / ".dvc/cache"
    cache.rename(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"emotion\.parquet at HEAD~1: {lost}"):
        run("HEAD~1", "HEAD", "--file", file)
    (tmp_path / "cache").rename(cache)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"emotion\.parquet at HEAD~1: .*not a git repository"):
        run("HEAD~1", "HEAD", "--file", file)
