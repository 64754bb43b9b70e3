"""The parameters of both training stages: section fit of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from pipeline.params import Precision, Section
from pipeline.weights.lora import Targets
from train.data.effects import Augment, EmotionAugment
from train.model_config import Layers, Pooling

Shape = Literal["as-published", "cosine", "constant"]
"""How the learning rate goes on after its warm-up: linearly to 0, by a cosine to 0, or without change."""

Tracker = Literal["tensorboard", "dvclive", "wandb"]
"""A program that shows the numbers of a training (train/fit/trackers.py); dvclive and wandb must be installed."""


class BatchParams(Section):
    """How rows are put into batches (train/data/sampler.py)."""

    layout: Literal["padded", "packed"]
    """padded: each row is padded to the longest one of its batch; packed: rows stand one after another."""
    max_frames: PositiveInt
    """Encoder frames of a batch on one device, with padding: 50 per second."""
    max_positions: PositiveInt
    """LLM positions of a batch on one device, with padding: of the student, and of the teacher if it runs."""
    per_step: PositiveInt
    """Batches of an optimizer step, on all devices together."""
    round_up: bool
    """Pad packed batches to few sizes, at most 1/16 over the budget: a GPU is slow on sizes that it has not seen."""


class MixtureParams(Section):
    """How often each corpus is read in an epoch, which has as many rows as all corpora together."""

    temperature: Annotated[float, Field(gt=0)]
    """The share of a corpus is its weight times its rows to the power of 1 / temperature. 1 keeps the sizes; a higher
    temperature brings the corpora closer together."""
    weights: dict[str, Annotated[float, Field(gt=0)]]
    """Weight of a corpus; a corpus that is not listed has the weight 1."""


class StallParams(Section):
    """When to say that the train loss does not move."""

    window: PositiveInt
    """Steps over which the loss is averaged; it is compared with the steps before."""
    least_change: Annotated[float, Field(gt=0, lt=1)]
    """The share of the loss by which it should have changed."""


class FitParams(Section):
    """The parameters that both stages share."""

    init: str | None
    """Folder of an earlier model to continue from (train/fit/earlier_model.py); null: the start of the stage."""
    seed: int
    epochs: Annotated[float, Field(gt=0)]
    max_steps: PositiveInt | None
    """Stop after this number of optimizer steps, if the epochs do not end earlier."""
    batches: BatchParams
    mixture: MixtureParams | None
    """null: each row once an epoch."""
    augment: Augment
    """The augmentation of training clips (train/data/effects.py); none as published."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Shape
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    precision: Precision
    """bfloat16 applies to the frozen LLM; the trained weights are always float32. auto chooses bfloat16 if the GPU or
    the processor multiplies it natively, which is two to three times as fast."""
    checkpoint_layers: bool
    """Keep only the input of each layer for the gradient, and compute the rest again: less memory, more time, the same
    gradient. For LLMs of several billion parameters."""
    shard_llm: bool
    """Divide the frozen weights of the LLM's layers over all processes: less memory on each GPU, more traffic between
    them, the same result but for rounding. For an LLM that does not fit on one GPU."""
    compile_layers: bool
    """Compile the layers of encoder and LLM (torch.compile), for the packed layout on a GPU: a minute at the start."""
    workers: Annotated[int, Field(ge=0)]
    """Processes per device that decode clips. With 0, the training process decodes them itself, between steps."""
    log_mel_on: Literal["loader", "device"]
    """Where the log-mel of clips is computed: by the processes that decode them, or by the training device for a whole
    batch. The results differ by rounding."""
    log_every: PositiveInt
    evaluate_every: PositiveInt
    save_every: PositiveInt
    stall: StallParams | None
    """null: a loss that does not move is not told."""
    stop_after: PositiveInt | None
    """Stop after this number of evaluations without a better dev loss; null: never."""
    keep: Literal["last", "best"]
    """The saved model: that of the last step, or that of the evaluation with the lowest dev loss."""
    answers: Annotated[int, Field(ge=0)]
    """Clips of the dev split that the model answers at each evaluation (train/fit/answers.py); 0: none."""
    trackers: list[Tracker]
    """Where the logged numbers go, beside the JSONL file."""
    hang_minutes: Annotated[float, Field(gt=0)]
    """With several processes: training ends if a process makes no progress for this time."""
    keep_checkpoints: PositiveInt
    """The last checkpoints that stay; with 2 or more, a damaged one costs only the steps after the one before it."""

    @property
    def runs_teacher(self) -> bool:
        """Whether the LLM runs on the transcripts in a training step."""
        raise NotImplementedError


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
    encoder_states: Literal["computed", "cached"]
    """computed: the frozen encoder runs in every step; cached: it runs once on each row, and its states are kept on
    disk (train/fit/cached_states.py), which pays from the second epoch on. The results differ by rounding."""

    @property
    def runs_teacher(self) -> bool:
        """A stored teacher does not run."""
        return self.teacher == "exact"

    @field_validator("encoder_states")
    @classmethod
    def _check_encoder_states(cls, encoder_states: str, known: ValidationInfo) -> str:
        if encoder_states == "cached" and known.data.get("augment") is not None:
            raise ValueError("computed with an augment other than none, because it changes the clips in each epoch")
        return encoder_states

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
    targets: Targets
    """all-linear, or suffixes of names of linear layers."""
    positions: Literal["speech", "all"]
    """Where it acts in a sequence that holds speech. all is ordinary LoRA, and slower; text alone stays the LLM's."""


class HeadParams(Section):
    """What the emotion head reads of a clip (train/model/emotion_head.py)."""

    pooling: Pooling
    """How the frames of a clip become one vector. mean: with even weights; attention: with the weights that a learned
    query gives them, which start even."""
    layers: Layers
    """last: the speech embeddings of the adapter; weighted: a learned weighted sum of the states of all layers of the
    encoder, which starts even."""


class EmotionFitParams(FitParams):
    """Stage 2."""

    augment: EmotionAugment
    """As in stage 1, but no effect may change pitch or tempo unless `allow_pitch_and_tempo` is true."""

    plora: PloraParams
    train_encoder: bool
    encoder_learning_rate: Annotated[float, Field(gt=0)] | None
    """The learning rate of the encoder; null: `learning_rate`."""
    response_loss: Literal["ce", "kl", "both"]
    """The loss of the continuation. ce: its cross-entropy; kl: the KL between the predictions of the LLM that reads the
    transcript and is told the emotion (train/fit/told_prompt.py) and those of the model; both: their sum."""
    emotion_weight: Annotated[float, Field(ge=0)]
    labels: Literal["hard", "soft"]
    """What the emotion head learns. hard: the label of a clip; soft: the shares of the annotators' votes for each
    class, and the label of a clip without votes."""
    head: HeadParams

    @property
    def runs_teacher(self) -> bool:
        """The teacher is told the emotion; only the KL needs it."""
        return self.response_loss != "ce"

    @field_validator("encoder_learning_rate")
    @classmethod
    def _check_encoder_learning_rate(cls, rate: float | None, known: ValidationInfo) -> float | None:
        if rate is not None and known.data.get("train_encoder") is False:
            raise ValueError("null with train_encoder: false, because the encoder is not trained")
        return rate
