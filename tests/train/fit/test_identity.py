"""The identity of a run covers the code, the libraries and the data that shape it, and reads no packed shard."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.builders import model_config, semantic_fit_section
from tests.dvc_graph import ROOT, covers, imported_files, read_stages
from train.fit import identity
from train.fit.identity import Identity, identify
from train.fit.params import SemanticFitParams

WITHOUT_EFFECT = {
    "pipeline/params.py", "pipeline/progress.py", "pipeline/prompts.py", "pipeline/stage.py",
    "pipeline/tables/emotions.py", "pipeline/tables/hashed_file.py", "pipeline/tables/parquet.py",
    "pipeline/tables/quarantine.py", "train/commit.py", "train/inference.py", "train/launch.py",
    "train/side_by_side.py", "train/step_facts.py", "train/useful_flops.py",
}  # fmt: skip
"""Code of a run that only checks parameters, starts processes, counts, prints or writes files.

A new import belongs here or to identity.CODE.
"""


def named(models: ModelsParams, data: Path, init: Path | None = None, **changes: Any) -> Identity:
    settings = SemanticFitParams.model_validate(semantic_fit_section(**changes))
    return identify(settings, model_config(models), data, init, torch.float32, is_main_process=True)


def test_all_code_that_a_run_imports_is_in_its_identity_or_known_to_have_no_effect() -> None:
    stages = [stage for stage in read_stages() if stage.module == "train.fit"]
    assert len(stages) == 2
    imported = {file for stage in stages for file in imported_files(stage) if file.name != "__init__.py"}
    rest = {str(file.relative_to(ROOT)) for file in imported if not any(covers(place, file) for place in identity.CODE)}
    assert rest == WITHOUT_EFFECT
    assert all((ROOT / place).exists() for place in identity.CODE)


def test_the_identity_names_code_data_and_libraries(tiny_models: ModelsParams, packed_folder: Path) -> None:
    found = named(tiny_models, packed_folder)
    files = {f"file {packed_folder}/train/data-00000.arrow", f"file {packed_folder}/frame.json"}
    files |= {"file pipeline/audio/mono_16k.py", "file pipeline/tables/packed.py", "file train/fit/trainer.py"}
    assert files <= found.keys()
    assert not any(name.startswith("file train/commands") for name in found)
    assert {name.removeprefix("version.") for name in found if name.startswith("version.")} == {
        "torch", *identity.LIBRARIES,
    }  # fmt: skip


def test_augmentation_adds_its_libraries(tiny_models: ModelsParams, packed_folder: Path) -> None:
    found = named(tiny_models, packed_folder, augment="emotion-safe")
    assert {f"version.{name}" for name in identity.LIBRARIES_OF_AUGMENTATION} <= found.keys()


def test_another_version_of_a_library_is_another_run(
    tiny_models: ModelsParams, packed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = named(tiny_models, packed_folder)
    monkeypatch.setattr(identity, "version", lambda name: "0.1" if name == "peft" else old[f"version.{name}"])
    installed = old["version.peft"]
    told = identity.differences(old, named(tiny_models, packed_folder))
    assert told == f'version.peft "{installed}", now "0.1"'


def test_shards_are_not_read(tiny_models: ModelsParams, packed_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(packed_folder, tmp_path / "packed")
    before = named(tiny_models, data)
    shard = data / "train" / "data-00000.arrow"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert named(tiny_models, data) == before


def test_a_shard_of_another_size_stops_the_run(tiny_models: ModelsParams, packed_folder: Path, tmp_path: Path) -> None:
    data = shutil.copytree(packed_folder, tmp_path / "packed")
    with (data / "dev" / "data-00001.arrow").open("ab") as shard:
        shard.write(b"x")
    with pytest.raises(UserError, match=r"dev/data-00001\.arrow: found [\d,]+ bytes, expected [\d,]+; .+ pack again"):
        named(tiny_models, data)


def test_stage_2_depends_on_the_weights_of_stage_1_but_not_on_what_is_told_of_its_training(
    tiny_models: ModelsParams, packed_folder: Path, tmp_path: Path
) -> None:
    for name in ("adapter.safetensors", "run.json", "losses.jsonl"):
        (tmp_path / name).write_text("1")
    before = named(tiny_models, packed_folder, tmp_path)
    (tmp_path / "run.json").write_text("2")
    (tmp_path / "losses.jsonl").write_text("2")
    assert named(tiny_models, packed_folder, tmp_path) == before
    (tmp_path / "adapter.safetensors").write_text("2")
    assert named(tiny_models, packed_folder, tmp_path) != before


def test_other_processes_get_the_identity_from_the_main_one(
    tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section())

    def other_process() -> Identity:
        config = model_config(tiny_models)
        return identify(settings, config, Path("nowhere"), None, torch.float32, is_main_process=False)

    monkeypatch.setattr(identity, "broadcast_object_list", lambda mine: [{"mine": mine}])
    assert other_process() == {"mine": [None]}
    monkeypatch.setattr(identity, "broadcast_object_list", lambda mine: [UserError("the main process stopped")])
    with pytest.raises(UserError, match="the main process stopped"):
        other_process()
