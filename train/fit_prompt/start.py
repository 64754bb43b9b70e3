"""The frozen LLM and the prompt before its first step."""

from collections.abc import Sequence

from torch import nn

from pipeline.prompts import Prompter
from pipeline.weights.source import ModelsParams
from train import saved_model
from train.emotion_prompt import EmotionPrompt
from train.fit_prompt.params import FitPromptParams
from train.model import SpeechLLM
from train.model_config import ModelConfig
from train.own_forward import checkpoint_layers
from train.precision import best_device, training_dtype


def build_model(models: ModelsParams, emotions: list[str], settings: FitPromptParams) -> SpeechLLM:
    """Build the model as stage 1 of training starts with it, frozen, on the best device of this machine."""
    device = best_device()
    config = ModelConfig(
        models=models,
        emotions=emotions,
        pad_to_30s=False,
        seed=settings.seed,
        encoder_trained=False,
        plora=False,
    )
    model = saved_model.build(config, training_dtype(settings.precision, device)).requires_grad_(False)
    model.to(device)
    if settings.checkpoint_layers:
        checkpoint_layers(model)
    return model


def start_prompt(model: SpeechLLM, prompter: Prompter, emotions: Sequence[str], tokens: int) -> EmotionPrompt:
    """Return a prompt whose embeddings are those of the emotions' names."""
    table: nn.Embedding = model.token_embeddings
    names = [prompter.content_ids(emotion) for emotion in emotions]
    return EmotionPrompt.of_names(table, names, tokens).to(table.weight.device)
