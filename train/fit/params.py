"""The parameters of both training stages: section fit of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pipeline.params import Precision, Section


class FitParams(Section):
    """How a stage is trained; both stages have these."""

    seed: int
    epochs: Annotated[float, Field(gt=0)]
    max_steps: PositiveInt | None
    """Stop after so many optimizer steps, if the epochs are not over before."""
    batch_size: PositiveInt
    """Clips in a batch on one device."""
    accumulation: PositiveInt
    """Batches of one device in an optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Precision
    """In bfloat16 the frozen LLM is held and run in it, what is trained is held in float32; auto takes it where
    the GPU or the processor multiplies it by itself, which is two to three times as fast."""
    workers: Annotated[int, Field(ge=0)]
    """Processes that decode clips on each device's host; 0 decodes between the steps."""
    log_every: PositiveInt
    evaluate_every: PositiveInt
    save_every: PositiveInt


class WarmStartParams(Section):
    """Letting the adapter spell the transcripts before stage 1 (train/fit/ctc_warm_start.py)."""

    epochs: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]


class SemanticFitParams(FitParams):
    """Stage 1."""

    warm_start: WarmStartParams | None
    """null: none, as published."""

    pad_to_30s: bool
    """Pad every clip to 30 s of log-mel as the published models do; stage 2 inherits it."""
    teacher: Literal["exact", "stored"]
    """exact runs the LLM on the transcript in every step; stored takes what generate.store_logprobs has kept of it.
    The dev KL is exact either way."""
    temperature: Annotated[float, Field(gt=0)]

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, temperature: float, known: ValidationInfo) -> float:
        if known.data.get("teacher") == "stored" and temperature != 1:
            raise ValueError("1 with a stored teacher, whose mass beyond the kept tokens is known at no other")
        return temperature


class PloraParams(Section):
    """Size and place of P-LoRA."""

    rank: PositiveInt
    alpha: PositiveInt
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: str | list[str]
    """all-linear, or suffixes of module names."""


class EmotionFitParams(FitParams):
    """Stage 2."""

    plora: PloraParams
    train_encoder: bool
    emotion_weight: Annotated[float, Field(ge=0)]
