"""What a killed run keeps, and how often a clip is encoded."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from evaluate.asking.finished import CODE, FinishedBatches
from evaluate.asking.processes import ask_all
from evaluate.respond.clip_embeddings import ClipEmbeddings
from pipeline.params import Alignment
from tests.builders import write_packed
from tests.evaluate.respond.runs import run
from train.model import SpeechLLM

EMOTIONS = ["sad", "happy"]
PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[str]:
    """Let the stage end after it has kept `count` batches; return the names of the batches that it keeps."""
    written: list[str] = []
    write = FinishedBatches.write

    def counted(self: FinishedBatches, task: str, number: int, answers: list[Any]) -> None:
        if len(written) == count:
            raise KeyboardInterrupt
        write(self, task, number, answers)
        written.append(f"{task}-{number}")

    monkeypatch.setattr(FinishedBatches, "write", counted)
    return written


TASKS = {"clips": 3, "dev clips": 2, "silence": 1, "transcripts": 3, "examples": 2}
BATCHES = {  # of three rows
    "emotion": [
        *(f"{task}-{i}" for task, count in TASKS.items() for i in range(count)),
    ],
    "semantic": [f"clips-{i}" for i in range(3)],
}


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_a_run_that_was_killed_answers_only_what_is_missing(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, kind: Alignment, monkeypatch: Any
) -> None:
    expected = run(kind, packed_folder, model_path, tmp_path / "whole", params_file)
    for killed_after in range(0, len(BATCHES[kind]), 2):
        output = tmp_path / f"{killed_after}"
        with monkeypatch.context() as patch:
            first = stop_after(patch, killed_after)
            with pytest.raises(KeyboardInterrupt):
                run(kind, packed_folder, model_path, output, params_file)
        assert not output.exists()
        with monkeypatch.context() as patch:
            second = stop_after(patch, 100)
            found = run(kind, packed_folder, model_path, output, params_file)
        assert [*first, *second] == BATCHES[kind]
        assert found == expected
        assert {path.name for path in tmp_path.glob(".*")} == set()


def test_answers_of_another_model_prompt_or_setting_are_not_used(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    values = yaml.safe_load(params_file.read_text())
    other_prompt = {"prompts": values["prompts"] | {"recognition": PROMPT | {"speech": "listen: "}}}
    other_setting = {"respond": values["respond"] | {"max_new_tokens": 4}}
    config = json.loads((model_path / "config.json").read_text())
    changes: list[Callable[[], object]] = [
        lambda: params_file.write_text(yaml.safe_dump(values | other_prompt)),
        lambda: params_file.write_text(yaml.safe_dump(values | other_setting)),
        lambda: (model_path / "config.json").write_text(json.dumps(config | {"seed": 4})),
        lambda: write_packed(tmp_path / "packed", seed=1),
    ]
    write_packed(tmp_path / "packed")
    for change in changes:
        with monkeypatch.context() as patch:
            stop_after(patch, 4)
            with pytest.raises(KeyboardInterrupt):
                run("emotion", tmp_path / "packed", model_path, tmp_path / "out", params_file)
        change()
        with monkeypatch.context() as patch:
            written = stop_after(patch, 100)
            run("emotion", tmp_path / "packed", model_path, tmp_path / "out", params_file)
        assert written == BATCHES["emotion"]


@pytest.mark.parametrize("damage", ["cut", "changed", "renamed"])
def test_a_damaged_file_of_finished_answers_is_told_and_its_rows_are_answered_again(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, damage: str, monkeypatch: Any, capsys: Any
) -> None:
    expected = run("emotion", packed_folder, model_path, tmp_path / "whole", params_file)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run("emotion", packed_folder, model_path, tmp_path / "out", params_file)
    first, second = sorted((tmp_path / ".out.finished").glob("*/*"))
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-20])
    elif damage == "changed":
        second.write_text(second.read_text().replace("prompted", "prompter"))
    else:
        second.write_bytes(first.read_bytes())
    with monkeypatch.context() as patch:
        written = stop_after(patch, 100)
        assert run("emotion", packed_folder, model_path, tmp_path / "out", params_file) == expected
    assert written == BATCHES["emotion"][1:]
    assert f"respond: {second}: found a damaged file, expected 3 answers" in capsys.readouterr().out


def test_what_is_asked_of_all_is_planned_in_seconds_for_ten_thousand_rows(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 190, 10_000).tolist()
    batches: list[list[int]] = []

    def ask(batch: list[int]) -> list[int]:
        batches.append([lengths[number] for number in batch])
        return batch

    started = time.perf_counter()
    finished = FinishedBatches(tmp_path / "out", {})
    found = ask_all("a: b", range(10_000), 64, ask, "rows", lengths=lengths, finished=finished)
    assert time.perf_counter() - started < 5
    assert found == list(range(10_000))
    assert [length for batch in batches for length in batch] == sorted(lengths, reverse=True)
    assert sum(64 * batch[0] - sum(batch) for batch in batches[:-1]) < 0.02 * sum(lengths)  # padding


def test_each_clip_is_encoded_once_as_long_as_memory_lasts() -> None:
    asked: list[list[int]] = []

    def encode(rows: list[int]) -> list[torch.Tensor]:
        asked.append(rows)
        return [torch.full((2, 1), float(row)) for row in rows]

    embeddings = ClipEmbeddings(encode, [[0, 3], [1], [2]], max_bytes=3 * 8)
    assert [int(clip[0, 0]) for clip in embeddings([0, 1, 0, 3])] == [0, 1, 0, 3]
    assert asked == [[0, 3], [1]]
    embeddings([3])
    embeddings([2])  # in place of clip 1, which was needed longest ago
    embeddings([0, 2])
    assert asked[2:] == [[2]]
    embeddings([1])
    assert asked[3:] == [[1]]


def test_each_clip_is_encoded_once_by_each_stage(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    encoded: list[int] = []
    encode = SpeechLLM.encode

    def counted(self: SpeechLLM, features: Any, num_frames: torch.Tensor, clips: Any = None, *more: Any) -> Any:
        encoded.extend(num_frames.tolist())
        return encode(self, features, num_frames, clips, *more)

    monkeypatch.setattr(SpeechLLM, "encode", counted)
    run("semantic", packed_folder, model_path, tmp_path / "semantic", params_file)
    assert len(encoded) == len(set(encoded)) == 7
    encoded.clear()
    run("emotion", packed_folder, model_path, tmp_path / "emotion", params_file)
    assert len(encoded) == 8 + 4 + 4 + 3  # the examples again, the dev clips, and silence of three lengths
    assert len(set(encoded)) == 8 + 3


def test_the_code_of_the_key_is_that_of_the_stage_in_dvc_yaml(root: Path) -> None:
    deps = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]["respond-emotion"]["deps"]
    code = [dep for dep in deps if dep.split("/")[0] in ("pipeline", "train", "evaluate")]
    lacking = {dep for dep in code if not any(dep == place or dep.startswith(f"{place}/") for place in CODE)}
    assert lacking == {
        *(f"{package}/__init__.py" for package in ("pipeline", "pipeline/tables", "train", "evaluate")),
        "pipeline/params.py", "pipeline/progress.py", "pipeline/stage.py", "pipeline/tables/hashed_file.py",
        "pipeline/tables/parquet.py", "train/launch.py", "evaluate/predictions.py",
            "evaluate/table_checks.py",
    }  # fmt: skip
