"""The command that lists protocols, shows one, and prints the parameters of a fold."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evaluate.__main__ import app
from evaluate.protocols.definition import load_protocol, names
from pipeline.stage import UserError

FOLD = ["protocols", "show", "iemocap-loso-4", "--fold"]


def call(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def refuse(message: str, *arguments: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_list_names_corpus_classes_rows_and_source() -> None:
    lines = call("protocols").splitlines()
    assert len(lines) == 1 + len(names())
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.startswith("iemocap-loso-4")).split() == [
        "iemocap-loso-4", "iemocap", "4", "5,531", "5", "folds,", "10", "speakers", "EmoBox"
    ]  # fmt: skip
    assert [each["name"] for each in json.loads(call("protocols", "--json"))] == names()


def test_one_is_shown_with_counts_folds_and_published_figures() -> None:
    shown = " ".join(call("protocols", "show", "iemocap-loso-4").split())
    assert "neutral 1,708, sad 1,084, angry 1,103, happy 1,636" in shown
    assert "fold session-5 Ses05F, Ses05M" in shown
    assert "wa 69.07 %, EmoBox leaderboard" in shown
    found = json.loads(call("protocols", "show", "iemocap-loso-4", "--json"))
    assert found == load_protocol("iemocap-loso-4").model_dump()


def test_the_folds_are_listed_for_scripts() -> None:
    assert call("protocols", "folds", "iemocap-loso-4").split() == [f"session-{i}" for i in range(1, 6)]
    refuse("meld-test-7: found no folds, expected some; score tests it", "protocols", "folds", "meld-test-7")


@pytest.mark.parametrize("fold", ["2", "session-2"])
def test_the_parameters_of_a_fold_are_printed(fold: str) -> None:
    assert yaml.safe_load(call(*FOLD, fold)) == {
        "emotions": ["neutral", "sad", "angry", "happy"],
        "split": {"test_speakers": {"iemocap": ["Ses02F", "Ses02M"]}},
        "score": {"protocols": ["iemocap-loso-4"]},
    }
    assert yaml.safe_load(call("protocols", "show", "esd-test-5", "--fold", "1")).keys() == {"emotions", "score"}


def test_a_parameter_file_for_a_fold_differs_only_where_the_protocol_says(root: Path) -> None:
    source = root / "recipes" / "paper.yaml"
    before: dict[str, Any] = yaml.safe_load(source.read_text())
    after = yaml.safe_load(call(*FOLD, "2", "--recipe", str(source)))
    assert before["split"]["folds"].pop("iemocap") == "session-5"
    before["emotions"] = ["neutral", "sad", "angry", "happy"]
    before["split"]["test_speakers"]["iemocap"] = ["Ses02F", "Ses02M"]
    before["score"]["protocols"] = ["iemocap-loso-4"]
    assert after == before


def test_an_own_protocol_works_by_its_path_with_its_prompt_and_corpus(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = {"system": "S", "text": "T", "speech": "A"}
    own = {"name": "own-2", "about": "", "reader": "table", "corpus": "calls", "classes": ["sad", "angry"],
           "folds": {"one": ["a"]}, "headline": ["ua"], "source": "ours", "recognition_prompt": prompt}  # fmt: skip
    Path("own-2.yaml").write_text(yaml.safe_dump(own))
    assert yaml.safe_load(call("protocols", "show", "own-2.yaml", "--fold", "one")) == {
        "emotions": ["sad", "angry"],
        "prompts": {"recognition": prompt},
        "split": {"test_speakers": {"calls": ["a"]}},
        "score": {"protocols": [str(tmp_path / "own-2.yaml")]},
    }
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["ingest"]["calls"] = {"reader": "table", "root": "r", "check": "samples"}
    values["split"]["emotion"] = ["calls"]
    values["split"]["lists"] = {"calls": "folder"}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    after = yaml.safe_load(call("protocols", "show", "own-2.yaml", "--fold", "one", "--recipe", "params.yaml"))
    assert (after["prompts"]["recognition"], after["prompts"]["emotion"]) == (prompt, values["prompts"]["emotion"])
    assert (after["split"]["test_speakers"], after["split"]["lists"]) == ({"calls": ["a"]}, {})


def test_mistakes_are_one_line(root: Path, tmp_path: Path) -> None:
    refuse("protocols show: found no protocol, expected one of aesdd-zeroshot", "protocols", "show")
    refuse("--recipe: found a.yaml without --fold", "protocols", "show", "iemocap-loso-4", "--recipe", "a.yaml")
    refuse("iemocap-loso-4: no fold 6; expected session-1", *FOLD, "6")
    small = str(root / "recipes" / "real-small.yaml")
    refuse(
        f"expected one corpus of the reader iemocap under ingest in {small}, found none", *FOLD, "1", "--recipe", small
    )
    values = yaml.safe_load((root / "recipes" / "paper.yaml").read_text())
    values["split"]["emotion"].remove("iemocap")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    refuse("split.emotion: found no iemocap, expected it for", *FOLD, "1", "--recipe", str(tmp_path / "r.yaml"))
