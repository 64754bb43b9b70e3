"""Several prompts for emotion recognition: wordings, each with several orders of the options.

They show how far a result depends on the prompt. A prompt is named WORDING-ORDER. 0-0 is prompts.recognition, with the
options in the order of the classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from evaluate.predictions import PROMPTS_SCHEMA
from evaluate.respond.params import RespondParams
from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.tables import parquet

FIRST = "0-0"
"""The prompt that is also asked with transcripts and for written answers."""


def speech_prompts(
    prompter: Prompter, published: Prompt, emotions: Sequence[str], settings: RespondParams
) -> dict[str, PromptIds]:
    """Return the prompts for speech by name, prompts.recognition first."""
    wordings = [published.speech, *settings.recognition_wordings]
    orders = option_orders(emotions, settings.option_orders, settings.seed)
    return {
        f"{wording}-{order}": prompter.speech(published.model_copy(update={"speech": speech}), options=options)
        for wording, speech in enumerate(wordings)
        for order, options in enumerate(orders)
    }


def option_orders(emotions: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """Return `count` different orders of the emotions, or all if there are fewer; the first is the given one."""
    generator = np.random.Generator(np.random.PCG64(seed))
    orders = [tuple(emotions)]
    while len(orders) < min(count, math.factorial(len(emotions))):
        drawn = tuple(emotions[place] for place in generator.permutation(len(emotions)).tolist())
        if drawn not in orders:
            orders.append(drawn)
    return orders


def prompts_table(
    split: str, rows: Sequence[Mapping[str, Any]], by_row: Sequence[Mapping[str, list[float]]]
) -> pa.Table:
    """Return the scores of the rows of a split; `by_row` has those of each row by prompt."""
    return parquet.from_rows(
        (
            {name: row[name] for name in ("id", "corpus", "speaker", "emotion")}
            | {"split": split, "prompt": prompt, "scores": scores}
            for row, by_prompt in zip(rows, by_row, strict=True)
            for prompt, scores in by_prompt.items()
        ),
        PROMPTS_SCHEMA,
    )
