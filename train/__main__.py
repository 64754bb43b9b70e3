"""List the stages of training: `python -m train`."""

import typer

from pipeline.commands.overview import overview
from pipeline.stage import run_app

STAGES = {
    "check": "check that the LLM can be trained, before it generates anything",
    "fit": "train one stage: semantic alignment, or emotion alignment of a stage-1 model",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=overview("train", "Train: from packed data to a model.", STAGES), no_args_is_help=True)
def _list_stages() -> None: ...


if __name__ == "__main__":
    run_app(app)
