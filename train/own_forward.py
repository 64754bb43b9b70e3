"""Compare an LLM as training runs it with its own forward, once, when the model is built.

Training computes logits from final hidden states, pads rows, and computes the start of a prompt once for all rows. Some
architectures give other logits then: their forward does more after the output matrix, or their layers keep a state that
cannot be shared. Such an LLM would be trained towards wrong values, so it is refused.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.stage import UserError
from train.model import SpeechLLM
from train.model.inputs import sequences

_BEFORE, _AFTER = 3, 2  # tokens around the content
_LENGTHS = (4, 2)  # tokens of the content and of the response of each row
_HEAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
_STATES_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}  # rounding adds up over the layers


@torch.no_grad()
def check_own_forward(model: SpeechLLM) -> None:
    """Raise UserError if the logits of training differ from those of the LLM's own forward.

    The difference is relative to the spread of the LLM's logits over the vocabulary.
    """
    rows = _rows(model.token_embeddings.num_embeddings)
    own, states = zip(*(_own_logits(model.llm, row) for row in rows), strict=True)
    expected = torch.cat([logits[-_LENGTHS[i] - 1 : -1] for i, logits in enumerate(own)])
    given = torch.cat([hidden[-_LENGTHS[i] - 1 : -1] for i, hidden in enumerate(states)])
    head = model.output_head
    _compare(model, "logits", head.logits(given), expected, _HEAD_TOLERANCE)
    contents = [row[_BEFORE : _BEFORE + n] for row, n in zip(rows, _LENGTHS, strict=True)]
    responses = [row[-n:] for row, n in zip(rows, _LENGTHS, strict=True)]
    asked = sequences(rows[0][:_BEFORE], contents, rows[0][_BEFORE + _LENGTHS[0] :][:_AFTER], responses)
    found = head.logits(model.response_states(asked.to(expected.device), None))
    _compare(model, "logits of padded rows with a shared start", found, expected, _STATES_TOLERANCE)


def _rows(vocabulary: int) -> list[list[int]]:
    """Return token ids spread over the middle of the vocabulary; special tokens are mostly at its ends."""
    before, after, *words = (
        [vocabulary // 4 + i * (vocabulary // 2) // 32 for i in range(start, start + count)]
        for start, count in ((0, _BEFORE), (3, _AFTER), (5, 4), (9, 2), (11, 4), (15, 2))
    )
    return [[*before, *words[0], *after, *words[2]], [*before, *words[1], *after, *words[3]]]


def _own_logits(llm: nn.Module, row: list[int]) -> tuple[Float[Tensor, "l v"], Float[Tensor, "l d"]]:
    """Return the LLM's own logits, and the hidden states that it gives its output matrix."""
    given: list[Tensor] = []
    layer = llm.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda _layer, inputs: given.append(inputs[0]))
    try:
        ids = torch.tensor([row], device=layer.weight.device)
        logits = llm(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits[0].float(), given[0][0]


def _compare(
    model: SpeechLLM,
    name: str,
    found: Float[Tensor, "n v"],
    expected: Float[Tensor, "n v"],
    tolerances: dict[torch.dtype, float],
) -> None:
    tolerance = tolerances.get(model.token_embeddings.weight.dtype, tolerances[torch.bfloat16])
    spread = (expected - expected.mean(-1, keepdim=True)).norm()
    difference = float((found - expected).norm() / spread)
    if not difference <= tolerance:  # also if it is not a number
        kind = type(model.llm).__name__
        raise UserError(
            f"models.llm: {kind}: found {name} that differ from the LLM's own forward by {difference:.2g} of their "
            f"spread, expected at most {tolerance:g}; this architecture is not supported"
        )
