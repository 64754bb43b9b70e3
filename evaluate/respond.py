"""Let the model and the baselines answer the test part: divergence of stage 1, emotions and answers of stage 2."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import PositiveInt

from pipeline import packed, params, tables
from pipeline.params import ParamsFile, Precision, Section
from pipeline.prompts import PromptsParams
from pipeline.stage import run, say


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


def main(
    kind: Annotated[Literal["semantic", "emotion"], typer.Option(help="Which test part to answer.")],
    data: Annotated[Path, typer.Option(help="The packed folder of that kind.")],
    model: Annotated[Path, typer.Option(help="The model folder of that kind.")],
    output: Annotated[Path, typer.Option(help="The folder of predictions to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Let the model and the baselines answer the test part."""
    settings = params.load(params_file, "respond", RespondParams)
    prompts = params.load(params_file, "prompts", PromptsParams) if kind == "emotion" else None
    rows = packed.load(data, "test")
    from train.precision import avoid_shape_plans  # torch is loaded once the parameters are known to be right

    avoid_shape_plans()
    if prompts is None:
        from evaluate.divergence import measure

        table = measure(model, rows, packed.load_frame(data), settings)
        tables.write(table, output / "divergence.parquet")
        say(f"respond: semantic: continuation KL of {len(rows):,} clips under three conditions")
    else:
        from evaluate.recognition import Respondent

        respondent = Respondent(model, rows, prompts, settings)
        recognised = respondent.recognise()
        tables.write(recognised, output / "recognition.parquet")
        tables.write(respondent.examples(), output / "examples.parquet")
        say(f"respond: emotion: {recognised.num_rows:,} answers to {len(rows):,} clips")


if __name__ == "__main__":
    run(main)
