"""Time the ingestion of corpora: python -m benchmarks.corpora DIR, where DIR needs about 2 GB for generated files.

Three things are measured. The first is the manifest of LibriSpeech, ours and lhotse's, on a tree with the shape of the
train split (281,241 tiny FLAC files); it needs lhotse: pip install lhotse. The second is the time and the memory for
GigaSpeech's index with a million segments. The third is the reading of clips, by us and by bare soundfile with soxr, on
one core and on two.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks.results_file import median_and_runs, recorded
from pipeline.audio import mono_16k, recordings

ROUNDS = 9
SUBSETS = {"train-clean-100": 28_539, "train-clean-360": 104_014, "train-other-500": 148_688}
PER_CHAPTER = 50
NUM_SEGMENTS = 1_000_000
_MD5 = slice(26, 42)  # place of the samples' MD5 in a FLAC file

LHOTSE = """
import sys
from lhotse.recipes import prepare_librispeech
prepare_librispeech(sys.argv[1], dataset_parts=sys.argv[3].split(","), output_dir=sys.argv[2])
"""


def librispeech_tree(root: Path) -> None:
    """Write a tree like the train split with clips of 0.3 s, each with a different MD5."""
    flac = bytearray(mono_16k.encode_flac((np.sin(np.arange(4800) / 9) / 2).astype(np.float32)))
    for number, (subset, count) in enumerate(SUBSETS.items(), start=1):
        for first in range(0, count, PER_CHAPTER):
            speaker, chapter = first // 1000 + 10_000 * number, first // PER_CHAPTER + 100_000 * number
            folder = root / subset / str(speaker) / str(chapter)
            folder.mkdir(parents=True)
            names = [f"{speaker}-{chapter}-{i:04}" for i in range(min(PER_CHAPTER, count - first))]
            for i, name in enumerate(names):
                flac[_MD5] = f"{number}{first + i:015}".encode()
                (folder / f"{name}.flac").write_bytes(flac)
            lines = "".join(f"{name} HE'S GONE\n" for name in names)
            (folder / f"{speaker}-{chapter}.trans.txt").write_text(lines)


def gigaspeech_tree(root: Path, num_segments: int, per_file: int = 500) -> None:
    """Write an index of segments in long files, which are all links to one silent Opus file."""
    (root / "audio").mkdir(parents=True)
    silence = root / "audio" / "silence.opus"
    soundfile.write(silence, np.zeros(per_file * 4 * 16_000, np.int16), 16_000, format="OGG", subtype="OPUS")
    with (root / "GigaSpeech.json").open("w") as file:
        file.write('{"dataset": "GigaSpeech", "language": "EN", "version": "v1.0.0", "audios": [\n')
        for number in range(num_segments // per_file):
            path = root / "audio" / f"POD{number:010}.opus"
            os.link(silence, path)
            segments = [
                {
                    "sid": f"POD{number:010}_S{i:07}",
                    "speaker": "N/A",
                    "begin_time": 4.0 * i,
                    "end_time": 4.0 * i + 3.5,
                    "text_tts": "AND THAT IS WHAT WE DID <COMMA> I THINK <PERIOD>",
                    "subsets": ["{XL}", "{L}"],
                }
                for i in range(per_file)
            ]
            entry = {
                "title": "a talk",
                "url": "https://example.com/talk",
                "path": f"audio/{path.name}",
                "aid": path.stem,
                "source": "podcast",
                "language": "EN",
                "subsets": ["{XL}", "{L}"],
                "segments": segments,
            }
            file.write((",\n" if number else "") + json.dumps(entry, indent=1))
        file.write("]}\n")


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and the peak memory of all commands so far in GB."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def ingest(corpus: str, root: Path, output: Path) -> tuple[float, float]:
    """Run the stage ingest; return its seconds, and the peak memory so far in GB."""
    command = [
        sys.executable,
        "-m",
        "pipeline.ingest",
        "--corpus",
        corpus,
        "--root",
        str(root),
        "--output",
        str(output),
    ]
    return timed(command)


def librispeech(folder: Path) -> dict[str, Any]:
    """Time our manifest of a tree twice, because the first run fills the page cache, and then lhotse's manifest.

    Return seconds, GB, and the ratio of lhotse's seconds to those of our faster run.
    """
    root = folder / "LibriSpeech"
    if not root.exists():
        librispeech_tree(root)
    runs = [ingest("librispeech", root, folder / "librispeech.parquet") for _ in range(2)]
    ours, memory = min(runs)
    with tempfile.TemporaryDirectory(dir=folder) as manifests:  # lhotse skips manifests that exist
        plain, _ = timed([sys.executable, "-c", LHOTSE, str(root), manifests, ",".join(SUBSETS)])
    print(f"LibriSpeech's train split: {ours:.1f} s, {memory:.2f} GB; lhotse {plain:.1f} s   x{plain / ours:.1f}")
    return {
        "num_clips": sum(SUBSETS.values()),
        "ours_s": ours,
        "ours_s_runs": [seconds for seconds, _ in runs],
        "ours_peak_gb": memory,
        "lhotse_s": plain,
        "lhotse_over_ours": plain / ours,
    }


def gigaspeech(folder: Path) -> dict[str, Any]:
    """Ingest an index of a million segments; return seconds and GB."""
    root = folder / "GigaSpeech"
    if not root.exists():
        gigaspeech_tree(root, NUM_SEGMENTS)
    seconds, memory = ingest("gigaspeech", root, folder / "gigaspeech.parquet")
    print(f"GigaSpeech, {NUM_SEGMENTS:,} segments: {seconds:.0f} s, peak of this run {memory:.2f} GB")
    return {"num_segments": NUM_SEGMENTS, "ours_s": seconds, "ours_peak_gb": memory}


def reading(folder: Path, rate_hz: int, suffix: str) -> dict[str, Any]:
    """Compare recordings.read with bare soundfile and soxr, and both on one core and on two.

    Ours runs in threads, bare in processes. Return ratios of seconds: bare over ours, one thread or process over two.
    """
    generator = np.random.default_rng(0)
    files = [folder / f"{rate_hz}-{i}{suffix}" for i in range(40)]
    for file in files:
        soundfile.write(file, np.cumsum(generator.integers(-99, 100, 8 * rate_hz)).astype(np.int16), rate_hz)
    with (
        ThreadPoolExecutor(1) as one,
        ThreadPoolExecutor(2) as two,
        ProcessPoolExecutor(1) as one_process,
        ProcessPoolExecutor(2) as two_processes,
    ):
        share = ratios(lambda: each(one, bare, files), lambda: each(one, read, files))
        scale = ratios(lambda: each(one, read, files), lambda: each(two, read, files))
        most = ratios(lambda: each(one_process, bare, files), lambda: each(two_processes, bare, files))
    figures = (
        median_and_runs("bare_over_ours", share)
        | median_and_runs("one_thread_over_two", scale)
        | median_and_runs("one_bare_process_over_two", most)
    )
    print(
        f"{rate_hz} Hz {suffix}: {figures['bare_over_ours']:.2f} of the speed of bare soundfile + soxr; "
        f"two threads x{figures['one_thread_over_two']:.2f}, "
        f"two processes of bare soundfile + soxr x{figures['one_bare_process_over_two']:.2f}"
    )
    return figures


# both functions drop the samples at once, because keeping them costs memory
def bare(file: Path) -> None:
    """Read a clip at 16 kHz with only the libraries."""
    samples, rate = soundfile.read(file, dtype="float32")
    if rate != mono_16k.SAMPLE_RATE_HZ:
        soxr.resample(samples, rate, mono_16k.SAMPLE_RATE_HZ, quality="HQ")


def read(file: Path) -> None:
    """Read a clip as the stages do."""
    recordings.read(file)


def each(pool: Executor, do: Callable[[Path], None], files: Sequence[Path]) -> None:
    """Call `do` on every file, five times."""
    list(pool.map(do, [file for _ in range(5) for file in files], chunksize=5))


def ratios(first: Callable[[], None], second: Callable[[], None]) -> list[float]:
    """Time both in turn; return the seconds of the first over those of the second, for each round."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        found.append((middle - start) / (time.perf_counter() - middle))
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.corpora DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with recorded("corpora") as figures:
        for rate, suffix in ((16_000, ".flac"), (48_000, ".wav")):
            figures[f"reading_{rate}_hz_{suffix[1:]}"] = reading(folder, rate, suffix)
        figures["gigaspeech"] = gigaspeech(folder)
        figures["librispeech"] = librispeech(folder)
