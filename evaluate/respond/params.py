"""The parameters of respond: section respond of params.yaml."""

from pydantic import PositiveInt

from pipeline.params import Precision, Section


class RespondParams(Section):
    """How the test part is answered."""

    seed: int
    """Chooses the swapped clips and the examples."""
    batch_size: PositiveInt
    max_new_tokens: PositiveInt
    examples: PositiveInt
    """Rows answered at length, for the report."""
    precision: Precision
    """auto answers on a GPU as training runs there, in bfloat16 where the GPU can, and on a CPU in float32."""
