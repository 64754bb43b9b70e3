"""vLLM on many machines: stand-ins for its workers on this machine, and a cluster of which a node is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from pipeline.generate.engines import choose, ray_engine
from pipeline.generate.engines.interface import Answer
from pipeline.generate.engines.ray_engine import RayEngine
from pipeline.generate.engines.ray_worker import Loaded, Numbered, Worker
from pipeline.generate.params import GenerateParams
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations
from pipeline.weights.source import ModelsParams, Weights
from tests.builders import generate_params, generate_section, read_continuations, requests, utterance, write_table

WHERE = {"address": None, "workers": 2, "num_cpus": 1, "num_gpus": 0}
DEADLY = 666


def settings(**where: object) -> GenerateParams:
    return generate_params(engine="ray", ray={**WHERE, **where})


def start_on(models: ModelsParams, params: GenerateParams) -> RayEngine:
    model = Path(models.llm.source)
    llm = choose.start(params, models.llm, model, Prompter.load(model))
    assert isinstance(llm, RayEngine)
    return llm


def test_a_section_ray_belongs_to_the_engine_ray() -> None:
    assert settings().ray is not None
    for engine_name, section in (("ray", None), ("vllm", WHERE)):
        with pytest.raises(ValidationError, match="ray to be a section if the engine is ray, and null"):
            generate_params(engine=engine_name, ray=section)
    with pytest.raises(ValidationError, match="num_gpus"):
        settings(num_gpus=2)


def test_a_machine_without_ray_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("importlib.metadata.version", find_none)
    with pytest.raises(UserError, match=r"ray is not installed; install 'ray>=2.60', or set the engine vllm"):
        choose.prepare(settings())


@pytest.mark.parametrize(
    ("address", "found"),
    [("127.0.0.1:1", "refused"), ("nowhere.invalid:6379", "not known|resolution"), ("head", "Inv")],
)
def test_a_cluster_that_does_not_answer_is_told_at_once(tiny_models: ModelsParams, address: str, found: str) -> None:
    with pytest.raises(UserError, match=rf"generate.ray.address: {address}: found .*({found}).*; expected a running"):
        start_on(tiny_models, settings(address=address))


def test_workers_load_the_commit_of_a_hub_and_a_folder_wherever_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pin(source: str, model: Path, revision: str | None = None) -> Weights:
        return ray_engine.pin(Weights(source=source, revision=revision, sha256=None), model)

    assert pin("org/llm", tmp_path / "models--org--llm" / "snapshots" / "abc", "main").revision == "abc"
    (tmp_path / "llm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert pin("llm", Path("llm")).source == str(tmp_path / "llm")


def test_a_worker_refuses_other_weights(tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.generate.engines.vllm_engine.prepare", lambda: None)
    with pytest.raises(UserError, match=r"^.+: models: /.+: found other weights \(folder \w+\), expected folder 123"):
        Worker().load(settings(), tiny_models.llm, "folder 123", [0])


class EchoWorker(Worker):
    """Answers a prompt in 20 ms with the id of its process and the prompt; dies of some."""

    def load(self, params: GenerateParams, llm: Weights, name: str, end_ids: Sequence[int]) -> Loaded:
        self._waiting: dict[int, Numbered] = {}
        return Loaded("echo 1", "none", "here")

    def exchange(self, prompts: Sequence[Numbered], dropped: Sequence[int]) -> list[tuple[int, Answer | float]]:
        self._waiting |= {prompt.number: prompt for prompt in prompts}
        for number in dropped:
            self._waiting.pop(number, None)
        answers = list[tuple[int, Answer | float]]()
        for prompt in list(self._waiting.values())[:10]:
            time.sleep(0.02)
            if prompt.ids[0] == DEADLY:
                os.kill(os.getpid(), signal.SIGKILL)
            del self._waiting[prompt.number]
            answer = Answer((os.getpid(), *prompt.ids), continuations.STOP)
            answers.append((prompt.number, -float(sum(prompt.answer)) if prompt.answer else answer))
        return answers


class BrokenWorker(EchoWorker):
    def load(self, params: GenerateParams, llm: Weights, name: str, end_ids: Sequence[int]) -> Loaded:
        raise RuntimeError("no space on the GPU\nand more")


class SeedWorker(EchoWorker):
    """Answers a prompt with its seed."""

    def exchange(self, prompts: Sequence[Numbered], dropped: Sequence[int]) -> list[tuple[int, Answer | float]]:
        return [(prompt.number, Answer((prompt.seed or 0,), continuations.STOP)) for prompt in prompts]


class MixedWorker(EchoWorker):
    def load(self, params: GenerateParams, llm: Weights, name: str, end_ids: Sequence[int]) -> Loaded:
        return Loaded(f"echo {os.getpid()}", "none", "here")


Start = Callable[..., RayEngine]


@pytest.fixture(scope="module")
def this_machine() -> Iterator[None]:
    import ray

    send_to_workers()
    ray_engine.prepare()
    yield
    ray.shutdown()


def send_to_workers() -> None:
    """Let workers have the classes of this file, which they cannot import."""
    import ray

    by_value: Any = ray.cloudpickle.register_pickle_by_value  # without annotations
    by_value(sys.modules[__name__])


@pytest.fixture
def start(this_machine: None, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch) -> Start:
    def start(worker: type[Worker] = EchoWorker, **where: object) -> RayEngine:
        monkeypatch.setattr(ray_engine, "Worker", worker)
        return start_on(tiny_models, settings(**where))

    return start


@pytest.mark.slow
def test_the_workers_share_any_number_of_prompts_evenly(start: Start) -> None:
    llm = start()
    assert re.fullmatch(r"echo 1 \(ray [\d.]+\)", llm.name)
    answers = dict(llm.generate(requests((i, 7) for i in range(400))))
    assert {position: answer.token_ids[1:] for position, answer in answers.items()} == {i: (i, 7) for i in range(400)}
    shares = [answer.token_ids[0] for answer in answers.values()]
    assert len(set(shares)) == 2
    assert min(map(shares.count, set(shares))) > 100
    assert dict(llm.generate([])) == {}
    assert dict(llm.score(((1, 2), (i, 5)) for i in range(50))) == {i: -5.0 - i for i in range(50)}


@pytest.mark.slow
def test_each_prompt_reaches_its_worker_with_its_own_seed(start: Start) -> None:
    prompts = [request for seed in range(1, 40) for request in requests([(1, 2)], seed)]
    answers = dict(start(SeedWorker).generate(prompts))
    assert answers == {i: Answer((seed,), continuations.STOP) for i, seed in enumerate(range(1, 40))}


@pytest.mark.slow
def test_a_run_that_is_given_up_leaves_nothing_to_the_next(start: Start) -> None:
    llm = start()
    run = llm.generate(requests((i,) for i in range(400)))
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert {i: answer.token_ids[1] for i, answer in llm.generate(requests((1000 + i,) for i in range(50)))} == {
        i: 1000 + i for i in range(50)
    }


@pytest.mark.slow
def test_the_prompts_of_a_lost_worker_are_answered_by_others(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    answers: list[tuple[int, Answer]] = []
    for answer in start().generate(requests((i,) for i in range(300))):
        answers.append(answer)
        if len(answers) == 50:
            os.kill(answer[1].token_ids[0], signal.SIGKILL)
    assert sorted(position for position, _ in answers) == list(range(300))
    out, err = capfd.readouterr()
    assert re.search(r"generate: worker on here lost, 1 of 2 left; [1-9]\d+ prompts go to others\n", out)
    assert all(line.startswith("generate: worker on ") for line in out.splitlines())
    assert err == ""


@pytest.mark.slow
def test_a_prompt_that_every_worker_dies_of_ends_the_run(start: Start) -> None:
    answers: list[tuple[int, Answer]] = []
    message = r"8 workers lost without an answer in between, the last one by .+; the answers so far are in the store"
    with pytest.raises(UserError, match=message):
        answers.extend(start().generate(requests([*((i,) for i in range(100)), (DEADLY,)])))
    assert len(answers) == len(dict(answers)) >= 50


@pytest.mark.slow
def test_what_keeps_a_worker_from_its_start_is_one_line(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^generate.ray: worker: no space on the GPU; the answers so far are in"):
        start(BrokenWorker)
    with pytest.raises(UserError, match=r"found echo \d+ on one machine and echo \d+ on another, expected one version"):
        list(start(MixedWorker).generate(requests((i,) for i in range(1000))))
    monkeypatch.setattr(ray_engine, "NO_ROOM_S", 1.0)
    with pytest.raises(UserError, match=r"found \d+ CPUs and 0 GPUs; expected 1 CPUs and 1 GPUs for a worker; the"):
        start(num_gpus=1)


class Cluster:
    """Nodes of Ray on this machine: one with the driver and no room for workers, three with room for one each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        memory: dict[str, Any] = {"object_store_memory": 100_000_000}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
        self._nodes = [self._cluster.add_node(num_cpus=1, **memory) for _ in range(3)]
        self.address: str = self._cluster.address

    def kill(self, node: int) -> None:
        """Kill a node and its worker at once, as a loss of power does."""
        raylet = self._nodes[node].all_processes["raylet"][0].process.pid
        for pid in (*self._children(raylet), raylet):
            os.kill(pid, signal.SIGKILL)

    def shutdown(self) -> None:
        self._cluster.shutdown()

    def _children(self, pid: int) -> list[int]:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    import ray

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    ray_engine.prepare()
    ray.shutdown()  # of what the tests before were connected with
    cluster = Cluster()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_cluster_that_is_lost_for_good_is_told_after_all_that_it_answered(
    cluster: Cluster, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_to_workers()
    monkeypatch.setattr(ray_engine, "Worker", EchoWorker)
    monkeypatch.setattr(ray_engine, "NO_ROOM_S", 6.0)
    params = settings(address=cluster.address, workers=3)
    llm = start_on(tiny_models, params)
    answered = []

    def run() -> None:
        for position, _ in llm.generate(requests((i,) for i in range(5_000))):
            answered.append(position)
            if len(answered) == 100:
                for node in range(3):
                    cluster.kill(node)

    with pytest.raises(UserError, match=r"no machine with room: found 0 CPUs and 0 GPUs; expected 1 CPUs and 0 GPUs"):
        run()
    assert len(answered) == len(set(answered)) >= 100


def write_project(folder: Path, root: Path, address: str, num_rows: int) -> None:
    """Write a manifest, and parameters by which the demo's LLM answers it."""
    demo = yaml.safe_load((root / "params.yaml").read_text())
    sections = {name: demo[name] for name in ("models", "emotions", "prompts", "filter")}
    for name, where in (("ray", {**WHERE, "address": address, "workers": 3}), ("vllm", None)):
        chosen = generate_section(engine=name, ray=where, max_new_tokens=8, rows_per_part=20)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**sections, "generate": chosen}))
    things = ("rain", "bread", "a letter", "the harbour", "my brother")
    rows = [utterance(f"{i:04}", text=f"{i} days went by without {things[i % 5]}") for i in range(num_rows)]
    write_table(folder / "manifest.parquet", rows)
    write_table(folder / "sample.parquet", rows[::20])


def run_generate(folder: Path, name: str, manifest_name: str, store: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline.generate", "--kind", "semantic", "--params", f"{name}.yaml"]
    command += ["--manifest", f"{manifest_name}.parquet", "--output", f"{name}.parquet"]
    env = {**os.environ, "BLSP_STORE": str(store)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def keys_in(store: Path) -> list[bytes]:
    shards = sorted(store.glob("continuations/*/parts/[0-9]*.parquet"))
    return [key for shard in shards for key in pq.read_table(shard)["key"].to_pylist()]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(900)
def test_a_node_that_is_killed_in_the_middle_costs_no_row_and_doubles_none(
    tmp_path: Path, root: Path, store: Path, cluster: Cluster
) -> None:
    num_rows = 400
    write_project(tmp_path, root, cluster.address, num_rows)
    process = run_generate(tmp_path, "ray", "manifest", store)
    assert process.stdout is not None
    said = [process.stdout.readline()]
    while said[-1] and "ready, 3 of 3" not in said[-1]:
        said.append(process.stdout.readline())
    while not keys_in(store) and process.poll() is None:
        time.sleep(0.1)
    cluster.kill(0)
    before = len(keys_in(store))
    out, err = process.communicate()
    said.append(out)
    assert process.returncode == 0, err
    assert all(line.startswith("generate semantic: ") for line in err.splitlines()), err  # progress alone
    assert 0 < before < num_rows
    assert re.search(r"lost, 2 of 3 left; [1-9]\d* prompts go to others\n", "".join(said))

    rows = read_continuations(tmp_path / "ray.parquet")
    assert [row["id"] for row in rows] == [f"{i:04}" for i in range(num_rows)]
    assert {row["finish_reason"] for row in rows} <= {continuations.STOP, continuations.LENGTH}
    assert len(keys_in(store)) == len(set(keys_in(store))) == num_rows

    cluster.shutdown()
    plain = run_generate(tmp_path, "vllm", "sample", tmp_path / "other")
    plain.communicate()
    assert plain.returncode == 0
    expected = read_continuations(tmp_path / "vllm.parquet")
    assert len(expected) == num_rows / 20
    assert [row["token_ids"] for row in rows[::20]] == [row["token_ids"] for row in expected]
