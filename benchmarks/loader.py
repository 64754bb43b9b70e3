"""Time the loader against bare decoding and log-mel, side by side: python -m benchmarks.loader DIR

For each length, DIR gets a packed folder (24 MB in all), which is removed afterwards. Ours are the batches of
training: rows are read, decoded, turned into log-mel and collated. Bare are soundfile's decoding of the same bytes in
memory, and the log-mel of transformers' extractor. Each process has one thread. Both
run in turn; the results are medians of five. Two workers are compared with two bare processes; the start of the
processes counts on both sides. Threads in place of processes are measured, too, for the bare work and for whole
batches.

The batches are as large as those of recipes/paper.yaml, which trains on GPUs with workers, and then as small as those
of the demo, which has no workers: what it costs to send a batch counts more there.
"""

import io
import itertools
import multiprocessing
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
import typer
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from benchmarks.results_file import FOLDER, median_and_runs, recorded
from pipeline import params
from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.stage import run_stage, say
from pipeline.tables import packed
from pipeline.weights.source import Weights, fetch
from train.data.dataset import Collator, Examples, row_costs
from train.data.log_mel import LogMel
from train.fit.data import Data
from train.fit.params import SemanticFitParams
from train.fit.planned_rows import make_sampler
from train.model.inputs import packed_sequences

DURATIONS_S = (2.5, 4.5, 12.0)
NUM_CLIPS = 64  # of each length; a pass reads each of them several times
PASS_S = 4_000  # seconds of audio in a pass
ROUNDS = 5
BATCHES_OF = (Path("recipes/paper.yaml"), Path("params.yaml"))
WORKERS = 2

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read in a pass."""

    data: Data
    batches: list[list[int]]
    """The rows of each batch of the pass."""
    clips: list[bytes]
    """The FLAC bytes of each clip of the pass, in the same order."""
    extractor: WhisperFeatureExtractor

    def bare(self, clips: Sequence[bytes]) -> None:
        """Decode clips and compute their log-mel."""
        for clip in clips:
            self.bare_log_mel(soundfile.read(io.BytesIO(clip), dtype="float32")[0])

    def bare_log_mel(self, samples: mono_16k.Samples) -> NDArray[np.float32]:
        """Return the log-mel of a clip as transformers computes it."""
        found = self.extractor(
            samples, sampling_rate=mono_16k.SAMPLE_RATE_HZ, padding="do_not_pad", return_tensors="np"
        )  # fmt: skip
        return found["input_features"][0]  # type: ignore[no-any-return]

    def bare_in_processes(self) -> None:
        """Share the clips among forked processes, as torch's loader forks its workers."""
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=self._bare_worker, args=(clips,)) for clips in self.shares()]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    def _bare_worker(self, clips: Sequence[bytes]) -> None:
        torch.set_num_threads(1)  # as in torch's workers: the threads of the parent do not exist in a forked process
        self.bare(clips)

    def bare_in_threads(self) -> None:
        """Share the clips among threads."""
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(self.bare, self.shares()))

    def shares(self) -> list[list[bytes]]:
        """Divide the clips."""
        return [self.clips[number::WORKERS] for number in range(WORKERS)]

    def ours(self, workers: int) -> None:
        """Load the batches as training does."""
        for _ in replace(self.data, workers=workers).batches(self.batches):
            pass

    def ours_in_threads(self) -> None:
        """Load the batches by threads of this process."""

        def load(rows: list[int]) -> None:
            self.data.collate([self.data.train[row] for row in rows])

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(load, self.batches))


def packed_rows(duration_s: float) -> Iterator[dict[str, Any]]:
    """Make up rows of this length: low-pass noise, 3 tokens of the transcript a second, and 48 of the answer."""
    generator = np.random.default_rng(0)
    for number in range(NUM_CLIPS):
        num_samples = round(duration_s * mono_16k.SAMPLE_RATE_HZ)
        noise = np.convolve(generator.standard_normal(num_samples), np.ones(8) / 8, "same")
        num_text, num_response = round(3 * duration_s), 48
        yield dict.fromkeys(packed.SCHEMA.names) | {
            "id": f"c/{number}", "corpus": "c", "text": "", "num_samples": num_samples,
            "audio": {"bytes": mono_16k.encode_flac((0.1 * noise).astype(np.float32)), "path": None},
            "num_speech_tokens": num_speech_tokens(num_mel_frames(num_samples)), "num_text_tokens": num_text,
            "num_response_tokens": num_response, "text_ids": list(range(num_text)),
            "response_ids": list(range(num_response)),
        }  # fmt: skip


def prepare(folder: Path, duration_s: float, params_file: Path, batches_of: Path, pass_s: float) -> Inputs:
    """Pack rows and plan the batches of a pass; the encoder is that of the parameters."""
    shell = packed.PromptShell(before_speech=list(range(30)), before_text=list(range(30)), after=[1] * 5)
    with packed.Writer(folder, shell, 10**9) as writer:
        writer.write("train", packed_rows(duration_s))
    settings = params.load(batches_of, "fit.semantic", SemanticFitParams)
    whole = settings.batches.model_copy(update={"per_step": 1})  # many batches in a step would divide these few rows
    settings = settings.model_copy(update={"batches": whole})
    encoder = fetch(params.load(params_file, "models.encoder", Weights))
    rows = packed.load(folder, "train")
    sampler = make_sampler(rows, row_costs(rows, shell, False, True, True), settings)
    collate = Collator(shell, with_teacher=True, lay_out=partial(packed_sequences, shares_start=True))
    data = Data(
        train=Examples(rows, LogMel(encoder, pad_to_30s=False), []), sampler=sampler, dev=None, dev_rows=[],
        collate=collate, dev_collate=collate, workers=0,
    )  # fmt: skip
    passes = max(1, round(pass_s / (duration_s * NUM_CLIPS)))
    batches = [batch for epoch in range(passes) for step in sampler.plan(epoch) for batch in step]
    clips = [rows[row]["audio"]["bytes"] for batch in batches for row in batch]
    return Inputs(data, batches, clips, WhisperFeatureExtractor.from_pretrained(encoder))


def measure(inputs: Inputs) -> Figures:
    """Time each way in turn; return the seconds of a pass and the ratios."""
    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: inputs.bare(inputs.clips),
        "ours": lambda: inputs.ours(0),
        "bare_2_processes": inputs.bare_in_processes,
        "ours_2_workers": lambda: inputs.ours(WORKERS),
        "bare_2_threads": inputs.bare_in_threads,
        "ours_2_threads": inputs.ours_in_threads,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    inputs.bare(inputs.clips[:NUM_CLIPS])  # the first calls also load code
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - started)
    figures: Figures = {}
    for name, runs in times.items():
        figures |= median_and_runs(f"{name}_s", runs)
    for name, ours, bare in (
        ("one_core", "ours", "bare"),
        ("two_workers", "ours_2_workers", "bare_2_processes"),
        ("threads_over_processes_bare", "bare_2_threads", "bare_2_processes"),
        ("threads_over_processes_ours", "ours_2_threads", "ours_2_workers"),
    ):
        pairs = zip(times[bare], times[ours], strict=True)
        figures[f"{name}_ratio"] = statistics.median(other / mine for other, mine in pairs)
    return figures


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for the packed rows; it is removed afterwards.")],
    pass_s: Annotated[float, typer.Option(help="Seconds of audio in a pass.")] = PASS_S,
    params_file: Annotated[Path, typer.Option("--params", help="Parameters and models.")] = Path("params.yaml"),
    results: Annotated[Path, typer.Option(help="Folder of the results file.")] = FOLDER,
) -> None:
    """Time the loader against bare decoding and log-mel. The results file is written only for whole passes."""
    torch.set_num_threads(1)
    keep: AbstractContextManager[Figures] = recorded("loader", results) if pass_s == PASS_S else nullcontext({})
    with keep as figures:
        for batches_of, duration_s in itertools.product(BATCHES_OF, DURATIONS_S):
            try:
                found = measure(prepare(folder / f"{duration_s}", duration_s, params_file, batches_of, pass_s))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            figures[f"batches of {batches_of}, {duration_s} s"] = found
            say(
                f"batches of {batches_of}, clips of {duration_s:4.1f} s: {found['one_core_ratio']:.3f} of the bare "
                f"speed on one core, {found['two_workers_ratio']:.3f} with two workers; two threads are "
                f"{found['threads_over_processes_bare_ratio']:.2f} times as fast as two processes, and for whole "
                f"batches {found['threads_over_processes_ours_ratio']:.2f} times"
            )


if __name__ == "__main__":
    run_stage(main)
