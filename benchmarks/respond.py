"""Time evaluate.respond against an older checkout, and compare the tables: python -m benchmarks.respond DIR OLD DATA.

DATA has RAVDESS in its published layout, as FLAC; DIR needs 0.7 GB. The test split is 48 of its clips. The models have
random weights in the shapes of whisper-tiny and SmolLM2-135M, so every answer has `max_new_tokens` tokens. Both
checkouts run in turn, each time in a new process on one thread. Counted is the CPU time of the whole process. The
tables must be equal, with log-probabilities and KLs that differ by at most 1e-4.
"""

import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperFeatureExtractor, WhisperModel

from benchmarks.plan import PLORA, SMALL, TINY_WHISPER
from benchmarks.results_file import ROOT, median_and_runs, recorded
from pipeline.audio import mono_16k
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.prompts import Prompter, PromptsParams
from pipeline.stage import UserError, say
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, Weights, fetch
from train import saved_model
from train.model.plora import lora_config
from train.model_config import ModelConfig

NUM_CLIPS = 48
NUM_RESPONSE_TOKENS = 48
ROUNDS = 3
WITHIN = 1e-4  # nats
EMOTIONS = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry"}
"""RAVDESS' codes, in the third field of a file's name."""
SENTENCES = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
"""In the fifth field; the seventh is the speaker."""
RUNS: dict[str, tuple[str, dict[str, int]]] = {
    "emotion": ("emotion", {}),
    "emotion, one token an answer": ("emotion", {"max_new_tokens": 1}),
    "semantic": ("semantic", {}),
}
"""The stage, and what differs from params.yaml."""


def make_model(folder: Path, tokenizer: Path) -> None:
    """Save the random models and a model of stage 2 that consists of them."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SMALL).save_pretrained(folder / "llm")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder / "llm")
    WhisperModel(TINY_WHISPER).save_pretrained(folder / "encoder")
    WhisperFeatureExtractor().save_pretrained(folder / "encoder")
    encoder, llm = (Weights(source=str(folder / name), revision=None, sha256=None) for name in ("encoder", "llm"))
    for kind in ("semantic", "emotion"):
        config = ModelConfig(
            models=ModelsParams(encoder=encoder, llm=llm), emotions=list(EMOTIONS.values()), pad_to_30s=False, seed=1,
            encoder_trained=False, plora=kind == "emotion",
        )  # fmt: skip
        model = saved_model.build(config, torch.float32)
        if config.plora:
            model.add_plora(lora_config(PLORA.rank, PLORA.alpha, 0.0, PLORA.targets))
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (kind == "semantic" and name.startswith("adapter.up")):
                torch.nn.init.normal_(parameter, std=0.02)
        saved_model.save(model, config, folder / kind)


def pack(folder: Path, clips: list[Path], prompter: Prompter, prompts: PromptsParams) -> None:
    """Write a packed folder of each stage whose test split are the clips; the continuations are random tokens."""
    generator = np.random.default_rng(0)

    def row(file: Path) -> dict[str, Any]:
        fields, samples = file.stem.split("-"), mono_16k.decode(file.read_bytes())
        text_ids = prompter.content_ids(SENTENCES[fields[4]])
        num_speech = num_speech_tokens(num_mel_frames(len(samples)))
        return {
            "id": f"ravdess/{file.stem}", "corpus": "ravdess", "speaker": f"ravdess/{fields[6]}",
            "emotion": EMOTIONS[fields[2]], "text": SENTENCES[fields[4]],
            "audio": {"bytes": mono_16k.encode_flac(samples), "path": None}, "num_samples": len(samples),
            "num_speech_tokens": num_speech, "num_text_tokens": len(text_ids), "text_ids": list(text_ids),
            "num_response_tokens": NUM_RESPONSE_TOKENS,
            "response_ids": generator.integers(1_000, 40_000, NUM_RESPONSE_TOKENS).tolist(),
        }  # fmt: skip

    speech, text = prompter.speech(prompts.semantic), prompter.text(prompts.semantic, "")
    shell = packed.PromptShell(
        before_speech=list(speech.before), before_text=list(text.before), after=list(speech.after)
    )
    with packed.Writer(folder / "packed", shell, shard_bytes=1 << 30) as writer:
        writer.write("test", (row(file) for file in clips))


def cpu_s(checkout: Path, folder: Path, kind: str, settings: dict[str, Any], output: Path) -> float:
    """Run the stage in a checkout; return its CPU time."""
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(settings))
    command = [
        sys.executable, "-m", "evaluate.respond", "--kind", kind, "--data", str(folder / "packed"),
        "--model", str(folder / kind), "--output", str(output), "--params", str(params),
    ]  # fmt: skip
    quiet = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(checkout)}
    process = os.posix_spawn(
        "/bin/sh", ["sh", "-c", 'cd "$0" && exec "$@"', str(checkout), *command], {**os.environ, **quiet}
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise UserError(f"{checkout}: evaluate.respond --kind {kind}: found exit status {status}, expected 0")
    return usage.ru_utime + usage.ru_stime


def compare(old: Path, new: Path) -> float:
    """Return the largest difference of a score or a KL; raises UserError if anything else differs."""
    largest = 0.0
    for file in sorted(old.glob("*.parquet")):
        tables = [pq.read_table(each / file.name).to_pandas() for each in (old, new)]
        keys = ["id", *({"system", "condition"} & set(tables[0].columns))]
        before, after = (table.sort_values(keys).reset_index(drop=True) for table in tables)
        for name in before.columns:
            if name in ("scores", "kl"):
                has = before[name].notna()
                assert (has == after[name].notna()).all()
                pair = (np.stack(table[name][has].to_list()) for table in (before, after))
                largest = max(largest, float(np.abs(np.subtract(*pair)).max()))
            elif not before[name].equals(after[name]):
                raise UserError(f"{file.name}: {name}: found different values, expected the same in both checkouts")
    if not largest <= WITHIN:
        raise UserError(f"{new}: found a difference of {largest:.2g}, expected at most {WITHIN}")
    return largest


def main(folder: Path, old: Path, data: Path) -> None:
    """Make the inputs, run both checkouts in turn and write the figures."""
    defaults = yaml.safe_load((ROOT / "params.yaml").read_text())
    if not (folder / "packed").exists():
        files = sorted((data / "RAVDESS").rglob("03-01-*.flac"))
        known = [file for file in files if file.stem.split("-")[2] in EMOTIONS]
        tokenizer = fetch(Weights.model_validate(defaults["models"]["llm"]))
        make_model(folder, tokenizer)
        prompts = PromptsParams.model_validate(defaults["prompts"])
        pack(folder, known[:: len(known) // NUM_CLIPS][:NUM_CLIPS], Prompter.load(folder / "llm"), prompts)
    with recorded("respond") as figures:
        for name, (kind, changes) in RUNS.items():
            respond = defaults["respond"] | changes
            settings = {"respond": respond, "prompts": defaults["prompts"], "processes": 1}
            times: dict[str, list[float]] = {"old": [], "new": []}
            for _ in range(ROUNDS):
                for side, checkout in (("old", old), ("new", ROOT)):
                    times[side].append(cpu_s(checkout, folder, kind, settings, folder / "out" / side))
            figures[name] = {
                "settings": respond,
                "ratio": statistics.median(times["old"]) / statistics.median(times["new"]),
                "largest_difference_nats": compare(folder / "out" / "old", folder / "out" / "new"),
                **median_and_runs("old_cpu_s", times["old"]),
                **median_and_runs("new_cpu_s", times["new"]),
            }
            shutil.rmtree(folder / "out")
            say(f"{name}: {json.dumps(figures[name])}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
