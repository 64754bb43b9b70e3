import json

import pytest

from pipeline.corpora.json_depth import MAX_DEPTH, Depth

FLAT = json.dumps([{"title": 'a "[" in [[[ it \\', "\u00fc\\": [[1], {"x": "{"}]}] * 50).encode()


def is_too_large(text: bytes, block: int) -> bool:
    depth = Depth()
    return True in [depth.is_too_large(text[i : i + block]) for i in range(0, len(text), block)]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_brackets_in_strings_are_no_depth_wherever_a_block_ends(block: int) -> None:
    assert not is_too_large(FLAT, block)
    assert not is_too_large(json.dumps(["[" * 1000, '\\"' + "{" * 1000]).encode(), block)


@pytest.mark.parametrize("block", [1, 2, 1000, 1 << 20])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_depth_above_the_limit_is_found_wherever_it_is(opening: bytes, block: int) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def nested(depth: int) -> bytes:
        return b"[1, " + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"]"

    assert not is_too_large(nested(MAX_DEPTH), block)
    assert is_too_large(nested(MAX_DEPTH + 1), block)
    assert is_too_large(opening * 10_000, block)
