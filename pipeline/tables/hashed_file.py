"""A file that is hashed while it is written, so that nobody needs to read it again for its hash."""

from pathlib import Path

import xxhash


class HashedFile:
    """A new file for a writer that starts at the beginning and never goes back, such as that of Arrow IPC streams."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        """Bytes written so far."""
        self._file = path.open("wb")
        self._hasher = xxhash.xxh3_128()

    def write(self, content: bytes) -> int:
        """Append bytes; return their number."""
        self._hasher.update(content)
        self.size += len(content)
        return self._file.write(content)

    def flush(self) -> None:
        """Hand what is written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; it may be closed already."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def digest(self) -> str:
        """Return the xxh3 hash of the bytes written so far, in hexadecimal."""
        return self._hasher.hexdigest()
