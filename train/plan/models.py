"""The model of a recipe without values: only the shapes of its weights, from the configurations in recipes/facts."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from pipeline.stage import UserError
from pipeline.weights.llm import attention_of
from pipeline.weights.source import PYPI, ModelsParams, Weights, cache_folder
from train.fit.params import EmotionFitParams, FitParams
from train.model import SpeechLLM
from train.model.emotion_head import HeadShape
from train.model.encoder import SpeechEncoder
from train.model.plora import lora_config

FOLDER = Path(__file__).parents[2] / "recipes" / "facts" / "models"


def config_name(source: str) -> str:
    """Return the file name of a source's configuration: the hub id, or the first package and its version."""
    first = source.removeprefix(PYPI).split(",")[0].strip()
    return f"{first.replace('==', '-').replace('/', '--')}.json"


def read_config(section: str, weights: Weights) -> PreTrainedConfig:
    """Return the configuration of a model: that of its folder, or the one that the repository has.

    Raises UserError if there is none, or if it is not readable.
    """
    folder = Path(weights.source).expanduser()
    shipped = FOLDER / config_name(weights.source)
    cached = sorted((cache_folder() / "weights").glob(f"{shipped.stem}-*/config.json"))
    for file in (folder / "config.json", shipped, *cached):
        if file.is_file():
            return _read(section, file)
    raise UserError(
        f"models.{section}.source: found no configuration of {weights.source}, expected {shipped} or a folder with "
        "config.json; copy the model's config.json there"
    )


def _read(section: str, file: Path) -> PreTrainedConfig:
    try:
        values: dict[str, Any] = json.loads(file.read_text())
        config: PreTrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = str(error).strip().partition("\n")[0]
        raise UserError(f"models.{section}: {file}: found {found}, expected a model's configuration") from None
    return config


def read_encoder_config(weights: Weights) -> WhisperConfig:
    """Return the configuration of the encoder as `read_config` does; raises UserError also if it is no Whisper."""
    config = read_config("encoder", weights)
    if not isinstance(config, WhisperConfig):
        raise UserError(f"models.encoder: found a model of the type {config.model_type}, expected whisper")
    return config


def outline(
    models: ModelsParams, num_emotions: int, settings: FitParams, pad_to_30s: bool, llm_dtype: torch.dtype
) -> SpeechLLM:
    """Return the model of a stage on the device meta, with the weights trained that the stage trains.

    Raises UserError if a model has no configuration, or if the encoder is no Whisper.
    """
    encoder, llm = read_encoder_config(models.encoder), read_config("llm", models.llm)
    return outline_of(encoder, llm, num_emotions, settings, pad_to_30s, llm_dtype)


def outline_of(
    encoder: WhisperConfig,
    llm: PreTrainedConfig,
    num_emotions: int,
    settings: FitParams,
    pad_to_30s: bool,
    llm_dtype: torch.dtype,
) -> SpeechLLM:
    """Return the model of a stage as `outline` does, from two configurations."""
    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(llm, dtype=llm_dtype, attn_implementation=attention_of(llm))
        model = SpeechLLM(SpeechEncoder(WhisperEncoder(encoder), pad_to_30s), causal, num_emotions)
    if isinstance(settings, EmotionFitParams):
        plora = settings.plora
        model.add_plora(
            lora_config(plora.rank, plora.alpha, plora.dropout, plora.targets), everywhere=plora.positions == "all"
        )
        if settings.train_encoder:
            model.encoder.train_weights()
        with torch.device("meta"):
            model.change_head(HeadShape(pooling=settings.head.pooling, layers=settings.head.layers))
    else:
        model.head.requires_grad_(False)
    model.checkpoints_layers = settings.checkpoint_layers
    return model
