"""Rebuild what is withheld here: `python rebuild.py --manifest FILE --output FOLDER --params params.yaml`.

You need the corpora that README.md names, the package blsp-emo, and your own manifest of them, which its stages
`ingest` and `split` write. README.md says what can be rebuilt bit for bit.
"""

from pathlib import Path

from pipeline.commands.publish.rebuild import command
from pipeline.stage import run_stage

if __name__ == "__main__":
    run_stage(command(Path(__file__).parent))
