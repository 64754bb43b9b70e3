"""The signature of answers: everything that they depend on besides transcript and emotion."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from pipeline.generate.params import GenerateParams
from pipeline.prompts import Prompt
from pipeline.weights.chat_template import ASKS_FOR_DATE, DATE
from pipeline.weights.source import Weights, digest_files, name_weights

_LAYOUT = 1  # version of the keys; another number gives every signature another name
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
    "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tekken.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Model, tokenizer, prompt and sampling. Equal signatures give equal answers if the engine is deterministic."""

    model: str
    """Source and revision of the weights, or a hash of them."""
    tokenizer: str
    """Hash of the tokenizer, its chat template and the tokens that end an answer."""
    system: str
    text: str
    """Text before the transcript, with {emotion} in the place of the emotion."""
    dtype: str
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    """None if decoding is greedy."""
    date: str | None = None
    """The date that the chat template writes; None if it writes none."""

    @property
    def content(self) -> dict[str, Any]:
        """The fields; without the date if there is none, so that signatures from before the field keep their names."""
        return {name: value for name, value in asdict(self).items() if name != "date" or value is not None}

    @property
    def name(self) -> str:
        """A hash of all fields, 32 hexadecimal digits."""
        content = json.dumps([_LAYOUT, self.content], sort_keys=True, ensure_ascii=False)
        return xxhash.xxh3_128_hexdigest(content.encode())

    @property
    def names_emotion(self) -> bool:
        """Whether the prompt depends on the emotion."""
        return "{emotion}" in self.text

    def key(self, transcript: str, emotion: str | None) -> bytes:
        """Return the key of the answer to a transcript, 16 bytes."""
        return xxhash.xxh3_128_digest(f"{emotion if self.names_emotion else ''}\n{transcript}".encode())


def make_signature(settings: GenerateParams, prompt: Prompt, llm: Weights, folder: Path) -> Signature:
    """Return the signature of a run whose LLM is in `folder`."""
    greedy = settings.temperature == 0
    return Signature(
        model="echo" if settings.engine == "echo" else name_weights(llm, folder),
        tokenizer=digest_files(folder / name for name in _TOKENIZER_FILES),
        system=prompt.system,
        text=prompt.text,
        dtype=settings.dtype,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=1.0 if greedy else settings.top_p,
        seed=None if greedy else settings.seed,
        date=DATE.date().isoformat() if _writes_date(folder) else None,
    )


def _writes_date(folder: Path) -> bool:
    """Return whether the chat template in a folder asks for the date."""
    files = (folder / name for name in _TEMPLATE_FILES)
    return any(file.is_file() and ASKS_FOR_DATE in file.read_text() for file in files)
