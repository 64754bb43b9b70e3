"""Run a stage in several processes of this machine, one for each GPU: parameter `processes`.

The launcher sets the environment variables of torch.distributed, as torchrun does, and then waits. In place of
torchrun's own report, a failed run ends with the message of the process that failed, and with its exit status. A run
that torchrun or a cluster has started is left alone.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

from pipeline import params

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PATIENCE_S = 20.0
"""Time that the other processes have to end by themselves after one has failed."""
POLL_S = 0.1


def num_processes(params_file: Path) -> int:
    """Return the number of processes that the parameters ask for; 1 within a started run.

    Raises UserError if there are fewer GPUs than processes, on a machine with GPUs.
    """
    if "LOCAL_RANK" in os.environ:
        return 1
    wanted = params.read_processes(params_file)
    if wanted == 1:
        return 1
    import torch

    return params.count_processes(wanted, 0 if "ACCELERATE_USE_CPU" in os.environ else torch.cuda.device_count())


def run(count: int, module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module arguments` in `count` processes; return 0, or the status of the first one that failed.

    Only the first process prints. If another fails first, its messages follow. The signals of FORWARDED go to all.
    """
    command = [sys.executable, "-m", module, *arguments]
    with ExitStack() as stack:
        errors = [None, *(stack.enter_context(TemporaryFile("w+")) for _ in range(1, count))]
        address = _environment(count)
        processes = [
            subprocess.Popen(
                command,
                env={**address, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.DEVNULL if rank else None,
                stderr=error,
            )
            for rank, error in enumerate(errors)
        ]
        for number in FORWARDED:
            before = signal.signal(number, lambda number, _frame: _send(processes, number))
            stack.callback(signal.signal, number, before)
        failed = _wait(processes)
        if failed is None:
            return 0
        if (error := errors[failed]) is not None:
            error.seek(0)
            sys.stderr.write(error.read())
        return _status(processes[failed])


def _environment(count: int) -> dict[str, str]:
    """Return the environment of all processes; without GPUs, they share the cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import torch

    shared = {} if torch.cuda.is_available() else {
        "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
    }  # fmt: skip
    size = str(count)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return {**shared, **os.environ, **address}


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; return the number of the first that failed. Then the others have PATIENCE_S to end."""
    failed: int | None = None
    deadline = float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            failed = next((i for i, process in enumerate(processes) if process.poll()), None)
            # processes that were stopped by a signal end by themselves: one of them writes the checkpoint
            if failed is not None and processes[failed].returncode != os.EX_TEMPFAIL:
                deadline = time.monotonic() + PATIENCE_S
        if time.monotonic() > deadline:
            _send(processes, signal.SIGKILL)
        time.sleep(POLL_S)
    return failed if failed is not None else next((i for i, p in enumerate(processes) if p.returncode), None)


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _status(process: subprocess.Popen[bytes]) -> int:
    """Return the exit status as a shell gives it: 128 and the number of the signal that killed the process."""
    status = process.returncode
    return 128 - status if status < 0 else status
