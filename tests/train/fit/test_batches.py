"""Training in both layouts of a batch, and what a budget or a layout that cannot be says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, semantic_fit_section
from train.fit import run
from train.fit.params import EmotionFitParams, MixtureParams, SemanticFitParams
from train.fit.planned_rows import make_mixture
from train.fit.run import RunFolders
from train.model import SpeechLLM
from train.model_config import load_config

EMOTIONS = ["sad", "happy"]
WARM_START = {"epochs": 1, "learning_rate": 1e-3}


def semantic(changes: dict[str, Any], **more: Any) -> SemanticFitParams:
    section = semantic_fit_section(batches=batch_section(**changes), warm_start=WARM_START, **more)
    return SemanticFitParams.model_validate(section)


def emotion(changes: dict[str, Any], **more: Any) -> EmotionFitParams:
    return EmotionFitParams.model_validate(emotion_fit_section(batches=batch_section(**changes), **more))


def first_losses(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in ("step", "dev_ua")} for record in records[:2]]


@pytest.mark.parametrize(("precision", "within"), [("float32", 1e-2), ("bfloat16", 5e-2)])
def test_both_stages_start_at_the_same_losses_in_both_layouts_and_with_sizes_rounded_up(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, precision: str, within: float
) -> None:
    whole = {"max_frames": 10_000, "max_positions": 10_000}  # all rows are one batch
    losses = {}
    for layout, changes in (
        ("padded", {"layout": "padded"}),
        ("packed", {"layout": "packed"}),
        ("rounded", {"layout": "packed", "round_up": True}),
    ):
        first = replace(folders, output=tmp_path / layout / "semantic")
        second = replace(first, init=first.output, output=tmp_path / layout / "emotion")
        batches = whole | changes
        run.fit(semantic(batches, precision=precision), tiny_models, EMOTIONS, first, resume=False)
        run.fit(emotion(batches, precision=precision), tiny_models, EMOTIONS, second, resume=False)
        losses[layout] = first_losses(first.output) + first_losses(second.output)
    assert len(losses["packed"]) == len(losses["rounded"]) == 4
    for ours, rounded, padded in zip(losses["packed"], losses["rounded"], losses["padded"], strict=True):
        assert ours == pytest.approx(padded, rel=within)
        assert rounded == pytest.approx(ours, rel=1e-4 if precision == "float32" else within)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_stage_2_starts_alike_wherever_plora_acts_and_learns_something_else(
    tiny_models: ModelsParams, folders: RunFolders, tmp_path: Path, layout: str
) -> None:
    first = replace(folders, output=tmp_path / "semantic")
    run.fit(semantic({"layout": layout}, max_steps=1), tiny_models, EMOTIONS, first, resume=False)
    losses = []
    for positions in ("speech", "all"):
        second = replace(first, init=first.output, output=tmp_path / positions)
        plora = {"rank": 2, "alpha": 2, "dropout": 0.0, "targets": "all-linear", "positions": positions}
        run.fit(emotion({"layout": layout}, plora=plora), tiny_models, EMOTIONS, second, resume=False)
        assert load_config(second.output).plora_positions == positions
        losses.append([json.loads(line) for line in (second.output / "losses.jsonl").read_text().splitlines()])
    for name in ("dev_ce", "dev_emotion"):
        speech, everywhere = ([record[name] for record in each if name in record] for each in losses)
        assert everywhere[0] == pytest.approx(speech[0], rel=1e-5)
        assert everywhere[-1] != pytest.approx(speech[-1], rel=1e-5)


def test_a_layout_that_the_model_cannot_compute_is_told(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"^fit\.\*\.batches\.layout: found packed, expected padded: pad_to_30s pads each clip$"
    with pytest.raises(UserError, match=message):
        run.fit(semantic({"layout": "packed"}, pad_to_30s=True), tiny_models, EMOTIONS, folders, resume=False)
    monkeypatch.setattr("train.own_forward._packs", lambda _model, _rows: False)
    with pytest.raises(UserError, match=r"expected padded: in LlamaForCausalLM, rows of one sequence see each other$"):
        run.fit(semantic({"layout": "packed"}), tiny_models, EMOTIONS, folders, resume=False)


def test_what_only_the_packed_layout_can_do_is_told(tiny_models: ModelsParams, folders: RunFolders) -> None:
    expected = "found true, expected false, because batches.layout is padded$"
    with pytest.raises(UserError, match=rf"^fit\.\*\.batches\.round_up: {expected}"):
        run.fit(semantic({"round_up": True}), tiny_models, EMOTIONS, folders, resume=False)
    with pytest.raises(UserError, match=rf"^fit\.\*\.compile_layers: {expected}"):
        run.fit(semantic({}, compile_layers=True), tiny_models, EMOTIONS, folders, resume=False)


def test_layers_that_cannot_be_compiled_are_told(
    tiny_models: ModelsParams, folders: RunFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_model: SpeechLLM, _backend: str) -> None:
        raise RuntimeError("found no C compiler\nand more")

    monkeypatch.setattr(SpeechLLM, "compile_layers", fail)
    message = (
        r"^fit\.\*\.compile_layers: found true, expected false: layers of LlamaForCausalLM that are compiled give "
        r"RuntimeError \(found no C compiler\)$"
    )
    with pytest.raises(UserError, match=message):
        run.fit(semantic({"layout": "packed"}, compile_layers=True), tiny_models, EMOTIONS, folders, resume=False)


def test_a_row_over_the_budget_is_named(tiny_models: ModelsParams, folders: RunFolders) -> None:
    message = (
        r"corpus/train-11: found 59 encoder frames and 18 LLM positions, expected at most 56 and 100, as for all 12 "
        r"rows of train \(1 more than that\); raise max_frames and max_positions in fit\.\*\.batches$"
    )
    with pytest.raises(UserError, match=message):
        run.fit(semantic({"max_frames": 56}), tiny_models, EMOTIONS, folders, resume=False)


def test_a_mixture_repeats_a_small_corpus(packed_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = packed.load(packed_folder, "train")
    names = pa.chunked_array([["small"], ["large"] * 11])
    monkeypatch.setattr(packed.Rows, "column", lambda _rows, _name: names)
    mixture = make_mixture(rows, MixtureParams(temperature=1.0, weights={"small": 11.0}))
    assert mixture is not None
    assert mixture.describe() == "an epoch reads 12 rows: large 6 (0.55 times each), small 6 (6.00 times each)"
    assert make_mixture(rows, None) is None
    message = r"^fit\.\*\.mixture\.weights: found smal, expected corpora of .*: large, small$"
    with pytest.raises(UserError, match=message):
        make_mixture(rows, MixtureParams(temperature=1.0, weights={"smal": 2.0}))


def test_training_reads_the_mixture(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = semantic({}, epochs=1.0, mixture={"temperature": 1.0, "weights": {"corpus": 3.0}})
    run.fit(settings, tiny_models, EMOTIONS, folders, resume=False)
    assert "fit: semantic: an epoch reads 12 rows: corpus 12 (1.00 times each)" in capsys.readouterr().out


def test_spare_batches_are_told() -> None:
    assert run.spare_batches([4, 4, 2], num_processes=2) == ""
    line = run.spare_batches([4, 4, 3], num_processes=2)
    assert line.startswith(
        "1 of 12 batches have no effect, because 2 processes do not divide the batches of each step;"
    )
