"""Rows, requests and parameters that several test files build."""

from collections.abc import Iterable, Iterator, Sequence

from pipeline.generate.engines.interface import Request


def requests(prompts: Iterable[Sequence[int]], seed: int | None = None) -> Iterator[Request]:
    """Yield a request for each prompt; the requests are made as an engine takes them."""
    return (Request(bytes(16), "", None, tuple(prompt), seed) for prompt in prompts)
