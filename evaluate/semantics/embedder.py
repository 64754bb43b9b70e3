"""The cosine of texts by a sentence embedder: mean-pooled hidden states, as sentence-transformers computes them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer

from pipeline.weights.pretrained import load_pretrained
from pipeline.weights.source import loading
from train.precision import best_device

TEXTS_AT_ONCE = 64


class Embedder:
    """A sentence embedder on the best device."""

    def __init__(self, folder: Path) -> None:
        """Load the model and the tokenizer in `folder`; raises UserError if a weight is missing."""
        import transformers

        with loading(folder):
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = load_pretrained(transformers.AutoModel, folder, dtype=torch.float32).to(best_device())

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """Return the cosine of each pair."""
        return functional.cosine_similarity(self._embed(first), self._embed(second)).tolist()

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        found = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            batch = self.tokenizer(
                list(texts[start : start + TEXTS_AT_ONCE]), padding=True, truncation=True, return_tensors="pt"
            ).to(self.model.device)
            mask = batch["attention_mask"][..., None]
            states = self.model(**batch).last_hidden_state
            found.append((states * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.cat(found)
