"""The command that writes a training clip before and after augmentation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from typer.testing import CliRunner

from pipeline.audio import mono_16k
from pipeline.stage import UserError
from pipeline.tables import packed
from tests.builders import emotion_fit_section, semantic_fit_section
from train.__main__ import app
from train.commands.hear import main

EFFECTS: dict[str, Any] = {
    "room": None,
    "noise": {"probability": 1.0, "folder": None, "min_snr_db": 20.0, "max_snr_db": 20.0},
    "telephone": None,
    "gain": {"probability": 1.0, "min_db": 40.0, "max_db": 40.0},
    "polarity": None,
    "speed": {"probability": 1.0, "min_factor": 0.8, "max_factor": 0.8},
}


@pytest.fixture
def params_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Return a function that writes parameters with this augmentation of stage 1."""

    def write(augment: Any) -> Path:
        fit = {"semantic": semantic_fit_section(augment=augment), "emotion": emotion_fit_section()}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"fit": fit}))
        return tmp_path / "params.yaml"

    return write


def test_both_clips_are_written_and_each_effect_is_a_line(
    packed_folder: Path, tmp_path: Path, params_file: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(packed_folder, "corpus/train-4", 2, tmp_path / "heard", params_file=params_file(EFFECTS))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "corpus/train-4 (epoch 2, seed 1, 0.75 s)"
    assert lines[1] == "  speed      0.800, which makes it 0.94 s long"
    assert lines[2].split(",")[1] == " 20.0 dB below the speech"
    assert lines[3] == "  gain       +40.0 dB"
    assert lines[4].startswith("  level      lowered by ")
    before, after = (tmp_path / "heard" / f"corpus_train-4.{name}.wav" for name in ("before", "epoch-2"))
    assert lines[5:] == [f"before     {before}", f"after      {after}"]
    row = packed.load(packed_folder, "train")[4]
    samples, rate = soundfile.read(before, dtype="float32")
    assert rate == mono_16k.SAMPLE_RATE_HZ
    assert np.array_equal(samples, mono_16k.decode(row["audio"]["bytes"]))
    assert len(soundfile.read(after)[0]) == round(row["num_samples"] / 0.8)


def test_json_has_what_was_drawn(
    packed_folder: Path, tmp_path: Path, params_file: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(packed_folder, "corpus/train-0", 0, tmp_path, as_json=True, params_file=params_file("emotion-safe"))
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["epoch"], found["seed"]) == ("corpus/train-0", 0, 1)
    assert found["duration_s"] == found["augmented_duration_s"] == 0.5
    assert set(found["drawn"]) <= {*EFFECTS, "level"}
    assert Path(found["before"]).is_file()
    assert Path(found["after"]).is_file()


def test_an_epoch_without_an_effect_says_so(
    packed_folder: Path, tmp_path: Path, params_file: Callable[[Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(packed_folder, "corpus/train-0", 0, tmp_path, params_file=params_file(dict.fromkeys(EFFECTS)))
    assert "  no effect was drawn in this epoch" in capsys.readouterr().out.splitlines()
    before, after = sorted(tmp_path.glob("*.wav"))
    assert before.read_bytes() == after.read_bytes()


def test_a_row_that_is_not_trained_on_and_a_missing_augmentation_are_told(
    packed_folder: Path, tmp_path: Path, params_file: Callable[[Any], Path]
) -> None:
    with pytest.raises(UserError, match=r"found no train row corpus/dev-0; expected the id of one, as only these"):
        main(packed_folder, "corpus/dev-0", 0, tmp_path, params_file=params_file("emotion-safe"))
    message = r"params\.yaml: fit\.semantic\.augment: found none, expected a preset such as emotion-safe, or effects$"
    with pytest.raises(UserError, match=message):
        main(packed_folder, "corpus/train-0", 0, tmp_path, params_file=params_file("none"))


def test_the_command_is_listed() -> None:
    assert "hear" in CliRunner().invoke(app, ["--help"]).output
