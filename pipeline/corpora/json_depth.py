"""A limit for the depth of JSON that is parsed in blocks.

ijson keeps the path of every value that is open. Its size grows with the square of the depth, so 100 kB of brackets
take 21 GB. Depth is counted on whole blocks with methods of bytes, which costs a few percent of the parsing.
"""

import re

MAX_DEPTH = 100  # published indexes have fewer than ten levels

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_NO_SIGN = bytes(set(range(256)) - set(b'"[]{}'))


class Depth:
    """Counts the open arrays and objects of one JSON text."""

    def __init__(self) -> None:
        self._open = 0
        self._in_string = False
        self._rest = b""  # of an escape that the last block has begun

    def is_too_large(self, block: bytes) -> bool:
        """Return whether the next block of the text has more than MAX_DEPTH levels."""
        if b"\\" in block or self._rest:
            block = _ESCAPE.sub(b"", self._rest + block)
            self._rest = b"\\" if block.endswith(b"\\") else b""
        pieces = block.translate(None, _NO_SIGN).replace(b'""', b"").split(b'"')
        signs = b"".join(pieces[self._in_string :: 2])
        self._in_string ^= len(pieces) % 2 == 0
        depth = 0
        while (shorter := signs.replace(b"[]", b"").replace(b"{}", b"")) != signs and depth <= MAX_DEPTH:
            signs, depth = shorter, depth + 1
        self._open += signs.count(b"[") + signs.count(b"{") - signs.count(b"]") - signs.count(b"}")
        return max(depth, self._open) > MAX_DEPTH
