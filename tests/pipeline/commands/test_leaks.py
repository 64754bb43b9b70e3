from pathlib import Path

import pytest

from pipeline.commands import leaks
from pipeline.stage import UserError
from tests.builders import LeaksProject


@pytest.fixture
def project(tmp_path: Path) -> LeaksProject:
    return LeaksProject(tmp_path)


def test_the_table_fits_80_columns_and_leaves_blank_what_is_unknown(
    project: LeaksProject, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        project.change("acted", i, dialogue=None, text=f"text {i % 2}")
    project.change("acted", 3, speaker="acted/speaker-0")
    project.prepare(allow={"acted": ["speaker"]})
    leaks.main(*project.files, project.folder / "params.yaml")
    table = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table] == [
        ["corpus", "of", "test", "speaker", "dialogue", "sentence", "audio", "near", "audio"],
        ["acted", "1", "2", "0", "0"],
        ["read", "0", "0", "0", "0"],
        ["leaks.allow:", "speaker", "of", "acted"],
        ["not", "in", "leaks.forbid:", "sentence", "of", "acted"],
    ]
    assert max(map(len, table)) <= 80


def test_the_command_prints_and_writes_what_is_forbidden_and_then_fails(
    project: LeaksProject, capsys: pytest.CaptureFixture[str]
) -> None:
    project.change("acted", 3, speaker="acted/speaker-0")
    project.prepare()
    with pytest.raises(UserError, match=r"found 1 of kind speaker \(first acted/0 in train, acted/3 in test\)"):
        leaks.main(*project.files, project.folder / "params.yaml")
    assert "corpus of test  speaker" in capsys.readouterr().out
    assert project.report()["kind"].to_pylist() == ["speaker"]
