"""Load Whisper's encoder from a folder, and check that it is one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.stage import UserError
from pipeline.weights.pretrained import load_pretrained
from pipeline.weights.source import loading

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")  # the last two: either
_NEEDED = "encoder."  # the decoder is not used


def load_encoder(folder: Path) -> "WhisperEncoder":
    """Load the encoder of the Whisper in `folder` in float32; raises UserError as `check_encoder`."""
    import torch
    from transformers import WhisperModel

    check_encoder_config(folder)
    encoder: WhisperEncoder = load_pretrained(WhisperModel, folder, needed=_NEEDED, dtype=torch.float32).encoder
    return encoder


def check_encoder(folder: Path) -> None:
    """Raise UserError if `folder` holds no whole Whisper, or a feature extractor of another model."""
    from transformers import WhisperModel

    check_encoder_config(folder)
    load_pretrained(WhisperModel, folder, needed=_NEEDED, device_map="meta")


def check_encoder_config(folder: Path) -> None:
    """Raise UserError if the configuration in `folder` is not that of a Whisper and its feature extractor."""
    from transformers import WhisperFeatureExtractor

    config = json.loads((folder / CONFIG_FILES[0]).read_text())
    if (kind := config.get("model_type")) != "whisper":
        raise UserError(f"models.encoder: {folder}: found a model of the type {kind}, expected whisper")
    if not any((folder / name).is_file() for name in CONFIG_FILES[1:]):
        raise UserError(f"models.encoder: {folder}: found no {CONFIG_FILES[1]}, expected the one of this Whisper")
    with loading(folder):
        extractor = WhisperFeatureExtractor.from_pretrained(folder)
    found, expected = extractor.feature_size, config.get("num_mel_bins", extractor.feature_size)
    if found != expected:
        raise UserError(
            f"models.encoder: {folder}: found a feature extractor of {found} mel bins, expected {expected} as "
            "config.json says"
        )
