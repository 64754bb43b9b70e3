"""The model's own answers to some clips of the dev split, written at each evaluation."""

import json
from pathlib import Path

import torch

from pipeline.prompts import Prompter, PromptIds
from pipeline.tables import parquet
from pipeline.weights.source import fetch
from train.data.dataset import Examples
from train.data.log_mel import LogMel
from train.fit.data import Data
from train.inference import Answering, Clip
from train.model import SpeechLLM
from train.model_config import ModelConfig

FILE = "answers.jsonl"
MAX_NEW_TOKENS = 32
LINE_WIDTH = 120


class Answers:
    """Asks the model about the first clips of the dev split; every process asks, and the main process writes."""

    def __init__(self, data: Data, config: ModelConfig, count: int, file: Path, is_main_process: bool) -> None:
        """Take the number of clips; without a dev split there is none."""
        self.shell, self.file, self.is_main_process = data.collate.shell, file, is_main_process
        self.count = 0 if data.dev is None else min(count, len(data.dev))
        if data.dev is None or not self.count:
            return
        self.prompter = Prompter.load(fetch(config.models.llm))
        self.rows = data.dev.rows
        log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)  # wherever the training computes it
        self.dev = Examples(self.rows, log_mel, config.emotions)

    @torch.no_grad()
    def write(self, model: SpeechLLM, step: int) -> list[str]:
        """Write the greedy answers after `step` steps, in place of those of this step and later ones.

        Returns a line for each answer. The model is left in evaluation mode, and the random draws as they are.
        """
        if not self.count:
            return []
        examples = [self.dev[number] for number in range(self.count)]
        prompt = PromptIds(tuple(self.shell.before_speech), (), tuple(self.shell.after))
        model.eval()
        device = model.token_embeddings.weight.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            answering = Answering(model, self.prompter, MAX_NEW_TOKENS)
            clips = [Clip(example.features, example.num_frames) for example in examples]
            answers = answering.write([prompt] * len(clips), clips)
        if not self.is_main_process:
            return []
        found = [
            {"step": step, "id": example.id, "transcript": self.rows[number]["text"], "answer": answer}
            for number, (example, answer) in enumerate(zip(examples, answers, strict=True))
        ]
        self._replace(step, found)
        return [_line(step, record["id"], record["answer"]) for record in found]

    def _replace(self, step: int, found: list[dict[str, object]]) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        earlier = [line for line in lines if json.loads(line)["step"] < step]
        lines = earlier + [json.dumps(record, ensure_ascii=False) for record in found]
        with parquet.whole(self.file) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _line(step: int, clip: object, answer: object) -> str:
    line = " ".join(f"step {step}, {clip}: {answer}".split())
    return line if len(line) <= LINE_WIDTH else line[: LINE_WIDTH - 1] + "…"
