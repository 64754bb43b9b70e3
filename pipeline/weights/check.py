"""Check the models of a run before anything is paid for: generation and stage 1 may take days."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.weights.encoder import CONFIG_FILES, check_encoder, check_encoder_config
from pipeline.weights.llm import outline_llm
from pipeline.weights.lora import Targets, check_lora
from pipeline.weights.source import PYPI, Weights, fetch, fetch_files


@dataclass(frozen=True, slots=True)
class TrainingModels:
    """What training will use besides the LLM; None if the parameter file does not say."""

    encoder: Weights | None
    targets: str | list[str] | None
    """The layers of P-LoRA."""


def read_training_models(params_file: Path) -> TrainingModels:
    """Read what training will use from a parameter file, which may have only the sections of one stage."""
    encoder = params.find(params_file, "models.encoder", Weights)
    targets: Any = params.find(params_file, "fit.emotion.plora.targets", Targets)
    return TrainingModels(encoder, targets)


def check_models(models: TrainingModels, llm: Path) -> None:
    """Raise UserError if the LLM in the folder `llm` lacks a weight, or cannot be trained as the parameters say.

    Of an encoder on the hub, only its configuration is checked, because generation may run on a machine that does not
    need its weights. Packages are checked by their checksum.
    """
    outline = outline_llm(llm)
    if models.targets is not None:
        check_lora(outline, models.targets)
    source = models.encoder
    if source is None or source.source.startswith(PYPI):
        return
    if Path(source.source).expanduser().is_dir():
        check_encoder(fetch(source))
    else:
        check_encoder_config(fetch_files(source, CONFIG_FILES))
