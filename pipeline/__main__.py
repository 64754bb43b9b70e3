"""The command line `python -m pipeline`: an overview of the stages, and the commands of pipeline/commands."""

from pipeline.commands.overview import command_line
from pipeline.stage import run_app

STAGES = {
    "synthesise": "make a synthetic corpus in a published layout",
    "ingest": "turn a corpus on disk into manifest rows",
    "split": "assign the speakers to train, dev and test",
    "leaks": "find data of test that is in train or dev",
    "sentences": "choose sentences for emotion prompts",
    "generate": "let the LLM write the continuations",
    "filter": "keep continuations that are usable targets",
    "pack": "write token ids and audio to Arrow",
}
COMMANDS = {
    "show": "Print what a manifest or a packed folder contains.",
    "sample": "Print rows drawn at random, or write clips to listen to.",
    "diff": "Compare two tables, or a table at two git revisions.",
    "quarantine": "Count the utterances that ingest refused, by reason.",
    "dropped": "Count the continuations that filter dropped, by reason.",
    "generate": "Generate the missing answers, or answer all rows again.",
    "export": "Write the prompts without an answer to a batch file.",
    "import": "Import the answers to an exported batch into the store.",
    "compare": "Compare the answers of two prompts or two models.",
    "history": "Print all stored answers to a row, and choose one.",
    "leaks": "Report the leaks from train and dev into test, by corpus.",
    "download": "Download corpora, or list them with their licences.",
    "publish": "Write what the licences allow of packed data, for a hub.",
    "doctor": "Print what a bug report needs: versions, hardware, disk.",
}
ELSEWHERE = {
    "import": "pipeline.commands.import_",
    "download": "pipeline.commands.download.command",
    "publish": "pipeline.commands.publish.command",
}
"""Commands whose module has another name than pipeline.commands.NAME."""


app = command_line(
    "pipeline", "Prepare data: from corpora on disk to packed training data.", STAGES, COMMANDS, ELSEWHERE
)


if __name__ == "__main__":
    run_app(app)
