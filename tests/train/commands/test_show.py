"""The command that prints a packed row as the model gets it."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from train.__main__ import app
from train.commands.show import main


@pytest.fixture
def params_file(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    values = {"models": TypeAdapter(ModelsParams).dump_python(tiny_models)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "params.yaml"


def test_a_row_is_shown_in_its_pieces_and_the_trained_ones_are_marked(
    packed_folder: Path, params_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(packed_folder, "corpus/dev-1", params_file=params_file)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "corpus/dev-1 (dev, corpus, corpus/dev-1, sad)"
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "prompt", "speech", "prompt", "response", "prompt", "transcript", "prompt", "response",
    ]  # fmt: skip
    assert [line.split()[:3] for line in lines if "trained" in line] == [["response", "3", "trained"]]
    assert "0.56 s of speech" in lines[4]


def test_json_has_the_pieces_of_both_sequences(
    packed_folder: Path, params_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(packed_folder, None, as_json=True, params_file=params_file)
    found = json.loads(capsys.readouterr().out)
    row = packed.load(packed_folder, "train")[0]
    assert found["id"] == row["id"]
    assert [piece["num_tokens"] for piece in found["student"]] == [2, row["num_speech_tokens"], 1, 3]
    assert [piece["num_tokens"] for piece in found["teacher"]] == [2, 2, 1, 3]


def test_a_row_that_is_not_there_is_told(packed_folder: Path, params_file: Path) -> None:
    with pytest.raises(UserError, match="found no row nobody; expected the id of a packed row"):
        main(packed_folder, "nobody", params_file=params_file)


def test_the_command_is_listed() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert "show" in result.output
    assert "python -m train.fit" in result.output
