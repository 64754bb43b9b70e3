"""The steps that learn an emotion prompt, and its losses on dev."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.progress import Task
from pipeline.stage import UserError
from train.emotion_prompt import EmotionPrompt
from train.fit.schedule import Schedule
from train.fit_prompt.examples import Example, in_batches
from train.fit_prompt.params import FitPromptParams
from train.fit_prompt.prompted_llm import PromptedLLM

GIVEN = ("none", "right", "other", "even")
"""What the LLM reads before a sentence of dev: no embeddings, those of the told emotion, those of another emotion, or
the mean of all emotions."""


@dataclass(frozen=True, slots=True)
class DevLosses:
    """Means over the tokens of the dev continuations, after each of GIVEN."""

    kl: dict[str, float]
    """KL to the LLM that is told the emotion, in nats a token."""
    top1: dict[str, float]
    """Share of tokens for which both have the same likeliest token."""
    kl_by_emotion: list[dict[str, float]]
    """`kl` of the continuations for each emotion."""


def learn(
    llm: PromptedLLM, prompt: EmotionPrompt, train: Sequence[Example], dev: Sequence[Example], settings: FitPromptParams
) -> list[tuple[int, DevLosses]]:
    """Learn the embeddings of a prompt; return the losses on dev before the first step and then by step."""
    schedule = Schedule(
        shape=settings.schedule,
        seed=settings.seed,
        num_steps=settings.steps,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
    )
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    found = [(0, evaluate(llm, prompt, dev, settings.rows_at_once))]
    drawn = draw(train, settings.batch_size, settings.seed)
    with Task("fit_prompt", settings.steps, "steps") as task:
        for step in range(settings.steps):
            optimizer.zero_grad()
            loss = backward(llm, prompt, next(drawn), settings.rows_at_once)
            norm = torch.nn.utils.clip_grad_norm_(prompt.parameters(), settings.max_grad_norm)
            if not torch.isfinite(norm):
                raise UserError(f"fit_prompt: step {step + 1}: found a gradient of norm {norm:.3g}, expected a number")
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule.rate(step)
            optimizer.step()
            done = step + 1
            if done % settings.evaluate_every == 0 or done == settings.steps:
                found.append((done, evaluate(llm, prompt, dev, settings.rows_at_once)))
            task.advance(note=f"kl {loss:.3f}, dev kl {found[-1][1].kl['right']:.3f}")
    return found


def draw(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Yield the examples of one step after another without end; each epoch has another order."""
    generator = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += generator.permutation(len(examples)).tolist()
        yield [examples[number] for number in waiting[:size]]
        waiting = waiting[size:]


def backward(llm: PromptedLLM, prompt: EmotionPrompt, examples: Sequence[Example], rows_at_once: int) -> float:
    """Add the gradient of the mean KL over all tokens of the examples, and return this mean.

    The mean does not depend on how many rows the LLM runs on at once.
    """
    num_tokens = sum(len(example.response_ids) for example in examples)
    total = 0.0
    for rows in in_batches(examples, rows_at_once):
        loss = llm.kl(rows, prompt.mixed(one_hots([row.emotion for row in rows], prompt))).sum() / num_tokens
        loss.backward()
        total += float(loss.detach())
    return total


@torch.no_grad()
def evaluate(llm: PromptedLLM, prompt: EmotionPrompt, examples: Sequence[Example], rows_at_once: int) -> DevLosses:
    """Return the losses on examples after each of GIVEN."""
    num_emotions = len(prompt.embeddings)
    kl, same = (torch.zeros(len(GIVEN), num_emotions, dtype=torch.float64) for _ in range(2))
    tokens = torch.zeros(num_emotions, dtype=torch.float64)
    for rows in in_batches(examples, rows_at_once):
        right, other = (
            one_hots(numbers, prompt) for numbers in zip(*((e.emotion, e.other) for e in rows), strict=True)
        )
        even = torch.full_like(right, 1 / num_emotions)
        kls, agrees = llm.kls(rows, [None, *map(prompt.mixed, (right, other, even))])
        lengths = torch.tensor([len(example.response_ids) for example in rows])
        of_token = torch.tensor([example.emotion for example in rows]).repeat_interleave(lengths)
        kl.index_add_(1, of_token, kls.cpu().double())
        same.index_add_(1, of_token, agrees.cpu().double())
        tokens += torch.bincount(of_token, minlength=num_emotions)
    return DevLosses(
        kl=_named(kl.sum(1) / tokens.sum()),
        top1=_named(same.sum(1) / tokens.sum()),
        kl_by_emotion=[_named(of) for of in (kl / tokens).T],
    )


def one_hots(numbers: Sequence[int], prompt: EmotionPrompt) -> Tensor:
    """Return weights that are 1 for the emotion of each row, (rows, emotions)."""
    return one_hot(torch.tensor(numbers), len(prompt.embeddings)).to(prompt.embeddings)


def _named(values: Tensor) -> dict[str, float]:
    return dict(zip(GIVEN, values.tolist(), strict=True))
