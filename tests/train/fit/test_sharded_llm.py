"""Training in two processes, with a whole or a divided LLM, equals training in one."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file
from torch import Tensor

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams
from tests.backbones import BACKBONES, SMALL
from tests.builders import semantic_fit_section
from tests.exact_runs import ExactRun, run_in_processes
from train.fit import run
from train.fit.params import SemanticFitParams
from train.fit.run import RunFolders
from train.fit.sharded_llm import divisible
from train.model.checkpointed_layers import decoder_layers

EXACT = 1e-9
SHARDED = {"shard_llm": True}
CASES: dict[str, dict[str, Any]] = {
    "semantic tied": {"layout": "packed"},
    "semantic untied": {"layout": "padded", "changes": {"checkpoint_layers": True}},
    "emotion tied": {"layout": "packed", "changes": {"checkpoint_layers": True}},
    "emotion untied": {"layout": "padded"},
}


class Runs:
    """The same trainings in one process and in two; the folder of a run is named by the case and a way to run it."""

    def __init__(self, folder: Path, data: Path, encoder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        for name, backbone in (("tied", BACKBONES["Qwen2.5"]), ("untied", BACKBONES["Llama"])):
            config = backbone.config(**(SMALL | backbone.more))
            assert config.tie_word_embeddings == (name == "tied")
            t.AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        self.one: dict[str, ExactRun] = {}
        for case, how in CASES.items():
            stage, head = case.split()
            init = self.one[f"semantic {head}"].model if stage == "emotion" else None
            self.one[case] = ExactRun(
                folder=folder / f"{case} one", data=data, encoder=encoder, llm=folder / head, init=init, **how
            )

    def two(self, case: str, way: str, **more: Any) -> ExactRun:
        """Return the run of a case in another folder, with other values, also of its `changes`."""
        one = self.one[case]
        changes = one.changes | more.pop("changes", {})
        return replace(one, folder=self.folder / f"{case} {way}", changes=changes, **more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, packed_folder: Path, tiny_models: ModelsParams) -> Iterator[Runs]:
    """Run all trainings; the processes start once."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = Runs(tmp_path_factory.mktemp("runs"), packed_folder, Path(tiny_models.encoder.source))
    for each in runs.one.values():
        each.run()
    bfloat16 = {"precision": "bfloat16"}
    runs.two("emotion tied", "bfloat16 one", exact=False, changes=bfloat16).run()
    runs.two("emotion untied", "stopped", stops="in a step").run()
    in_two = [runs.two(case, "whole") for case in CASES]
    in_two += [runs.two(case, "sharded", changes=SHARDED) for case in CASES]
    in_two += [
        runs.two("emotion tied", "bfloat16", exact=False, changes=bfloat16 | SHARDED),
        runs.two("emotion untied", "stopped", changes=SHARDED, stops="in an evaluation"),
        runs.two("emotion untied", "stopped", changes=SHARDED),
        runs.two("semantic untied", "stopped", changes=SHARDED, stops="in a step"),
        runs.two("emotion tied", "unreduced", reduces=False),
    ]
    run_in_processes(in_two, 2, runs.folder / "in_two.json")
    runs.two("semantic untied", "stopped", changes=SHARDED).run()
    yield runs
    torch.set_num_threads(num_threads)


def weights(of: ExactRun) -> dict[str, Tensor]:
    files = sorted(of.model.rglob("*.safetensors"))
    tensors = {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}
    assert len(tensors) > 10
    return tensors


def losses(of: ExactRun) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (of.model / "losses.jsonl").read_text().splitlines()]
    assert len(records) == 20 + 3  # steps and evaluations
    return records


def distance(found: ExactRun, expected: ExactRun) -> float:
    """Return the largest relative difference of a trained tensor or a loss."""
    tensors, of_expected = weights(found), weights(expected)
    assert tensors.keys() == of_expected.keys()
    largest = max(float((tensors[name] - tensor).norm() / tensor.norm()) for name, tensor in of_expected.items())
    for record, other in zip(losses(found), losses(expected), strict=True):
        assert record.keys() == other.keys()
        largest = max(largest, *(abs(record[key] - value) / max(abs(value), 1e-9) for key, value in other.items()))
    return largest


@pytest.mark.slow
@pytest.mark.xdist_group("sharded")  # one start of the runs serves all
@pytest.mark.parametrize("way", ["whole", "sharded"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(runs: Runs, case: str, way: str) -> None:
    one = runs.one[case]
    assert all(tensor.dtype == torch.float64 for tensor in weights(one).values())
    assert distance(runs.two(case, way), one) <= EXACT


@pytest.mark.slow
@pytest.mark.xdist_group("sharded")
@pytest.mark.parametrize(("case", "stops"), [("emotion untied", [7, 10]), ("semantic untied", [7])])
def test_a_stopped_run_goes_on_in_another_number_of_processes(runs: Runs, case: str, stops: list[int]) -> None:
    stopped = runs.two(case, "stopped")
    assert distance(stopped, runs.one[case]) <= EXACT
    assert stopped.stopped_after() == stops


@pytest.mark.slow
@pytest.mark.xdist_group("sharded")
def test_an_llm_in_bfloat16_gives_the_same_within_its_rounding(runs: Runs) -> None:
    found, expected = (runs.two("emotion tied", f"bfloat16{of}") for of in ("", " one"))
    assert {tensor.dtype for tensor in weights(found).values()} == {torch.float32}
    assert distance(found, expected) <= 1e-2
    assert distance(expected, runs.one["emotion tied"]) > EXACT


@pytest.mark.slow
@pytest.mark.xdist_group("sharded")
def test_gradients_that_stay_in_their_process_give_another_model(runs: Runs) -> None:
    assert distance(runs.two("emotion tied", "unreduced"), runs.one["emotion tied"]) > 1e-2


@pytest.mark.slow
@pytest.mark.xdist_group("sharded")
@pytest.mark.parametrize("case", CASES)
def test_a_process_holds_half_of_the_frozen_layers(runs: Runs, case: str) -> None:
    llm = t.AutoModelForCausalLM.from_pretrained(runs.one[case].llm)
    whole = sum(weight.numel() for weight in llm.parameters())
    in_layers = sum(
        weight.numel() for layer in decoder_layers(llm) for weight in divisible(layer.requires_grad_(False))
    )
    assert in_layers > whole / 2
    trained = sum(tensor.numel() for name, tensor in weights(runs.one[case]).items() if "lora" in name)
    held = int(runs.two(case, "sharded", changes=SHARDED).held.read_text())
    assert held == pytest.approx(whole - in_layers / 2 + trained, rel=1e-3)


def test_an_llm_whose_layers_are_not_found_is_refused(tiny_models: ModelsParams) -> None:
    llm = t.AutoModelForCausalLM.from_pretrained(tiny_models.llm.source)
    llm.config.num_hidden_layers = 3
    with pytest.raises(UserError, match=r"fit\.\*\.shard_llm: found true, .+ has 2 layers .+ and 3 in all"):
        decoder_layers(llm, "shard_llm")


def test_one_process_does_not_shard_and_says_so(
    tiny_models: ModelsParams, folders: RunFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SemanticFitParams.model_validate(semantic_fit_section(shard_llm=True, max_steps=1))
    run.fit(settings, tiny_models, ["sad", "happy"], folders, resume=False)
    assert "fit: semantic: shard_llm has no effect, because there is only one process\n" in capsys.readouterr().out
