"""With sizes that are rounded up, the matrix products of a training see few shapes, and little padding."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.sizes import RESPONSE_TOKENS, durations_s
from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.tables.packed import PromptShell
from train.data.dataset import Collator, Example
from train.data.sampler import Budget, Sampler
from train.model import Batch
from train.model.inputs import packed_sequences

SHELL = PromptShell(before_speech=[5, 6, 7], before_text=[5, 6, 7], after=[8, 9])
STEPS = 100


def batches() -> Iterator[list[Example]]:
    """Yield 100 batches of clips as long as IEMOCAP's, planned with the budget of recipes/h100-1.yaml."""
    generator = np.random.default_rng(0)
    frames = np.round(durations_s("emotion", 4200, generator) * 100).astype(int)
    answers = generator.integers(*RESPONSE_TOKENS, size=len(frames))
    positions = num_speech_tokens(frames) + len(SHELL.after) + answers
    costs = np.stack([frames // 2, positions, np.zeros_like(positions)], axis=1)
    budget = Budget(max_frames=7800, max_positions=2960, layout="packed")
    for (rows,) in Sampler(costs=costs, budget=budget, batches_per_step=1, seed=1).plan(0)[:STEPS]:
        yield [
            Example(torch.zeros(80, 1).expand(80, frames[i]), int(frames[i]), [], [9] * int(answers[i]), 0)
            for i in rows
        ]


def sizes(batch: Batch) -> dict[str, int]:
    """Return the number of rows of the matrix products of convolutions, encoder, LLM and output head."""
    assert batch.clips is not None
    assert batch.student.rows is not None
    levels = {f"clips, level {number}": len(level.back) for number, level in enumerate(batch.clips)}
    return levels | {"positions": len(batch.student.rows.back), "responses": len(batch.response_ids)}


def test_in_a_hundred_steps_the_matrix_products_see_few_shapes_and_little_padding() -> None:
    found = {}
    for round_up in (False, True):
        collate = Collator(SHELL, False, lay_out=partial(packed_sequences, shares_start=True), round_up=round_up)
        found[round_up] = [sizes(collate(examples)) for examples in batches()]
    plain, rounded = found[False], found[True]
    assert len(plain) == len(rounded) == STEPS
    for kind in plain[0]:
        before, after = ([batch[kind] for batch in made] for made in (plain, rounded))
        print(f"{kind}: {len(set(before))} -> {len(set(after))}, {sum(after) / sum(before) - 1:.1%} padding")
        assert len(set(after)) <= 6
        assert sum(after) <= 1.035 * sum(before)
    assert len({tuple(batch.values()) for batch in plain}) == STEPS
