"""Run a stage on made-up inputs, and print its time and its peak memory: python -m benchmarks.scale.stages NAME DIR

Each stage runs in its own process, because the peak of a process never falls. The time excludes imports. To measure one
more stage, write a function for it, and add it to STAGES.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Self

Work = Callable[[], object]


def split(folder: Path) -> Work:
    """Split the corpora by speaker, into the manifests of both alignments."""
    from pipeline.split.__main__ import main

    semantic, emotion, excluded = (folder / f"{name}.parquet" for name in ("semantic", "emotion", "excluded"))
    return lambda: main(folder / "manifests", semantic, emotion, excluded, folder / "params.yaml")


def leaks(folder: Path) -> Work:
    """Search both manifests for shared values; clips are not compared."""
    from pipeline.leaks.__main__ import main

    semantic, emotion, found = (folder / f"{name}.parquet" for name in ("semantic", "emotion", "leaks"))
    return lambda: main(semantic, emotion, found, folder / "params.yaml")


def generate(folder: Path) -> Work:
    """Plan the requests for read speech; the store is empty, so every prompt is tokenised."""
    from pipeline.generate.plan import make_plan
    from pipeline.generate.run import keys_of, open_run, read_utterances

    os.environ["BLSP_STORE"] = str(folder / "store")

    def plan() -> None:
        run = open_run("semantic", folder / "params.yaml")
        utterances = read_utterances(folder / "semantic.parquet")
        made = make_plan(utterances, keys_of(utterances, run), run)
        assert len(made.requests) == len(utterances)

    return plan


def filter_(folder: Path) -> Work:
    """Filter the continuations of read speech by all rules."""
    from pipeline.filter.__main__ import main

    return lambda: main(
        kind="semantic",
        manifest_file=folder / "semantic.parquet",
        continuations_file=folder / "continuations.parquet",
        kept=folder / "filtered.parquet",
        dropped=folder / "refused.parquet",
        metrics=folder / "filter.json",
        params_file=folder / "params.yaml",
    )


def pack(folder: Path) -> Work:
    """Pack emotional speech."""
    from pipeline.pack.__main__ import main

    return lambda: main(
        kind="emotion",
        manifest_file=folder / "emotion.parquet",
        kept_file=folder / "kept.parquet",
        dropped_file=folder / "dropped.parquet",
        output=folder / "packed",
        params_file=folder / "params.yaml",
    )


def check_data(folder: Path) -> Work:
    """Check the packed rows, each of which is decoded."""
    from train.commands.check_data import main

    return lambda: main(folder / "packed", sample=None, as_json=True, params_file=folder / "params.yaml")


def sampler(folder: Path) -> Work:
    """Open the packed rows, count the steps of an epoch, and plan it."""
    from pipeline import params
    from pipeline.tables import packed
    from train.data.dataset import row_costs
    from train.fit.params import EmotionFitParams
    from train.fit.planned_rows import make_sampler, with_response

    settings = params.load(folder / "params.yaml", "fit.emotion", EmotionFitParams)

    def plan() -> None:
        rows = with_response(packed.load(folder / "packed", "train"))
        costs = row_costs(rows, packed.load_shell(folder / "packed"), False, False, True)
        planner = make_sampler(rows, costs, settings)
        counts = planner.num_batches(1.0)
        assert [len(step) for step in planner.plan(0)] == counts

    return plan


def swap(folder: Path) -> Work:
    """Find another clip for each test row, as both alignments do; test is a hundredth of the rows, at least 100."""
    from benchmarks.scale.data import test_rows
    from evaluate.asking.shuffled_clips import wrong_clips
    from pipeline.tables import parquet

    rows = test_rows(range(max(100, parquet.num_rows(folder / "continuations.parquet") // 100)))

    def search() -> None:
        assert len(wrong_clips(rows, ("speaker", "text"), 1, similar="num_samples")) == len(rows)
        assert len(wrong_clips(rows, ("speaker", "emotion"), 1)) == len(rows)

    return search


def score(folder: Path) -> Work:
    """Score the predictions; all systems together have as many answers as there are rows."""
    from evaluate.score.__main__ import main

    return lambda: main(
        divergence=folder / "divergence.parquet",
        recognition=folder / "recognition.parquet",
        metrics=folder / "metrics.json",
        confusions=folder / "confusions.json",
        plots=folder / "plots",
        params_file=folder / "params.yaml",
    )


STAGES: dict[str, Callable[[Path], Work]] = {
    "split": split,
    "leaks": leaks,
    "generate": generate,
    "filter": filter_,
    "pack": pack,
    "check_data": check_data,
    "sampler": sampler,
    "swap": swap,
    "score": score,
}


class PeakMemory(Thread):
    """Follows the memory of this process while it is entered; files that are mapped into memory do not count.

    Linux takes their pages back when memory is short.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gib = 0.0
        self._ended = Event()

    def run(self) -> None:
        """Look every 10 ms; a shorter peak may be missed."""
        while not self._ended.wait(0.01):
            _, resident, of_files, *_ = Path("/proc/self/statm").read_text().split()
            self.gib = max(self.gib, (int(resident) - int(of_files)) * resource.getpagesize() / 2**30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def cpu_s() -> float:
    """Return the CPU time of this process and its children, which other work on the machine changes little."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(name: str, folder: Path) -> None:
    """Run a stage and print its figures as the last line."""
    work = STAGES[name](folder)
    with PeakMemory() as peak:
        started, started_cpu = time.perf_counter(), cpu_s()
        work()
        figures = {"wall_s": time.perf_counter() - started, "cpu_s": cpu_s() - started_cpu}
    print(json.dumps(figures | {"peak_gib": peak.gib}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
