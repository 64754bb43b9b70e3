"""What config.json of a model folder says: which base models it needs, and which of its weights were trained."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.stage import UserError
from pipeline.weights.source import ModelsParams

CONFIG_FILE = "config.json"

Pooling = Literal["mean", "attention"]
Layers = Literal["last", "weighted"]


class ModelConfig(BaseModel):
    """The content of config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: ModelsParams
    emotions: list[str]
    pad_to_30s: bool
    seed: int
    """Seed of the initial weights of adapter and emotion head."""
    encoder_trained: bool
    plora: bool
    plora_positions: Literal["speech", "all"] = "speech"
    """Where P-LoRA acts in a sequence that holds speech."""
    head_pooling: Pooling = "mean"
    """How the emotion head pools the frames of a clip."""
    head_layers: Layers = "last"
    """What the emotion head pools: speech embeddings, or a weighted sum of the states of all layers of the encoder."""


def load_config(folder: Path) -> ModelConfig:
    """Read config.json; raises UserError if there is no model, or if the file is not that of a trained model."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no trained model there ({CONFIG_FILE} is missing); run python -m train.fit first")
    try:
        return ModelConfig.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        found = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise UserError(f"{file}: {found}; expected the one of a model that python -m train.fit wrote") from None
