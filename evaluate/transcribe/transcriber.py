"""The whole Whisper in batches: greedy, without timestamps, in the language of the clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from evaluate.asking.clip_choice import choose_clips
from pipeline.audio.mono_16k import Samples
from pipeline.stage import say
from pipeline.tables.packed import Rows
from pipeline.weights.pretrained import quiet
from pipeline.weights.whisper import load_whisper, load_whisper_tokenizer
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.precision import answering_dtype, best_device

MAX_TOKENS = 224  # half of Whisper's text positions, as in openai/whisper (`sample_len`)
_ABOUT = ("id", "corpus", "speaker", "language", "text", "num_samples")


@dataclass(frozen=True, slots=True)
class ChosenClip:
    """A test clip of packed data."""

    kind: str
    place: int
    """Its place in the test split."""
    about: dict[str, Any]
    """_ABOUT."""


def choose(rows: Mapping[str, Rows], count: int | None, seed: int) -> list[ChosenClip]:
    """Choose at most `count` test clips of each kind, balanced over the speakers."""
    chosen = []
    for kind, of_kind in rows.items():
        places = choose_clips(of_kind.column("speaker").to_pylist(), count, seed)
        about = pa.table({name: of_kind.column(name) for name in _ABOUT}).take(places).to_pylist()
        chosen += [ChosenClip(kind, *each) for each in zip(places, about, strict=True)]
    return chosen


class Transcriber:
    """A whole Whisper on the best device."""

    def __init__(self, folder: Path, rows: Mapping[str, Rows]) -> None:
        """Load the Whisper in `folder`, and take the test rows of each kind."""
        self.device = best_device()
        self.whisper = load_whisper(folder, answering_dtype("auto", self.device))
        self.whisper.to(self.device)  # type: ignore[arg-type]
        self.tokenizer = load_whisper_tokenizer(folder)
        self.log_mel = LogMel(folder, pad_to_30s=True)  # Whisper's decoder was trained on no other length
        self.rows = rows
        languages = getattr(self.whisper.generation_config, "lang_to_id", None) or {}
        self.languages = {token.strip("<|>") for token in languages}

    def tell_languages(self, clips: Sequence[ChosenClip]) -> None:
        """Say how many clips are in a language that Whisper does not know."""
        known = self.languages or {"en"}
        if unknown := sorted(
            {language for clip in clips if (language := clip.about["language"]) not in {None, *known}}
        ):
            count = sum(clip.about["language"] in unknown for clip in clips)
            done = "Whisper chooses another language for them" if self.languages else "this Whisper writes English"
            say(f"transcribe: found {count:,} clips in {', '.join(unknown)}, which this Whisper does not know; {done}")

    def transcribe(self, clips: Sequence[ChosenClip]) -> list[str]:
        """Return what Whisper writes of clips; clips of a language should stand side by side."""
        texts = []
        for language, group in groupby(clips, lambda clip: clip.about["language"]):
            samples = [decode(rows := self.rows[clip.kind], rows[clip.place], clip.place) for clip in group]
            texts += self.write(samples, language)
        return texts

    @torch.no_grad()
    def write(self, clips: Sequence[Samples], language: str | None) -> list[str]:
        """Return what Whisper writes of clips in one language; None or one that it does not know: it chooses itself."""
        features = torch.stack([self.log_mel(clip) for clip in clips]).to(self.device, self.whisper.dtype)
        spoken: dict[str, Any] = {}
        if self.languages:  # English-only models take neither
            spoken = {"task": "transcribe"}
            if language in self.languages:
                spoken["language"] = language
        with quiet():  # Whisper's own generation settings make transformers warn of its own arguments
            ids = self.whisper.generate(features, do_sample=False, num_beams=1, max_new_tokens=MAX_TOKENS, **spoken)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
