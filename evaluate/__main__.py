"""What a person can do with a trained model's predictions: the list of the stages of evaluation."""

import typer

from pipeline.stage import run_app

STAGES = {
    "respond": "let the model and its baselines answer the test manifests",
    "score": "turn predictions into numbers and plots, no GPU needed",
    "report": "write one page to open in a browser",
}

_HELP = "Evaluate: from a trained model to a report.\n\n\b\nStages, each with its own --help:\n" + "\n".join(
    f"  python -m evaluate.{name:<12}{does}" for name, does in STAGES.items()
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command(help=_HELP, no_args_is_help=True)
def _list_stages() -> None: ...


if __name__ == "__main__":
    run_app(app)
