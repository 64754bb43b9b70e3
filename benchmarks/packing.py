"""Time packed data against Hugging Face datasets, side by side: python -m benchmarks.packing DIR.

DIR needs about 2 GB. The rows are 3,000 clips of 2 to 12 s, as WAV and as FLAC files. Written are the same rows with
the same audio bytes: ours by the code of the stage pack, and theirs by Dataset.from_generator and save_to_disk, whose
generator reads FLAC files as they are, and encodes WAV files by soundfile. Then rows are read in random order.
"""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile

from benchmarks.results_file import median_and_runs, recorded
from pipeline.audio import mono_16k
from pipeline.pack.__main__ import in_threads, pack_row, read_clip
from pipeline.tables import continuations, manifest, packed

NUM_CLIPS = 3_000
ROUNDS = 5
NUM_READS = 2_000
SHARD_BYTES = 512_000_000
KINDS = ("flac", "wav")


def make_rows(folder: Path, kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Write clips; return the manifest's row and the continuation of each."""
    generator = np.random.default_rng(0)
    (folder / kind).mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(NUM_CLIPS):
        num_samples = int(generator.uniform(2, 12) * mono_16k.SAMPLE_RATE_HZ)
        noise = np.convolve(generator.standard_normal(num_samples), np.ones(8) / 8, "same")
        path = folder / kind / f"{i}.{kind}"
        soundfile.write(path, (3_000 * noise).astype(np.int16), mono_16k.SAMPLE_RATE_HZ)
        row = dict.fromkeys(manifest.SCHEMA.names) | {
            "id": f"c/{i:05}", "corpus": "c", "audio": f"{kind}/{i}.{kind}", "start_s": 0.0, "split": "train",
            "duration_s": num_samples / mono_16k.SAMPLE_RATE_HZ, "text": "kids are talking", "speaker": "c/1",
        }  # fmt: skip
        answer = dict.fromkeys(continuations.SCHEMA.names) | {
            "id": row["id"], "text_ids": list(range(20)), "token_ids": list(range(60)), "finish_reason": "stop",
        }  # fmt: skip
        rows.append((row, answer))
    return rows


def write_ours(rows: list[tuple[dict[str, Any], dict[str, Any]]], folder: Path, output: Path) -> None:
    """Write the rows by the code of the stage."""
    shell = packed.PromptShell(before_speech=[1], before_text=[1], after=[2])
    with packed.Writer(output, shell, SHARD_BYTES) as writer:
        for split in manifest.SPLITS:
            writer.open(split)
        for (row, answer), audio in in_threads(rows, lambda pair: read_clip(pair[0], {"c": folder})):
            writer.add("train", pack_row(row, answer, audio, 0))


def write_theirs(rows: list[tuple[dict[str, Any], dict[str, Any]]], folder: Path, output: Path) -> None:
    """Write the same rows by `datasets`."""
    features = datasets.Features.from_arrow_schema(packed.SCHEMA)

    def generate() -> Iterator[dict[str, Any]]:
        for row, answer in rows:
            path = folder / row["audio"]
            if path.suffix == ".flac":
                content = path.read_bytes()
            else:
                content = mono_16k.encode_flac(soundfile.read(path, dtype="float32")[0])
            yield pack_row(row, answer, (content, round(row["duration_s"] * mono_16k.SAMPLE_RATE_HZ)), 0)

    cache = output.with_name("cache")
    shutil.rmtree(cache, ignore_errors=True)
    made = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(cache))
    assert isinstance(made, datasets.Dataset)
    made.save_to_disk(output, max_shard_size=SHARD_BYTES)
    shutil.rmtree(cache)


def time_reads(read: Callable[[int], Any], numbers: list[int]) -> float:
    """Return the time of a read, in microseconds."""
    started = time.perf_counter()
    for number in numbers:
        read(number)
    return 1e6 * (time.perf_counter() - started) / len(numbers)


def main(folder: Path) -> None:
    """Print the times, and write them to the results file."""
    datasets.disable_progress_bars()
    with recorded("packing") as figures:
        for kind in KINDS:
            rows = make_rows(folder, kind)
            times: dict[str, list[float]] = {"ours": [], "theirs": []}
            for _ in range(ROUNDS):
                for name, write in (("ours", write_ours), ("theirs", write_theirs)):
                    shutil.rmtree(folder / name, ignore_errors=True)
                    started = time.perf_counter()
                    write(rows, folder, folder / name)
                    times[name].append(time.perf_counter() - started)
            ratio = statistics.median(times["theirs"]) / statistics.median(times["ours"])
            print(f"write {NUM_CLIPS:,} rows from {kind}: {ratio:.2f} times as fast as datasets", times)
            for name, runs in times.items():
                figures |= median_and_runs(f"write_{kind}_{name}_s", runs)
        ours, theirs = packed.load(folder / "ours", "train"), datasets.load_from_disk(folder / "theirs")
        assert ours[7] == theirs[7]
        numbers = np.random.default_rng(1).integers(0, NUM_CLIPS, NUM_READS).tolist()
        reads: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(ROUNDS):
            reads["ours"].append(time_reads(ours.__getitem__, numbers))
            reads["theirs"].append(time_reads(theirs.__getitem__, numbers))
        ratio = statistics.median(reads["theirs"]) / statistics.median(reads["ours"])
        print(f"read rows in random order: {ratio:.1f} times as fast as datasets", reads)
        for name, runs in reads.items():
            figures |= median_and_runs(f"read_{name}_us", runs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
