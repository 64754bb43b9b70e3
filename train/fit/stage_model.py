"""The model of a stage, with a gradient for the weights that the stage trains."""

from pathlib import Path

import torch

from pipeline.stage import UserError
from pipeline.weights.lora import check_targets
from pipeline.weights.source import ModelsParams, fetch
from train import saved_model
from train.data.dataset import Visit, visits
from train.data.log_mel import LogMel
from train.fit.data import Data
from train.fit.earlier_model import load_earlier
from train.fit.params import EmotionFitParams, FitParams, SemanticFitParams
from train.model import SpeechLLM
from train.model.emotion_head import HeadShape
from train.model.plora import lora_config
from train.model_config import ModelConfig, load_config
from train.precision import training_device, training_dtype

STANDARDISING_CLIPS = 256  # enough for a mean and a deviation per dimension


def build_model(
    settings: FitParams, models: ModelsParams, emotions: list[str], init: Path | None
) -> tuple[SpeechLLM, ModelConfig]:
    """Return the model of a stage; only the weights that the stage trains require a gradient.

    `init` is the stage-1 model of an emotion alignment, unless the parameters name an earlier model.
    """
    if settings.init is not None:
        return load_earlier(settings, models, emotions, llm_dtype(settings))
    if isinstance(settings, SemanticFitParams):
        model, config = semantic_model(models, emotions, settings)
    else:
        assert isinstance(settings, EmotionFitParams)
        assert init is not None
        model, config = emotion_model(models, emotions, settings, init)
    if settings.log_mel_on == "device":
        model.log_mel = LogMel(fetch(models.encoder), config.pad_to_30s).of_batches()
    return model, config


def semantic_model(
    models: ModelsParams, emotions: list[str], settings: SemanticFitParams
) -> tuple[SpeechLLM, ModelConfig]:
    """Build the model of stage 1 from base weights; only the adapter is trained."""
    config = ModelConfig(
        models=models,
        emotions=emotions,
        pad_to_30s=settings.pad_to_30s,
        seed=settings.seed,
        encoder_trained=False,
        plora=False,
    )
    model = saved_model.build(config, llm_dtype(settings))
    model.head.requires_grad_(False)
    return model, config


def emotion_model(
    models: ModelsParams, emotions: list[str], settings: EmotionFitParams, init: Path
) -> tuple[SpeechLLM, ModelConfig]:
    """Load the stage-1 model and add P-LoRA."""
    config = load_config(init)
    if (config.models, config.emotions) != (models, emotions):
        raise UserError(
            f"{init}: this stage-1 model was trained with different models or emotions from those in the parameters "
            "file; train stage 1 again"
        )
    if config.plora:
        raise UserError(
            f"--init: {init}: found a stage-2 model, expected a stage-1 model; fit.emotion.init continues from a "
            "stage-2 model"
        )
    model = saved_model.load(init, llm_dtype(settings))
    plora = settings.plora
    check_targets(model.llm, [] if isinstance(plora.targets, str) else plora.targets)
    torch.manual_seed(settings.seed)
    model.add_plora(
        lora_config(plora.rank, plora.alpha, plora.dropout, plora.targets), everywhere=plora.positions == "all"
    )
    if settings.train_encoder:
        model.encoder.train_weights()
    model.change_head(HeadShape(pooling=settings.head.pooling, layers=settings.head.layers))
    return model, config.model_copy(
        update={
            "plora": True,
            "plora_positions": plora.positions,
            "encoder_trained": config.encoder_trained or settings.train_encoder,
            "head_pooling": settings.head.pooling,
            "head_layers": settings.head.layers,
        }
    )


def check_layout(settings: FitParams, config: ModelConfig, model: SpeechLLM) -> None:
    """Raise UserError if the model cannot compute the layout of the batches."""
    if settings.batches.layout == "padded":
        for name, value in (
            ("batches.round_up", settings.batches.round_up),
            ("compile_layers", settings.compile_layers),
        ):
            if value:
                raise UserError(f"fit.*.{name}: found true, expected false, because batches.layout is padded")
        return
    where = "fit.*.batches.layout: found packed, expected padded"
    if config.pad_to_30s:
        raise UserError(f"{where}: pad_to_30s pads each clip")
    if not model.packs:
        raise UserError(f"{where}: in {type(model.llm).__name__}, rows of one sequence see each other")


@torch.no_grad()
def standardise_head(model: SpeechLLM, data: Data) -> None:
    """Set the emotion head's mean and deviation to those of training clips, as the model encodes them now."""
    batches: list[list[Visit]] = []
    for step in data.sampler.plan(epoch=0):
        if sum(map(len, batches)) < STANDARDISING_CLIPS:
            batches += [visits(rows, 0) for rows in step]
    pooled = []
    for batch in data.batches(batches):
        num_clips, batch = len(batch.ids), batch.to(model.head.mean.device)
        speech = model.encode_speech(batch.features, batch.num_frames, batch.clips)
        pooled.append(speech.pooled()[:num_clips])
    model.head.standardise(torch.cat(pooled))


def llm_dtype(settings: FitParams) -> torch.dtype:
    """Return the type of the frozen LLM on the device that accelerate chooses."""
    return training_dtype(settings.precision, training_device())
