"""The model of a stage that continues from an earlier model: the parameter `fit.*.init`.

Stage 1 takes the adapter of a model of either stage, and the encoder if stage 2 has trained it, because the adapter
reads its states; the encoder stays frozen. P-LoRA is left out, because stage 1 has none. Stage 2 takes all of an
earlier stage-2 model: adapter, emotion head with its mean and deviation, P-LoRA, and the encoder.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from pipeline.stage import UserError
from pipeline.weights.lora import check_targets
from pipeline.weights.source import ModelsParams
from train import saved_model
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.model import SpeechLLM
from train.model.plora import lora_config
from train.model_config import ModelConfig, load_config


def load_earlier(
    settings: FitParams, models: ModelsParams, emotions: list[str], dtype: torch.dtype
) -> tuple[SpeechLLM, ModelConfig]:
    """Load the model of `fit.*.init` as the start of a stage; only the weights that the stage trains need a gradient.

    Raises UserError if it is not a model that the stage can continue.
    """
    folder, config = read_earlier(settings, models, emotions)
    model = saved_model.load(folder, dtype, with_plora=False)
    if isinstance(settings, SemanticFitParams):
        model.head.requires_grad_(False)
        return model, config.model_copy(update={"plora": False})
    assert isinstance(settings, EmotionFitParams)
    plora = settings.plora
    check_targets(model.llm, [] if isinstance(plora.targets, str) else plora.targets)
    model.add_plora(
        lora_config(plora.rank, plora.alpha, plora.dropout, plora.targets), everywhere=plora.positions == "all"
    )
    state = saved_model.read_plora(folder)
    if (layers := _layers(state)) != (wanted := _layers(saved_model.plora_state(model))):
        raise UserError(
            f"fit.emotion.init: {folder}: fit.emotion.plora.targets: found {', '.join(layers)}, expected "
            f"{', '.join(wanted)} as in the parameters"
        )
    saved_model.load_plora(model, state)
    if settings.train_encoder:
        model.encoder.train_weights()
    return model, config.model_copy(update={"encoder_trained": config.encoder_trained or settings.train_encoder})


def read_earlier(settings: FitParams, models: ModelsParams, emotions: list[str]) -> tuple[Path, ModelConfig]:
    """Return the folder of the earlier model and its config; raises UserError if the stage cannot continue it."""
    kind = "semantic" if isinstance(settings, SemanticFitParams) else "emotion"
    assert settings.init is not None
    folder = Path(settings.init)
    where = f"fit.{kind}.init: {folder}"
    try:
        config = load_config(folder)
    except UserError as error:
        raise UserError(f"fit.{kind}.init: {error}") from None
    expected: list[tuple[str, object, object]] = [
        ("models.encoder", config.models.encoder.model_dump(), models.encoder.model_dump()),
        ("models.llm", config.models.llm.model_dump(), models.llm.model_dump()),
        ("emotions", config.emotions, emotions),
    ]
    if isinstance(settings, SemanticFitParams):
        expected.append(("fit.semantic.pad_to_30s", config.pad_to_30s, settings.pad_to_30s))
        if settings.encoder_states == "cached" and config.head_layers == "weighted":
            raise UserError(
                f"{where}: found an emotion head that reads all layers of the encoder, expected "
                "fit.semantic.encoder_states: computed, because only the states of the last layer are cached"
            )
    if isinstance(settings, EmotionFitParams):
        if not config.plora:
            raise UserError(
                f"{where}: found a stage-1 model, expected a stage-2 model; the option --init names a stage-1 model"
            )
        rank, alpha = saved_model.plora_size(folder)
        expected.append(("fit.emotion.plora.rank", rank, settings.plora.rank))
        expected.append(("fit.emotion.plora.alpha", alpha, settings.plora.alpha))
        expected.append(("fit.emotion.plora.positions", config.plora_positions, settings.plora.positions))
        expected.append(("fit.emotion.head.pooling", config.head_pooling, settings.head.pooling))
        expected.append(("fit.emotion.head.layers", config.head_layers, settings.head.layers))
    for name, found, wanted in expected:
        if found != wanted:
            raise UserError(f"{where}: {name}: found {found}, expected {wanted} as in the parameters")
    return folder, config


def _layers(plora: Iterable[str]) -> list[str]:
    """Return the names of the layers that P-LoRA's tensors belong to, without their places in the LLM."""
    return sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in plora})


def describe_start(folder: Path, settings: FitParams) -> str:
    """Say what a stage takes of the earlier model in a folder, and what not."""
    config = load_config(folder)
    encoder = ["trained encoder"] if config.encoder_trained else []
    if not isinstance(settings, SemanticFitParams):
        return f"continues from {folder}: adapter, P-LoRA, {', '.join([*encoder, 'emotion head'])}"
    lines = [f"continues from {folder}: {' and '.join(['adapter', *encoder])}"]
    if config.plora:
        lines.append("without its P-LoRA")
    if settings.warm_start is not None:
        lines.append("without a warm start")
    return ", ".join(lines)
