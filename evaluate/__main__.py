"""The command line `python -m evaluate`: an overview of the stages, and the commands of evaluate/commands."""

from pipeline.commands.overview import command_line
from pipeline.stage import run_app

STAGES = {
    "probe": "recognise emotion with a linear classifier on the frozen encoder",
    "transcribe": "let Whisper write down the test clips, and count its word errors",
    "respond": "let the model and the baselines answer the test clips",
    "semantics": "measure whether a model keeps the words, and the abilities of its LLM",
    "judge": "let an LLM that has passed an exam mark the empathy of written answers",
    "score": "compute scores and plots from the predictions; needs no GPU",
    "report": "write one page to open in a browser",
}
COMMANDS = {
    "card": "Write a model card: what is known of a model, for the Hugging Face hub.",
    "compare": "Compare two runs, or two systems of a run, on the same clips.",
    "pool": "Pool the runs of a protocol's folds, and score them as one.",
    "probe-links": "Say where the emotion is lost on its way through a speech LLM.",
    "protocols": "List the protocols, show one, or write the parameters of a fold.",
}

ELSEWHERE = {"probe-links": "evaluate.links.command"}
"""Commands with a room of their own: they use code of stages, which evaluate/commands may not."""

app = command_line("evaluate", "Evaluate: from a trained model to a report.", STAGES, COMMANDS, ELSEWHERE)


if __name__ == "__main__":
    run_app(app)
