"""vLLM on many machines, by Ray: a worker for each GPU, and this process, which hands out prompts and has the store.

A worker is an actor: vLLM in a process of its own. It holds thousands of prompts at a time, so that its batches stay
full, and hands in about once a second what it has answered. The prompts of a worker that is lost go to the others; a
new one starts in its place as soon as the cluster has room. One that runs out of prompts takes over half of those of
the busiest.

Our code goes to the other machines with the run. The LLM does not: a worker fetches it where it runs, so a folder must
lie at the same place on each machine; the wrong weights there are an error.
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

from pipeline.generate.engines.interface import Answer
from pipeline.generate.engines.ray_worker import Loaded, Numbered, Worker
from pipeline.generate.engines.vllm_engine import IN_FLIGHT
from pipeline.generate.params import GenerateParams, RayParams
from pipeline.stage import UserError, say
from pipeline.weights.source import Weights, hub_commit, name_weights

WORTH_MOVING = 32  # prompts of one worker, of which another takes over half
MAX_LOSSES = 3  # of each worker, on average, without an answer in between; of all of them at least 8
MAX_PAUSE_S = 8.0  # before a lost worker is replaced: Ray would start the new one on a machine that has just gone
NO_ROOM_S = 60.0  # without a machine that a worker fits on, after which the run ends

Prompt = tuple[Sequence[int], Sequence[int]]
"""Its ids, and those of an answer to be scored."""

_CONNECT_S = 10.0
_POLL_S = 0.5
_GO_ON = "what was answered is in the store, run again to go on"


@dataclass(slots=True, eq=False)
class Seat:
    """A worker as this process sees it."""

    start_at: float = 0.0
    """Monotonic time before which it is not started."""
    actor: Any = None
    calls: list[Any] = field(default_factory=list)
    """Under way, the oldest first: two, so that a worker goes on while this process deals with what it handed in."""
    host: str | None = None
    """Where it runs; None while it has not loaded the LLM."""
    held: dict[int, Numbered] = field(default_factory=dict)
    """Prompts that it has not answered yet, by number."""
    dropped: list[int] = field(default_factory=list)
    """Numbers of prompts that it does not know yet it need not answer."""


class RayEngine:
    """Keeps the workers of a cluster busy."""

    def __init__(
        self, params: GenerateParams, where: RayParams, llm: Weights, model: Path, end_ids: Sequence[int]
    ) -> None:
        """Start the workers, and wait for the first one."""
        _connect(where)
        self._where = where
        self._load = (params, _pin(llm, model), name_weights(llm, model), list(end_ids))
        self._numbers = itertools.count()
        self._returned: list[Numbered] = []
        self._loaded: list[Loaded] = []
        self._num_losses, self._had_room = 0, time.monotonic()
        self._seats = [Seat() for _ in range(where.workers)]
        while not self._loaded:
            self._collect()

    @property
    def name(self) -> str:
        """Name and version, Ray's too."""
        return f"{self._loaded[0].engine} (ray {importlib.metadata.version('ray')})"

    @property
    def hardware(self) -> str:
        """What the workers run on."""
        return "; ".join(sorted({loaded.hardware for loaded in self._loaded}))

    @property
    def _num_ready(self) -> int:
        return sum(seat.host is not None for seat in self._seats)

    def generate(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, Answer]]:
        """Answer prompts as Engine says."""
        return self._run((prompt, ()) for prompt in prompts)

    def score(self, answers: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Iterator[tuple[int, float]]:
        """Score answers as Engine says."""
        return self._run(answers)

    def _run(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Any]]:
        """Yield what the workers give, an answer or a score, with the prompt's position."""
        waiting, more = enumerate(prompts), True
        try:
            while True:
                for seat in self._seats:
                    if seat.host and len(seat.calls) < 2:
                        more &= self._hand_out(seat, waiting)
                if not (more or self._returned or any(seat.held for seat in self._seats)):
                    return
                for prompt, given in self._collect():
                    yield prompt.position, given
        finally:
            self._returned.clear()
            for seat in self._seats:
                seat.dropped += seat.held
                seat.held.clear()

    def _hand_out(self, seat: Seat, waiting: Iterator[tuple[int, Prompt]]) -> bool:
        """Hand a worker as many prompts as it has room for; return whether there may be more."""
        room = IN_FLIGHT - len(seat.held)
        prompts, self._returned = self._returned[:room], self._returned[room:]
        new = itertools.islice(waiting, room - len(prompts))
        prompts += [Numbered(next(self._numbers), position, *prompt) for position, prompt in new]
        more = len(prompts) == room
        if not prompts and not seat.held:
            prompts = self._relieve_busiest()
        seat.held |= {prompt.number: prompt for prompt in prompts}
        if seat.held:
            seat.calls.append(seat.actor.exchange.remote(prompts, seat.dropped))
            seat.dropped = []
        return more

    def _relieve_busiest(self) -> list[Numbered]:
        """Take from the busiest worker half of its prompts, those that it got last."""
        busiest = max(self._seats, key=lambda seat: len(seat.held))
        if len(busiest.held) < WORTH_MOVING:
            return []
        moved = list(busiest.held.values())[len(busiest.held) // 2 :]
        for prompt in moved:
            del busiest.held[prompt.number]
            busiest.dropped.append(prompt.number)
        return moved

    def _collect(self) -> list[tuple[Numbered, Answer | float]]:
        """Wait for a worker and return what it has answered, of what it was not relieved of meanwhile."""
        import ray

        for seat in self._seats:
            if seat.actor is None and seat.start_at <= time.monotonic():
                self._start_worker(seat)
        self._check_room()
        seats = {seat.calls[0]: seat for seat in self._seats if seat.calls}
        if not seats:
            time.sleep(_POLL_S)
            return []
        done, _ = ray.wait(list(seats), timeout=_POLL_S)
        answers = []
        for call in done:
            seat = seats[call]
            given = self._finish(seat)
            answers += [(seat.held.pop(number), answer) for number, answer in given if number in seat.held]
        if answers:
            self._num_losses = 0
        return answers

    def _finish(self, seat: Seat) -> list[tuple[int, Answer | float]]:
        """Return what a worker's oldest call gives; a worker that is lost is replaced and gives nothing."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            given: Any = ray.get(seat.calls.pop(0))
        except RayTaskError as error:
            if isinstance(error.cause, UserError) or seat.host is None:
                raise UserError(f"generate.ray: worker: {_describe(error.cause)}; {_GO_ON}") from None
            self._replace(seat, error.cause)
        except RayError as error:
            self._replace(seat, error)
        else:
            if seat.host:
                answers: list[tuple[int, Answer | float]] = given
                return answers
            self._welcome(seat, given)
        return []

    def _welcome(self, seat: Seat, loaded: Loaded) -> None:
        self._loaded.append(loaded)
        if loaded.engine != self._loaded[0].engine:
            found = f"found {loaded.engine} on one machine and {self._loaded[0].engine} on another"
            raise UserError(f"generate.ray: {found}, expected one version; {_GO_ON}")
        seat.host = loaded.host
        say(f"generate: worker on {loaded.host} ready, {self._num_ready} of {self._where.workers}")

    def _replace(self, seat: Seat, reason: BaseException) -> None:
        """Put a new worker in the place of a lost one, after a pause that grows while none answers."""
        import ray

        self._num_losses += 1
        if self._num_losses >= max(8, MAX_LOSSES * self._where.workers):
            lost = f"{self._num_losses} workers lost without an answer in between"
            raise UserError(f"generate.ray: {lost}, the last one by {_describe(reason)}; {_GO_ON}")
        ray.kill(seat.actor)
        self._returned += seat.held.values()
        pause_s = min(self._num_losses, MAX_PAUSE_S)
        self._seats[self._seats.index(seat)] = Seat(start_at=time.monotonic() + pause_s)
        left = f"{self._num_ready} of {self._where.workers} left; {len(seat.held):,} prompts go to others"
        say(f"generate: worker {f'on {seat.host}' if seat.host else 'that was not ready yet'} lost, {left}")

    def _start_worker(self, seat: Seat) -> None:
        import ray

        remote: Any = ray.remote(Worker)  # its methods are known at run time alone
        seat.actor = remote.options(num_cpus=self._where.num_cpus, num_gpus=self._where.num_gpus).remote()
        seat.calls.append(seat.actor.load.remote(*self._load))

    def _check_room(self) -> None:
        """Raise UserError where no worker has run for a while and none fits on any machine of the cluster."""
        import ray

        need = {"CPU": self._where.num_cpus, "GPU": self._where.num_gpus}
        nodes: Any = ray.nodes  # without annotations
        machines = [node["Resources"] for node in nodes() if node["Alive"]]
        if any(all(machine.get(name, 0) >= count for name, count in need.items()) for machine in machines):
            self._had_room = time.monotonic()
        if time.monotonic() - self._had_room > NO_ROOM_S:
            sizes = {f"{machine.get('CPU', 0):.0f} CPUs and {machine.get('GPU', 0):.0f} GPUs" for machine in machines}
            found = ", ".join(sorted(sizes)) or "none"
            expected = f"expected {need['CPU']} CPUs and {need['GPU']} GPUs for a worker"
            raise UserError(f"generate.ray: no machine to run on: found {found}; {expected}; {_GO_ON}")


def prepare() -> None:
    """Check that Ray is installed, and keep it from reporting usage."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        message = "generate.engine: ray is not installed; install 'ray>=2.60', or set the engine vllm"
        raise UserError(message) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _connect(where: RayParams) -> None:
    """Join the cluster, or start Ray on this machine."""
    import ray

    if ray.is_initialized():
        return
    address = where.address or "local"
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
    # Ray prints the last lines of a lost machine's log, which no option keeps it from; what matters of it is said here.
    ray._private.worker._worker_logs_enabled = False


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError where nothing listens; let Ray try once, not for 15 min, whether it is a cluster."""
    from ray._private.services import canonicalize_bootstrap_address

    host, _, port = (canonicalize_bootstrap_address(address) or "").rpartition(":")
    socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")


def _pin(llm: Weights, model: Path) -> Weights:
    """Say where a worker has the LLM from: a hub's commit, and a folder whatever folder the worker runs in."""
    if commit := hub_commit(model):
        return llm.model_copy(update={"revision": commit})
    folder = Path(llm.source).expanduser()
    return llm.model_copy(update={"source": str(folder.resolve())}) if folder.is_dir() else llm


def _describe(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
