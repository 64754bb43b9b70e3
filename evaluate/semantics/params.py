"""The parameters of semantics: section semantics of params.yaml."""

from pydantic import NonNegativeInt, PositiveInt

from pipeline.params import Precision, Section
from pipeline.weights.source import Weights


class SemanticsParams(Section):
    """What is measured of how well a model keeps the words."""

    seed: int
    """Of the choice of clips, and of the wrong clips."""
    system: str
    """The system message of the tasks repeat and instructions."""
    repeat_prompt: str
    """Text before the clip that is to be repeated, or before its transcript."""
    repeat: NonNegativeInt
    """The most clips to repeat, balanced over the speakers; 0: none."""
    answers: NonNegativeInt
    """The most clips whose answers are compared with those to their transcripts; 0: none."""
    embedder: Weights | None
    """A sentence embedder in Hugging Face format, for the cosine of answers; null: only the F1 of their words."""
    instructions: NonNegativeInt
    """The number of instructions on the form of answers, from the first one of instructions.yaml on; 0: none."""
    text_prompts: NonNegativeInt
    """The most text prompts whose logits are compared with those of the LLM alone; 0: none."""
    batch_size: PositiveInt
    """Clips that are answered at once."""
    max_new_tokens: PositiveInt
    precision: Precision
    """auto is float32 on a CPU; on a GPU it is as in training."""
