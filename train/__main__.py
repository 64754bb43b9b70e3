"""The command line `python -m train`: an overview of the stages, and the commands of train/commands."""

from pipeline.commands.overview import command_line
from pipeline.stage import run_app

STAGES = {
    "check": "check that the LLM can be trained, before it generates anything",
    "fit": "train one stage: semantic alignment, or emotion alignment of a stage-1 model",
    "fit_prompt": "learn an emotion prompt from text alone",
}
COMMANDS = {
    "check-data": "Walk packed data as training does, without training.",
    "hear": "Write a training clip before and after augmentation.",
    "info": "Print what a model folder is: base models, data, parameters, losses.",
    "plan": "Plan a training before it is paid for: memory, hours, disk, money.",
    "show": "Print a packed row as the model gets it.",
}

app = command_line("train", "Train: from packed data to a model.", STAGES, COMMANDS)


if __name__ == "__main__":
    run_app(app)
