"""The parameters of the judge: section `judge` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from pipeline.generate.params import GenerateParams, RayParams, ServerParams
from pipeline.params import Section
from pipeline.weights.source import Weights


class JudgeParams(Section):
    """The section `judge`; null for a run without a judge."""

    llm: Weights
    """The judge. It should be another and a better LLM than models.llm, which wrote the answers."""
    engine: Literal["vllm", "server", "ray", "transformers"]
    """As in `generate`. With the engine transformers, nothing makes a reply follow its form."""
    server: ServerParams | None
    ray: RayParams | None
    dtype: Literal["float32", "bfloat16", "float16"]
    tensor_parallel: Literal["auto"] | PositiveInt
    max_new_tokens: Annotated[int, Field(gt=0)]
    """Largest number of tokens in a reply, with its thoughts."""
    max_model_len: int
    """Largest number of tokens in a question and its reply together."""
    temperature: Annotated[float, Field(ge=0)]
    """0 is greedy decoding."""
    rows: PositiveInt
    """Clips of each corpus whose answers are judged, drawn by chance."""
    repeats: PositiveInt
    """How often each question is asked, each time with another seed."""
    seed: int
    """Of the draw of clips and random labels, and of the first repeat."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.temperature == 0 and self.repeats > 1:
            raise ValueError("repeats = 1 at temperature 0, where all repeats are equal")
        try:
            assert self.engine_params
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    @property
    def engine_params(self) -> GenerateParams:
        """The same settings in the form that engines take."""
        return GenerateParams(
            **{name: getattr(self, name) for name in type(self).model_fields if name not in ("llm", "rows", "repeats")},
            generator=None,
            allow_foreign_generator=False,
            top_p=1.0,
            store_logprobs=0,
            agreement=None,
            rows_per_part=1_000,
        )
