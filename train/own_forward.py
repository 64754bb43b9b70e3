"""Compare an LLM as training runs it with its own forward, once, when the model is built.

Training computes logits from final hidden states. It gives the LLM embeddings instead of token ids, pads rows, and
computes the start of a prompt once for all rows. Some architectures give other logits then. If only the shared start is
at fault (layers with a state, such as convolutions), the start is computed for each row. Other LLMs are refused,
because they would be trained towards wrong values.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.stage import UserError
from train.model import Sequences, Speech, SpeechLLM
from train.model.compiled_layers import Backend
from train.model.inputs import packed_sequences, sequences
from train.model.packing import Segments

_BEFORE, _AFTER = 3, 2  # tokens around the content
_LENGTHS = (4, 2)  # tokens of the content, and also of the response, of each row
_HEAD_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02}
_STATES_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}  # rounding adds up over the layers
_PACKED_TOLERANCE = 1e-3  # in float32
_PACKED_TOLERANCE_BF16 = (0.05, 0.6)  # the least and the most, between which the LLM's own rounding decides
_ROUNDING = 2.0**-8  # relative error of bfloat16
_LEAK_TOLERANCE = 1e-3  # the same functions on the same shapes round alike
_MAX_SAID = 200  # characters of an error of transformers
CANNOT_RUN = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""Errors of transformers and peft for an architecture that they cannot run in some way."""


@torch.no_grad()
def check_own_forward(model: SpeechLLM) -> None:
    """Set `model.shares_start` and `model.packs`.

    Raises UserError if the logits of training differ from those of the LLM's own forward. The difference is relative to
    the spread of the LLM's logits over the vocabulary.
    """
    try:
        found = _compare(model, _rows(model.token_embeddings.num_embeddings))
    except CANNOT_RUN as error:
        found = f"found {describe(error)}, expected an LLM that accepts embeddings"
    if found:
        raise UserError(f"models.llm: {type(model.llm).__name__}: {found}; this architecture is not supported")
    model.packs = _packs(model, _rows(model.token_embeddings.num_embeddings))


def checkpoint_layers(model: SpeechLLM) -> None:
    """Set `model.checkpoints_layers`; raises UserError if layers that are computed again give another gradient."""

    def change() -> None:
        model.checkpoints_layers = True

    _check_layers(model, change, "checkpoint_layers", "computed again", _HEAD_TOLERANCE)


def compile_layers(model: SpeechLLM, backend: Backend = "inductor") -> None:
    """Compile the layers of a model; raises UserError if that fails, or if they give another gradient then."""
    _check_layers(model, partial(model.compile_layers, backend), "compile_layers", "compiled", _STATES_TOLERANCE)


def _check_layers(
    model: SpeechLLM, change: Callable[[], None], parameter: str, how: str, tolerances: dict[torch.dtype, float]
) -> None:
    kept, found = _gradient(model), ""
    try:
        change()
        difference = float((_gradient(model) - kept).norm() / kept.norm())
        if not difference <= _tolerance(model, tolerances):  # nor if it is not a number
            found = f"a gradient that differs by {difference:.2g}"
    except CANNOT_RUN as error:
        found = describe(error)
    if found:
        where = f"fit.*.{parameter}: found true, expected false: layers of {type(model.llm).__name__}"
        raise UserError(f"{where} that are {how} give {found}")


def describe(error: Exception) -> str:
    """Return the kind of a library's error and the first line of its message."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__} ({first_line[:_MAX_SAID]})"


def _compare(model: SpeechLLM, rows: list[list[int]]) -> str:
    """Describe the difference from the LLM's own forward; empty if there is none."""
    own = [_own_logits(model.llm, row) for row in rows]
    expected, given = (torch.cat([pair[i][-n - 1 : -1] for pair, n in zip(own, _LENGTHS, strict=True)]) for i in (0, 1))
    found = _difference(model.output_head.logits(given), expected, _tolerance(model, _HEAD_TOLERANCE))
    if found:
        return found
    asked = _sequences(rows).to(expected.device)
    tolerance = _tolerance(model, _STATES_TOLERANCE)
    with suppress(*CANNOT_RUN):
        if not _difference(model.output_head.logits(model.response_states(asked, None)), expected, tolerance):
            return _run_on_speech(model, rows)
    model.shares_start = False
    found = _difference(model.output_head.logits(model.response_states(asked, None)), expected, tolerance)
    return found or _run_on_speech(model, rows)


def _packs(model: SpeechLLM, rows: list[list[int]]) -> bool:
    """Return whether the LLM gives the same logits in the packed layout, and whatever the row before holds.

    A row may see the row before it by a state, or by an attention of its own.
    """
    lay_out = partial(packed_sequences, shares_start=model.shares_start)
    after = range(_BEFORE + _LENGTHS[0], _BEFORE + _LENGTHS[0] + _AFTER)
    other = [token if place < _BEFORE or place in after else token + 1 for place, token in enumerate(rows[0])]
    with suppress(*CANNOT_RUN, UserError):  # the last one if its layers are not found
        padded, packed, beside_other = (
            model.output_head.logits(model.response_states(asked.to(model.token_embeddings.weight.device), None))
            for asked in (
                _sequences(rows),
                _sequences(rows, lay_out=lay_out),
                _sequences([other, rows[1]], lay_out=lay_out),
            )
        )
        second = slice(-_LENGTHS[1], None)
        is_right = not _difference(packed, padded, _packed_tolerance(model, rows, padded))
        return is_right and not _difference(beside_other[second], packed[second], _LEAK_TOLERANCE)
    return False


def _packed_tolerance(model: SpeechLLM, rows: list[list[int]], padded: Float[Tensor, "n v"]) -> float:
    """Return how far packed logits may be from padded ones: another attention function rounds in other places.

    In bfloat16, that is three times as far as the logits move if the token embeddings move by its relative error.
    """
    embedding = model.token_embeddings
    if embedding.weight.dtype == torch.float32:
        return _PACKED_TOLERANCE
    generator = torch.Generator().manual_seed(0)

    def move(_module: nn.Module, _inputs: object, embeddings: Tensor) -> Tensor:
        moved = embeddings.float().cpu()
        noise = torch.randn(moved.shape, generator=generator)
        return (moved * (1 + _ROUNDING * noise)).to(embeddings.device, embeddings.dtype)

    hook = embedding.register_forward_hook(move)
    try:
        asked = _sequences(rows).to(embedding.weight.device)
        moved = [model.output_head.logits(model.response_states(asked, None)) for _ in range(4)]
    finally:
        hook.remove()
    least, most = _PACKED_TOLERANCE_BF16
    return min(most, max(least, 3 * sum(_distance(logits, padded) for logits in moved) / len(moved)))


def _run_on_speech(model: SpeechLLM, rows: list[list[int]]) -> str:
    """Describe why the LLM cannot run on embeddings of no token; empty if it can.

    Gemma 4 looks up the token of each embedding, because its layers have inputs of their own.
    """
    speech = _speech(model, rows)
    asked = _sequences(rows, with_speech=True).to(speech.valid.device)
    finite = model.output_head.logits(model.response_states(asked, speech)).isfinite().all()
    return "" if finite else "found logits on speech that are no finite numbers, expected finite ones"


def _gradient(model: SpeechLLM) -> Float[Tensor, "b s d"]:
    """Return the gradient of a function of the states by the speech, in the layouts that the LLM can run."""
    rows = _rows(model.token_embeddings.num_embeddings)
    speech = _speech(model, rows)
    speech.embeddings.requires_grad_()
    packed = partial(packed_sequences, shares_start=model.shares_start)
    asked = [
        _sequences(rows, with_speech=True, lay_out=lay_out).to(speech.valid.device)
        for lay_out in ((sequences, packed) if model.packs else (sequences,))
    ]
    states = torch.cat([model.response_states(rows_of_layout, speech) for rows_of_layout in asked])
    return torch.autograd.grad(states.float().sin().sum(), speech.embeddings)[0].float()


@torch.no_grad()
def _speech(model: SpeechLLM, rows: list[list[int]]) -> Speech:
    """Return embeddings of no token, in place of speech."""
    device = model.token_embeddings.weight.device
    longest = max(_LENGTHS)
    words = torch.tensor([row[_BEFORE : _BEFORE + longest] for row in rows], device=device)
    valid = torch.arange(longest) < torch.tensor(_LENGTHS)[:, None]
    embeddings = model.token_embeddings(words).roll(1, dims=-1)
    clips = Segments.of(_LENGTHS).changed(lambda tensor: tensor.to(device))
    return Speech(embeddings=embeddings, valid=valid.to(device), clips=clips)


def _rows(vocabulary: int) -> list[list[int]]:
    """Return token ids spread over the middle of the vocabulary; special tokens are mostly at its ends."""
    before, after, *words = (
        [vocabulary // 4 + i * (vocabulary // 2) // 32 for i in range(start, start + count)]
        for start, count in ((0, _BEFORE), (3, _AFTER), (5, 4), (9, 2), (11, 4), (15, 2))
    )
    return [[*before, *words[0], *after, *words[2]], [*before, *words[1], *after, *words[3]]]


def _sequences(
    rows: list[list[int]], *, with_speech: bool = False, lay_out: Callable[..., Sequences] = sequences
) -> Sequences:
    contents: list[Sequence[int | None]] = [
        [None] * n if with_speech else row[_BEFORE : _BEFORE + n] for row, n in zip(rows, _LENGTHS, strict=True)
    ]
    responses = [row[-n:] for row, n in zip(rows, _LENGTHS, strict=True)]
    return lay_out(rows[0][:_BEFORE], contents, rows[0][_BEFORE + _LENGTHS[0] :][:_AFTER], responses)


def _own_logits(llm: nn.Module, row: list[int]) -> tuple[Float[Tensor, "l v"], Float[Tensor, "l d"]]:
    """Return the LLM's own logits, and the hidden states from which it computes them."""
    given: list[Tensor] = []
    layer = llm.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda _layer, inputs: given.append(inputs[0]))
    try:
        ids = torch.tensor([row], device=layer.weight.device)
        logits = llm(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits[0].float(), given[0][0]


def _difference(found: Float[Tensor, "n v"], expected: Float[Tensor, "n v"], tolerance: float) -> str:
    """Describe by how much logits differ; empty if they do not."""
    difference = _distance(found, expected)
    if difference <= tolerance:  # not if it is not a number
        return ""
    return (
        f"found logits in training that differ from the LLM's own by {difference:.2g} of their spread, expected at "
        f"most {tolerance:g}"
    )


def _distance(found: Float[Tensor, "n v"], expected: Float[Tensor, "n v"]) -> float:
    spread = (expected - expected.mean(-1, keepdim=True)).norm()
    return float((found - expected).norm() / spread)


def _tolerance(model: SpeechLLM, tolerances: dict[torch.dtype, float]) -> float:
    return tolerances.get(model.token_embeddings.weight.dtype, tolerances[torch.bfloat16])
