"""Load the whole Whisper, encoder and decoder, from a folder, and check that it can transcribe."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.stage import UserError
from pipeline.weights.encoder import check_encoder_config
from pipeline.weights.pretrained import load_pretrained
from pipeline.weights.source import loading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration

_WHOLE = "expected a whole Whisper; name one in transcribe.model"


def load_whisper(folder: Path, dtype: "torch.dtype") -> "WhisperForConditionalGeneration":
    """Load the Whisper in `folder`; raises UserError if it lacks the decoder or the settings of transcription."""
    from transformers import WhisperForConditionalGeneration

    check_encoder_config(folder)
    try:
        whisper: WhisperForConditionalGeneration = load_pretrained(WhisperForConditionalGeneration, folder, dtype=dtype)
    except UserError as error:
        raise UserError(f"{error}; {_WHOLE}") from None
    if not hasattr(whisper.generation_config, "no_timestamps_token_id"):
        raise UserError(f"transcribe: {folder}: found no no_timestamps_token_id in generation_config.json, {_WHOLE}")
    return whisper


def load_whisper_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of the Whisper in `folder`; raises UserError if there is none."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        raise UserError(f"transcribe: {folder}: found no tokenizer_config.json, {_WHOLE}")
    with loading(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer
