"""vLLM on many machines, by Ray: one worker for each GPU. This process sends them prompts and writes the store.

A worker is a Ray actor that runs vLLM. It holds thousands of prompts at a time, so that its batches stay full. About
once a second it returns its finished answers. If a worker is lost, other workers get its prompts, and a new worker
starts as soon as the cluster has room. A worker without prompts takes half of the prompts of the busiest worker.

Ray sends our code to the other machines. It does not send the LLM: each worker fetches the LLM itself. So a folder with
the LLM must have the same path on every machine. A worker with other weights stops the run.
"""

import importlib.metadata
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request
from pipeline.generate.engines.ray_worker import Loaded, Numbered, Worker
from pipeline.generate.engines.vllm_engine import IN_FLIGHT
from pipeline.generate.params import GenerateParams, RayParams
from pipeline.stage import UserError, say
from pipeline.weights.source import Weights, hub_commit, name_weights

WORTH_MOVING = 32  # a worker with fewer prompts gives none away
MAX_LOSSES = 3  # the run stops after this many losses per worker (8 or more in all) if no answer arrives in between
# longest pause before a lost worker is replaced; without a pause, Ray would choose the lost machine again
MAX_PAUSE_S = 8.0
NO_ROOM_S = 60.0  # the run ends if for this long no machine has had room for a worker

Prompt = tuple[Sequence[int], Sequence[int], int | None, str | None]
"""Token ids of a prompt, ids of the answer to score (empty for none), the seed, and the JSON schema of the answer."""

_CONNECT_S = 10.0
_POLL_S = 0.5
_GO_ON = "the answers so far are in the store; run again to go on"


@dataclass(slots=True, eq=False)
class Slot:
    """The place of a worker, and the prompts that it holds."""

    start_at: float = 0.0
    """Monotonic time before which no worker starts here."""
    actor: Any = None
    calls: list[Any] = field(default_factory=list)
    """Running calls, the oldest first. There are two, so that the worker goes on while this process reads answers."""
    host: str | None = None
    """Host of the worker; None until it has loaded the LLM."""
    held: dict[int, Numbered] = field(default_factory=dict)
    """Unanswered prompts by number."""
    dropped: list[int] = field(default_factory=list)
    """Numbers of prompts that another worker has taken over; the next call sends them to this worker."""


class RayEngine:
    """Sends prompts to the workers of a Ray cluster."""

    def __init__(
        self, params: GenerateParams, ray: RayParams, llm: Weights, model: Path, end_ids: Sequence[int]
    ) -> None:
        """Start the workers, and wait until the first one is ready."""
        _connect(ray)
        self._params = ray
        self._load = (params, pin(llm, model), name_weights(llm, model), list(end_ids))
        self._numbers = itertools.count()
        self._returned: list[Numbered] = []
        self._loaded: list[Loaded] = []
        self._num_losses, self._had_room = 0, time.monotonic()
        self._slots = [Slot() for _ in range(ray.workers)]
        while not self._loaded:
            self._collect()

    @property
    def name(self) -> str:
        """Names and versions of vLLM and Ray."""
        return f"{self._loaded[0].engine} (ray {importlib.metadata.version('ray')})"

    @property
    def hardware(self) -> str:
        """Hardware of the workers."""
        return "; ".join(sorted({loaded.hardware for loaded in self._loaded}))

    @property
    def _num_ready(self) -> int:
        return sum(slot.host is not None for slot in self._slots)

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate."""
        return self._run((request.prompt_ids, (), request.seed, request.json_schema) for request in requests)

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """See Engine.score."""
        return self._run((prompt, answer, None, None) for prompt, answer in pairs)

    def _run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Any]]:
        """Yield each prompt's position with its answer or score."""
        waiting, more = enumerate(prompts), True
        try:
            while True:
                for slot in self._slots:
                    if slot.host and len(slot.calls) < 2:
                        more &= self._send_prompts(slot, waiting)
                if not (more or self._returned or any(slot.held for slot in self._slots)):
                    return
                for prompt, given in self._collect():
                    yield prompt.position, given
        finally:
            self._returned.clear()
            for slot in self._slots:
                slot.dropped += slot.held
                slot.held.clear()

    def _send_prompts(self, slot: Slot, waiting: Iterator[tuple[int, Prompt]]) -> bool:
        """Send a worker as many prompts as it has room for; return whether there may be more."""
        room = IN_FLIGHT - len(slot.held)
        prompts, self._returned = self._returned[:room], self._returned[room:]
        new = itertools.islice(waiting, room - len(prompts))
        prompts += [Numbered(next(self._numbers), position, *prompt) for position, prompt in new]
        more = len(prompts) == room
        if not prompts and not slot.held:
            prompts = self._take_from_busiest()
        slot.held |= {prompt.number: prompt for prompt in prompts}
        if slot.held:
            slot.calls.append(slot.actor.exchange.remote(prompts, slot.dropped))
            slot.dropped = []
        return more

    def _take_from_busiest(self) -> list[Numbered]:
        """Take half of the prompts of the busiest worker, the latest ones."""
        busiest = max(self._slots, key=lambda slot: len(slot.held))
        if len(busiest.held) < WORTH_MOVING:
            return []
        moved = list(busiest.held.values())[len(busiest.held) // 2 :]
        for prompt in moved:
            del busiest.held[prompt.number]
            busiest.dropped.append(prompt.number)
        return moved

    def _collect(self) -> list[tuple[Numbered, Answer | float]]:
        """Wait for workers; return their answers, except to prompts that another worker has taken over meanwhile."""
        import ray

        for slot in self._slots:
            if slot.actor is None and slot.start_at <= time.monotonic():
                self._start_worker(slot)
        self._check_room()
        slots = {slot.calls[0]: slot for slot in self._slots if slot.calls}
        if not slots:
            time.sleep(_POLL_S)
            return []
        done, _ = ray.wait(list(slots), timeout=_POLL_S)
        answers = []
        for call in done:
            slot = slots[call]
            given = self._finish(slot)
            answers += [(slot.held.pop(number), answer) for number, answer in given if number in slot.held]
        if answers:
            self._num_losses = 0
        return answers

    def _finish(self, slot: Slot) -> list[tuple[int, Answer | float]]:
        """Return the answers of a worker's oldest call; a lost worker is replaced and returns none."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            given: Any = ray.get(slot.calls.pop(0))
        except RayTaskError as error:
            if isinstance(error.cause, UserError) or slot.host is None:
                raise UserError(f"generate.ray: worker: {_describe(error.cause)}; {_GO_ON}") from None
            self._replace(slot, error.cause)
        except RayError as error:
            self._replace(slot, error)
        else:
            if slot.host:
                answers: list[tuple[int, Answer | float]] = given
                return answers
            self._set_ready(slot, given)
        return []

    def _set_ready(self, slot: Slot, loaded: Loaded) -> None:
        self._loaded.append(loaded)
        if loaded.engine != self._loaded[0].engine:
            found = f"found {loaded.engine} on one machine and {self._loaded[0].engine} on another"
            raise UserError(f"generate.ray: {found}, expected one version; {_GO_ON}")
        slot.host = loaded.host
        say(f"generate: worker on {loaded.host} ready, {self._num_ready} of {self._params.workers}")

    def _replace(self, slot: Slot, reason: BaseException) -> None:
        """Replace a lost worker after a pause, which grows with each loss until a worker answers."""
        import ray

        self._num_losses += 1
        if self._num_losses >= max(8, MAX_LOSSES * self._params.workers):
            lost = f"{self._num_losses} workers lost without an answer in between"
            raise UserError(f"generate.ray: {lost}, the last one by {_describe(reason)}; {_GO_ON}")
        ray.kill(slot.actor)
        self._returned += slot.held.values()
        pause_s = min(self._num_losses, MAX_PAUSE_S)
        self._slots[self._slots.index(slot)] = Slot(start_at=time.monotonic() + pause_s)
        lost = f"worker on {slot.host} lost" if slot.host else "lost a worker before it was ready"
        left = f"{self._num_ready} of {self._params.workers} left; {len(slot.held):,} prompts go to others"
        say(f"generate: {lost}, {left}")

    def _start_worker(self, slot: Slot) -> None:
        import ray

        remote: Any = ray.remote(Worker)  # Ray's methods are known only at run time
        slot.actor = remote.options(num_cpus=self._params.num_cpus, num_gpus=self._params.num_gpus).remote()
        slot.calls.append(slot.actor.load.remote(*self._load))

    def _check_room(self) -> None:
        """Raise UserError if for a while no machine of the cluster has had room for a worker."""
        import ray

        need = {"CPU": self._params.num_cpus, "GPU": self._params.num_gpus}
        nodes: Any = ray.nodes  # without annotations
        machines = [node["Resources"] for node in nodes() if node["Alive"]]
        if any(all(machine.get(name, 0) >= count for name, count in need.items()) for machine in machines):
            self._had_room = time.monotonic()
        if time.monotonic() - self._had_room > NO_ROOM_S:
            sizes = {f"{machine.get('CPU', 0):.0f} CPUs and {machine.get('GPU', 0):.0f} GPUs" for machine in machines}
            found = ", ".join(sorted(sizes)) or "none"
            expected = f"expected {need['CPU']} CPUs and {need['GPU']} GPUs for a worker"
            raise UserError(f"generate.ray: no machine with room: found {found}; {expected}; {_GO_ON}")


def prepare() -> None:
    """Check that Ray is installed, and keep it from reporting usage."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        message = "generate.engine: ray is not installed; install 'ray>=2.60', or set the engine vllm"
        raise UserError(message) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _connect(params: RayParams) -> None:
    """Join the cluster, or start Ray on this machine."""
    import ray

    if ray.is_initialized():
        return
    address = params.address or "local"
    code = {"py_modules": [str(Path(__file__).parents[2])], "excludes": ["__pycache__"]}
    try:
        if address != "local":
            _check_reachable(address)
        ray.init(
            address=address,
            runtime_env=code,
            include_dashboard=False if address == "local" else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        found = " ".join(str(error).split())
        raise UserError(f"generate.ray.address: {address}: found {found}; expected a running cluster") from None
    # Ray prints the last lines of a lost machine's log, and no option prevents it. Our own messages say what matters.
    ray._private.worker._worker_logs_enabled = False


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if nothing listens at the address; limit Ray to one try instead of 15 min."""
    from ray._private.services import canonicalize_bootstrap_address

    host, _, port = (canonicalize_bootstrap_address(address) or "").rpartition(":")
    socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")


def pin(llm: Weights, model: Path) -> Weights:
    """Return the source for the workers: the hub commit of the LLM, or the absolute path of its folder."""
    if commit := hub_commit(model):
        return llm.model_copy(update={"revision": commit})
    folder = Path(llm.source).expanduser()
    return llm.model_copy(update={"source": str(folder.resolve())}) if folder.is_dir() else llm


def _describe(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
