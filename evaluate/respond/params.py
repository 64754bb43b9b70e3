"""The parameters of respond: section respond of params.yaml."""

from pydantic import PositiveInt

from pipeline.params import Precision, Section


class RespondParams(Section):
    """The settings for answering the test split."""

    seed: int
    """Seed for drawing the wrong clips and the examples."""
    batch_size: PositiveInt
    """Rows that are answered at once; the rows of a batch have similar lengths."""
    max_new_tokens: PositiveInt
    examples: PositiveInt
    """Number of example rows, with full answers, in the report."""
    precision: Precision
    """auto is float32 on a CPU; on a GPU it is as in training: bfloat16 if the GPU multiplies it natively."""
