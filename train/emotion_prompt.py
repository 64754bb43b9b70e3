"""An emotion prompt: a few embeddings for each emotion, which stand before the speech in the LLM's input.

They are learnt from text alone (train/fit_prompt), and used by stage 1 and stage 2 models of the same LLM
(docs/emotion-prompt.md). A folder has

    config.json         the LLM and its weights, emotions, number of embeddings, hashes of the sentences; null if none
    prompt.safetensors  the embeddings

Dimension letters: b rows, k emotions, p embeddings of an emotion, s speech embeddings, d LLM width.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pipeline.stage import UserError, replace_folder
from pipeline.tables import parquet
from pipeline.weights.source import Weights, fetch, name_weights
from train.model import Speech
from train.model_config import CONFIG_FILE

PROMPT_FILE = "prompt.safetensors"
_TENSOR = "embeddings"


class EmotionPromptConfig(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    llm: Weights
    weights: str
    """Name of the LLM's weights, with their commit, checksum or hash (pipeline/weights/source.py)."""
    emotions: list[str]
    tokens: int
    """Number of embeddings of an emotion."""
    sentences: list[str]
    """Hashes of the sentences of train and dev, sorted; `known` finds the transcripts that are among them."""

    def known(self, texts: Iterable[str]) -> set[str]:
        """Return those of the texts that the prompt was learnt from, or measured on."""
        hashes = set(self.sentences)
        return {text for text in texts if hash_text(text) in hashes}


class EmotionPrompt(nn.Module):
    """The embeddings of each emotion, in the scale of the LLM's token embeddings."""

    def __init__(self, embeddings: Float[Tensor, "k p d"]) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings.float())

    @classmethod
    def of_names(cls, table: nn.Embedding, names: Iterable[Sequence[int]], tokens: int) -> "EmotionPrompt":
        """Start each emotion at the mean token embedding of its name; `names` are the token ids of the names."""
        device = table.weight.device
        with torch.no_grad():
            means = [table(torch.tensor(ids, device=device)).float().mean(0) for ids in names]
        return cls(torch.stack(means)[:, None].repeat(1, tokens, 1))

    def mixed(self, weights: Float[Tensor, "b k"]) -> Float[Tensor, "b p d"]:
        """Return the mean of the emotions' embeddings with these weights; with a single weight of 1, one emotion's."""
        return torch.einsum("bk,kpd->bpd", weights.to(self.embeddings), self.embeddings)


def before_speech(embeddings: Sequence[Float[Tensor, "_ d"] | None], speech: Speech) -> Speech:
    """Put embeddings before the speech of each row, which they lengthen; None leaves a row as it is."""
    clips = [clip[valid] for clip, valid in zip(speech.embeddings, speech.valid, strict=True)]
    pairs = zip(embeddings, clips, strict=True)
    return Speech.of([clip if mine is None else torch.cat([mine.to(clip.dtype), clip]) for mine, clip in pairs])


def describe(llm: Weights, emotions: list[str], tokens: int, sentences: Iterable[str]) -> EmotionPromptConfig:
    """Return the config of a prompt for an LLM, learnt from these sentences."""
    return EmotionPromptConfig(
        llm=llm,
        weights=name_weights(llm, fetch(llm)),
        emotions=emotions,
        tokens=tokens,
        sentences=sorted(map(hash_text, sentences)),
    )


def hash_text(text: str) -> str:
    """Return the hash of a normalised sentence: the config has no words, which a corpus may not allow to pass on."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def save_prompt(prompt: EmotionPrompt | None, config: EmotionPromptConfig | None, folder: Path) -> None:
    """Write a prompt, or that there is none, into a new folder; the old one is replaced when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if prompt is not None:
        with parquet.whole(partial / PROMPT_FILE) as file:
            file.write_bytes(save({_TENSOR: prompt.embeddings.detach().cpu().contiguous()}))
    content = None if config is None else config.model_dump()
    (partial / CONFIG_FILE).write_text(json.dumps(content, indent=1) + "\n")
    replace_folder(partial, folder)


def load_prompt(folder: Path, llm: Weights, emotions: list[str]) -> tuple[EmotionPrompt, EmotionPromptConfig] | None:
    """Load a prompt for a model with this LLM and these emotions; None if the folder says that there is none.

    Raises UserError if there is no such folder, or if the prompt is one for another LLM or for other emotions.
    """
    config = _read_config(folder)
    if config is None:
        return None
    if (config.llm, config.weights) != (llm, name_weights(llm, fetch(llm))):
        raise UserError(f"{folder}: found an emotion prompt for {config.llm.source}, expected one for {llm.source}")
    if config.emotions != emotions:
        found, expected = ", ".join(config.emotions), ", ".join(emotions)
        raise UserError(f"{folder}: found an emotion prompt for {found}, expected one for {expected}")
    try:
        tensors = load_file(folder / PROMPT_FILE)
    except (FileNotFoundError, SafetensorError) as error:
        raise UserError(f"{folder / PROMPT_FILE}: found {error}, expected the embeddings of a prompt") from None
    shape = [len(config.emotions), config.tokens]
    if _TENSOR not in tensors or list(tensors[_TENSOR].shape[:2]) != shape:
        raise UserError(f"{folder / PROMPT_FILE}: found other tensors, expected {_TENSOR} of the shape {shape} + width")
    return EmotionPrompt(tensors[_TENSOR]).requires_grad_(False), config


def _read_config(folder: Path) -> EmotionPromptConfig | None:
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no emotion prompt there ({CONFIG_FILE} is missing); run python -m train.fit_prompt")
    try:
        found = json.loads(file.read_bytes())
        return None if found is None else EmotionPromptConfig.model_validate(found)
    except (ValueError, ValidationError):
        raise UserError(
            f"{file}: found other content, expected the one that python -m train.fit_prompt wrote"
        ) from None
