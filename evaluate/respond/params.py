"""The parameters of respond: section respond of params.yaml."""

from typing import Annotated

from pydantic import NonNegativeInt, PositiveInt

from pipeline.params import Precision, Section
from pipeline.prompts import known_places


class RespondParams(Section):
    """The settings for answering the test split."""

    seed: int
    """Seed for drawing the wrong clips and the examples."""
    batch_size: PositiveInt
    """Rows that are answered at once; the rows of a batch have similar lengths."""
    max_new_tokens: PositiveInt
    examples: PositiveInt
    """Number of example rows, with full answers, in the report."""
    written: NonNegativeInt
    """The most test clips to which own answers are written out, balanced over the emotions of each corpus; 0: none."""
    recognition_wordings: list[Annotated[str, known_places("options")]]
    """Other wordings of prompts.recognition.speech; the labels are also scored with each of them."""
    option_orders: PositiveInt
    """Number of orders of the options in each wording; the first is that of the classes."""
    precision: Precision
    """auto is float32 on a CPU; on a GPU it is as in training: bfloat16 if the GPU multiplies it natively."""
