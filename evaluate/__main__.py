"""What a person can do with a trained model: the list of the stages of evaluation."""

import typer

from pipeline.commands.overview import overview
from pipeline.stage import run_app

STAGES = {
    "respond": "let the model and its baselines answer the test manifests",
    "score": "turn predictions into numbers and plots, no GPU needed",
    "report": "write one page to open in a browser",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=overview("evaluate", "Evaluate: from a trained model to a report.", STAGES), no_args_is_help=True)
def _list_stages() -> None: ...


if __name__ == "__main__":
    run_app(app)
