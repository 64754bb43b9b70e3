"""List the stages of evaluation: `python -m evaluate`."""

import typer

from pipeline.commands.overview import overview
from pipeline.stage import run_app

STAGES = {
    "probe": "recognise emotion with a linear classifier on the frozen encoder",
    "respond": "let the model and the baselines answer the test clips",
    "score": "compute scores and plots from the predictions; needs no GPU",
    "report": "write one page to open in a browser",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=overview("evaluate", "Evaluate: from a trained model to a report.", STAGES), no_args_is_help=True)
def _list_stages() -> None: ...


if __name__ == "__main__":
    run_app(app)
