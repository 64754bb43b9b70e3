"""The two sides of the loss: the LLM that is told the emotion in words, and the LLM that reads the emotion prompt.

Both read the same sentence and the same continuation. The sentence stands where the clip will stand: in the prompt for
speech, after the embeddings. The LLM that is told is the teacher; its prompt is the one for a transcript.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.prompts import Prompt, Prompter, PromptIds
from train.fit_prompt.examples import Example
from train.losses import response_kl, several_kls
from train.model import Sequences, Speech, SpeechLLM
from train.model.inputs import sequences
from train.precision import autocast
from train.side_by_side import shared_start

Embeddings = Float[Tensor, "b p d"]
"""The embeddings before the sentence of each example."""


class PromptedLLM:
    """An LLM without P-LoRA, with both prompts of emotional speech."""

    def __init__(self, model: SpeechLLM, prompter: Prompter, prompt: Prompt, emotions: Sequence[str]) -> None:
        self.model = model
        self.device = model.token_embeddings.weight.device
        self.speech = prompter.speech(prompt)
        self.told: list[PromptIds] = [prompter.around(prompt, (), emotion=emotion) for emotion in emotions]
        self.start = shared_start([ids.before for ids in self.told])

    def kl(self, examples: Sequence[Example], given: Embeddings) -> Float[Tensor, " n"]:
        """Return KL(told || prompted) at each token of the continuations, at temperature 1, in nats."""
        with autocast(self.model.llm):
            with torch.no_grad():
                teacher = self._told_states(examples)
            return response_kl(self._states(examples, given), teacher, self.model.output_head, 1.0)

    @torch.no_grad()
    def kls(
        self, examples: Sequence[Example], given: Sequence[Embeddings | None]
    ) -> tuple[Float[Tensor, "s n"], Bool[Tensor, "s n"]]:
        """Return `kl` after each of `given`, without gradients, and where the likeliest token is the teacher's.

        None stands for no embeddings.
        """
        with autocast(self.model.llm):
            students = [self._states(examples, each) for each in given]
            return several_kls(students, self._told_states(examples), self.model.output_head)

    def _states(self, examples: Sequence[Example], given: Embeddings | None) -> Float[Tensor, "n d"]:
        num_tokens = 0 if given is None else given.shape[1]
        contents = [[*[None] * num_tokens, *example.text_ids] for example in examples]
        rows = self._lay_out(self.speech.before, contents, examples)
        return self.model.response_states(rows, None if given is None else Speech.of(list(given)))

    def _told_states(self, examples: Sequence[Example]) -> Float[Tensor, "n d"]:
        own = [self.told[example.emotion].before[len(self.start) :] for example in examples]
        contents = [[*before, *example.text_ids] for before, example in zip(own, examples, strict=True)]
        return self.model.response_states(self._lay_out(self.start, contents, examples), None)

    def _lay_out(
        self, before: Sequence[int], contents: Sequence[Sequence[int | None]], examples: Sequence[Example]
    ) -> Sequences:
        lay_out = partial(sequences, responses=[example.response_ids for example in examples])
        return lay_out(before, contents, self.speech.after).to(self.device)
