"""The teacher of stage 2: the LLM reads the transcript in the text prompt of stage 2, which names the true emotion.

Packed data holds no such prompt, and need not: it follows from the section `prompts.emotion`, the LLM's tokenizer and
the label of a row. The section must still be the one that the rows were packed with.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.compute as pc

from pipeline import params
from pipeline.params import Alignment
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.tables.packed import PromptShell
from pipeline.weights.source import Weights, fetch
from train.data.told_shell import ToldShell
from train.fit.params import FitParams

_PLACE = "{emotion}"


@dataclass(frozen=True, slots=True)
class ToldPrompt:
    """The prompt whose text names the emotion, and the LLM that reads it."""

    prompt: Prompt
    llm: Weights


def read_told_prompt(params_file: Path, kind: Alignment, settings: FitParams) -> ToldPrompt | None:
    """Read the prompt of the teacher; None if the training has no teacher that is told the emotion."""
    told = None
    if kind == "emotion":
        prompt = params.load(params_file, "prompts.emotion", Prompt) if settings.runs_teacher else None
        told = None if prompt is None else ToldPrompt(prompt, params.load(params_file, "models.llm", Weights))
    return told


def training_shell(folder: Path, splits: Sequence[packed.Rows], told: ToldPrompt | None) -> PromptShell:
    """Return the prompt shell of packed data, with the prompts of the teacher if it is told the emotion by `told`.

    Raises UserError if the prompt names no emotion, if it is not the one of the packed data, or if a row of these
    splits has no label.
    """
    shell = packed.load_shell(folder)
    if told is None:
        return shell
    from train.side_by_side import shared_start  # loads torch, which must not load before parameters are checked

    if _PLACE not in told.prompt.text:
        raise UserError(
            f"prompts.emotion.text: found no {_PLACE}, expected one: with the KL in fit.emotion.response_loss, this "
            "prompt tells the teacher the emotion"
        )
    prompter = Prompter.load(fetch(told.llm))
    speech = prompter.speech(told.prompt)
    if (list(speech.before), list(speech.after)) != (shell.before_speech, shell.after):
        raise UserError(
            f"{folder}: found rows packed with another prompts.emotion or models.llm, expected those of the "
            "parameters, whose prompt the teacher gets; pack again"
        )
    emotions = sorted({emotion for rows in splits for emotion in _labels(folder, rows)})
    starts = {emotion: prompter.around(told.prompt, (), emotion=emotion).before for emotion in emotions}
    shared = shared_start(list(starts.values()))
    named = {emotion: list(start[len(shared) :]) for emotion, start in starts.items()}
    return ToldShell(**(asdict(shell) | {"before_text": list(shared)}), named=named)


def _labels(folder: Path, rows: packed.Rows) -> list[str]:
    """Return the labels of rows, each once; raises UserError if a row has none."""
    labels = rows.column("emotion")
    if labels.null_count:
        row = rows[pc.index(pc.is_null(labels), True).as_py()]
        raise UserError(
            f"{folder}: {row['id']}: found no emotion, expected one for each row, of which the teacher is told "
            f"({labels.null_count:,} rows of {rows.split} have none); set fit.emotion.response_loss to ce, or leave "
            f"the corpus {row['corpus']} out of split.emotion"
        )
    return labels.unique().to_pylist()  # type: ignore[no-any-return]
