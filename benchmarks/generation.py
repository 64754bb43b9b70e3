"""Compare the speed of the stage generate, bare vLLM and the official code: python -m benchmarks.generation

All three use the demo's LLM, transcripts and prompt. Each round times them in turn; the results are medians of five.
The stage writes its answers to a store. Bare is one call of vLLM's `LLM.generate`. Official is transformers' generation
in batches of 4 with padding on the left, in the order of the manifest. Models and tokenizers are loaded before. Another
benchmark times the planning of 500,000 rows, of which 480,000 are in the store, in a separate process.
"""

import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results_file import median_and_runs, recorded
from pipeline.generate import answers
from pipeline.generate.engines.interface import Request
from pipeline.generate.run import Run, open_run
from pipeline.generate.store import AnswerStore, StoredAnswer
from pipeline.synthesise.sentences import sentences
from pipeline.tables import manifest, parquet

ROUNDS = 5
NUM_PROMPTS = 64
OFFICIAL_BATCH = 4
NUM_ROWS, NUM_STORED, SHARD = 500_000, 480_000, 2_000
PARAMS = Path("params.yaml")

PLANNING = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from pipeline.generate.run import keys_of, open_run, read_utterances
run = open_run("semantic", Path(sys.argv[2]))
utterances = read_utterances(Path(sys.argv[1]))
missing = run.store.missing(keys_of(utterances, run).unique())
seconds = time.perf_counter() - started
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(f"{len(missing)} {seconds:.2f} {status['VmHWM'].split()[0]}")
"""


def make_requests(run: Run) -> list[Request]:
    """Return the requests of the benchmark."""
    texts = sentences(random.Random(1))
    requests = []
    for _ in range(NUM_PROMPTS):
        text = next(texts)
        ids = run.prompter.text(run.prompt, text).ids
        requests.append(Request(run.signature.key(text, None), text, None, ids, run.signature.seed))
    return requests


def official(
    calls: Any, model: Path, dtype: str, prompts: Sequence[Sequence[int]], end_id: int, max_new_tokens: int
) -> None:
    """Generate as emotion_text_generation.py does, at each message of a pipe; send back the number of new tokens.

    This runs in a separate process, because vLLM's threads and its copy of Intel's OpenMP would slow it down.
    """
    import torch
    from transformers import AutoModelForCausalLM

    llm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    calls.send(0)
    while calls.recv():
        calls.send(generate_padded(llm, prompts, end_id, max_new_tokens))


def generate_padded(llm: Any, prompts: Sequence[Sequence[int]], end_id: int, max_new_tokens: int) -> int:
    """Generate in batches padded on the left; return the number of new tokens."""
    import torch

    count = 0
    for first in range(0, len(prompts), OFFICIAL_BATCH):
        batch = prompts[first : first + OFFICIAL_BATCH]
        width = max(map(len, batch))
        ids = torch.tensor([[end_id] * (width - len(prompt)) + list(prompt) for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            new = llm.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=max_new_tokens,
                eos_token_id=end_id, pad_token_id=end_id,
            )[:, width:]  # fmt: skip
        count += sum(row.index(end_id) + 1 if end_id in row else len(row) for row in new.tolist())
    return count


def open_fresh(store: str) -> Run:
    """Open a run with an empty store and load its tokenizer, because vLLM's tokenizer is loaded too."""
    os.environ["BLSP_STORE"] = store
    opened = open_run("semantic", PARAMS)
    assert opened.prompter.end_id is not None
    return opened


def timed(do: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def generation() -> dict[str, Any]:
    """Print the tokens per second of all three, and the ratios; return them with the seconds of each round."""
    run = open_run("semantic", PARAMS)
    requests = make_requests(run)
    ours: Any = run.start_engine()
    from vllm import TokensPrompt

    prompts = [request.prompt_ids for request in requests]
    calls, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = (theirs, run.model, run.settings.dtype, prompts, run.prompter.end_id, run.settings.max_new_tokens)
    plain = multiprocessing.get_context("spawn").Process(target=official, args=arguments, daemon=True)
    plain.start()
    calls.recv()  # the model is loaded
    bare_prompts = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
    counts: dict[str, int] = {}

    def stage() -> None:
        counts["ours"] = answers.answer_requests(requests, fresh.pop(), ours)

    def bare() -> None:
        outputs = ours._llm.generate(bare_prompts, ours._sampling(None), use_tqdm=False)
        counts["tokens"] = sum(len(output.outputs[0].token_ids) for output in outputs)

    def padded() -> None:
        calls.send(True)
        counts["official"] = calls.recv()

    bare()  # the first run of a process also allocates memory
    times: dict[str, list[float]] = {"stage": [], "bare": [], "official": []}
    with tempfile.TemporaryDirectory() as folder:
        fresh = [open_fresh(f"{folder}/{number}") for number in range(ROUNDS)]
        for _ in range(ROUNDS):
            for name, way in (("stage", stage), ("bare", bare), ("official", padded)):
                ours._llm.reset_prefix_cache()
                times[name].append(timed(way))
    calls.send(False)
    assert counts["ours"] == len(requests)
    figures: dict[str, Any] = {"engine": ours.name, "dtype": run.settings.dtype, "num_prompts": len(requests)}
    rates = {}
    for name, each in times.items():
        num_tokens = counts["official" if name == "official" else "tokens"]
        figures[name] = {"num_tokens": num_tokens, **median_and_runs("time_s", each)}
        rates[name] = figures[name]["tokens_per_s"] = num_tokens / figures[name]["time_s"]
    print(f"{ours.name}, {run.settings.dtype}, {len(requests)} prompts, {counts['tokens']} tokens")
    print(", ".join(f"{name} {rate:.0f} tok/s" for name, rate in rates.items()))
    print(f"stage / bare LLM.generate            x{rates['stage'] / rates['bare']:.3f}")
    print(f"stage / transformers in batches of 4 x{rates['stage'] / rates['official']:.2f}")
    return figures


def planning() -> dict[str, Any]:
    """Print and return the seconds that a run needs to find the missing answers, and its memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BLSP_STORE"] = f"{folder}/store"
        texts = [f"{i} and that is what the farmer said to the old man by the river" for i in range(NUM_ROWS)]
        empty = dict.fromkeys(manifest.SCHEMA.names)
        utterances = Path(folder, "semantic.parquet")
        with parquet.stream(utterances, manifest.SCHEMA) as table:
            for first in range(0, NUM_ROWS, 10_000):
                numbers = range(first, first + 10_000)
                table.write({**empty, "id": f"corpus/{i:07}", "corpus": "corpus", "text": texts[i]} for i in numbers)
            table.commit()
        fill(open_run("semantic", PARAMS).store, texts[:NUM_STORED])
        command = [sys.executable, "-c", PLANNING, str(utterances), str(PARAMS)]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(ROUNDS)]
    told = [run.split()[-3:] for run in runs]
    missing = {int(count) for count, _, _ in told}
    assert missing == {NUM_ROWS - NUM_STORED}, missing
    times = median_and_runs("time_s", [float(seconds) for _, seconds, _ in told])
    memory = max(int(kib) for _, _, kib in told) * 1024 / 1e9
    print(f"planning {NUM_ROWS:,} rows, {NUM_STORED:,} of them stored: {times['time_s']:.1f} s, {memory:.2f} GB")
    return {"num_rows": NUM_ROWS, "num_stored": NUM_STORED, **times, "peak_gb": memory}


def fill(store: AnswerStore, texts: Sequence[str]) -> None:
    """Write made-up answers to a store."""
    now = datetime.now(UTC).replace(microsecond=0)

    def answer(text: str) -> StoredAnswer:
        return StoredAnswer(
            key=store.signature.key(text, None), transcript=text, emotion=None, prompt_token_ids=range(40),
            continuation="and so it went on " * 6, token_ids=range(30), finish_reason="stop", seed=None, logprob=-9.0,
            top_ids=None, top_logprobs=None, engine="none", hardware="none", written_at=now,
        )  # fmt: skip

    for first in range(0, len(texts), SHARD):
        store.append([answer(text) for text in texts[first : first + SHARD]])


if __name__ == "__main__":
    with recorded("generation") as figures:
        figures["planning"] = planning()
        figures["generation"] = generation()
