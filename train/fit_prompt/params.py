"""The parameters of fit_prompt: section fit_prompt of params.yaml."""

from typing import Annotated

from pydantic import Field, PositiveInt

from pipeline.params import Precision, Section
from train.fit.params import Shape


class FitPromptParams(Section):
    """The section `fit_prompt`, if it is not null."""

    seed: int
    """Seed of the order of the examples."""
    tokens: PositiveInt
    """Embeddings of an emotion."""
    steps: PositiveInt
    batch_size: PositiveInt
    """Examples of a step: a sentence with one emotion each."""
    rows_at_once: PositiveInt
    """Examples on which the LLM runs at once; fewer need less memory and give the same step."""
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Shape
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    evaluate_every: PositiveInt
    """Steps between two measurements on dev."""
    precision: Precision
    """Of the frozen LLM, as in training; the embeddings are always float32."""
    checkpoint_layers: bool
    """Less memory, more time, the same gradient, as in `fit`."""
