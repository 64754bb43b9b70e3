"""An engine without an LLM, to try the graph: it answers every transcript with the transcript itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.generate.engines.interface import Answer, PromptAndAnswer, Request
from pipeline.tables.continuations import LENGTH, STOP


class EchoEngine:
    """Repeats transcripts; every scored answer is equally likely."""

    name = "echo 1"
    hardware = "none"

    def __init__(self, tokenize: Callable[[str], Sequence[int]], max_new_tokens: int) -> None:
        """Take the function that turns a transcript into token ids, and the length limit of an answer."""
        self._tokenize, self._max_new_tokens = tokenize, max_new_tokens

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[int, Answer]]:
        """See Engine.generate."""
        for position, request in enumerate(requests):
            ids = tuple(self._tokenize(request.transcript))
            reason = STOP if len(ids) < self._max_new_tokens else LENGTH
            yield position, Answer(ids[: self._max_new_tokens], reason)

    def score(self, pairs: Iterable[PromptAndAnswer]) -> Iterator[tuple[int, float]]:
        """Give every pair the log-probability 0."""
        yield from ((position, 0.0) for position, _ in enumerate(pairs))
