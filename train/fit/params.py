"""The parameters of both training stages: section fit of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pipeline.params import Precision, Section


class FitParams(Section):
    """The parameters that both stages share."""

    seed: int
    epochs: Annotated[float, Field(gt=0)]
    max_steps: PositiveInt | None
    """Stop after this number of optimizer steps, if the epochs do not end earlier."""
    batch_size: PositiveInt
    """Clips in a batch on one device."""
    accumulation: PositiveInt
    """Batches on one device in an optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Precision
    """bfloat16 applies to the frozen LLM; the trained weights are always float32. auto chooses bfloat16 if the GPU or
    the processor multiplies it natively, which is two to three times as fast."""
    workers: Annotated[int, Field(ge=0)]
    """Processes per device that decode clips. With 0, the training process decodes them itself, between steps."""
    log_every: PositiveInt
    evaluate_every: PositiveInt
    save_every: PositiveInt


class WarmStartParams(Section):
    """The warm start of the adapter before stage 1 (train/fit/ctc_warm_start.py)."""

    epochs: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]


class SemanticFitParams(FitParams):
    """Stage 1."""

    warm_start: WarmStartParams | None
    """null: no warm start, as published."""

    pad_to_30s: bool
    """Pad every clip to 30 s of log-mel, as published; stage 2 uses the value of its stage-1 model."""
    teacher: Literal["exact", "stored"]
    """exact runs the LLM on the transcript in every step; stored reads the likeliest tokens that
    generate.store_logprobs has kept. The dev KL is exact in both cases."""
    temperature: Annotated[float, Field(gt=0)]

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, temperature: float, known: ValidationInfo) -> float:
        if known.data.get("teacher") == "stored" and temperature != 1:
            raise ValueError(
                "1 with a stored teacher, because at any other temperature the probability of the tokens that were not "
                "stored is unknown"
            )
        return temperature


class PloraParams(Section):
    """The size of P-LoRA and its layers."""

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
