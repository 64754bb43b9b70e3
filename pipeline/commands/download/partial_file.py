"""A partly downloaded file. Its first bytes are in one file; the version is in a .json file beside it."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.progress import Task
from pipeline.tables import parquet


@dataclass(frozen=True, slots=True)
class Version:
    """The facts that identify a version of a file."""

    url: str
    validator: str | None
    """Strong ETag, or the date of the last change if there is none."""
    num_bytes: int | None


class Arrived:
    """The bytes of the file at `url` that this run and earlier runs have downloaded, and their MD5."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.url = url
        self.version: Version | None = None
        self.num_bytes = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._note = path.with_name(f"{path.name}.json")
        if path.is_file() and self._note.is_file():
            version = _read(self._note)
            if version is not None and version.url == url:
                self.version = version
                self.num_bytes = path.stat().st_size
                with path.open("rb") as file:
                    self._digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))

    @property
    def is_whole(self) -> bool:
        """Whether the file is complete."""
        return self.version is not None and self.version.num_bytes == self.num_bytes

    @property
    def md5(self) -> str:
        """MD5 of the downloaded bytes."""
        return self._digest.hexdigest()

    def start(self, version: Version) -> None:
        """Delete the downloaded bytes, and note the version that comes next."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.num_bytes = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._set(version)

    def append(self, blocks: Iterable[bytes], name: str) -> None:
        """Append `blocks`, the whole rest of the file, and show the progress."""
        assert self.version is not None
        total = self.version.num_bytes
        total_mb = None if total is None else total / 1e6
        with Task(f"download {name}", total_mb, "MB", self.num_bytes / 1e6) as task, self.path.open("ab") as file:
            for block in blocks:
                file.write(block)
                self.num_bytes += len(block)
                self._digest.update(block)
                task.advance(len(block) / 1e6)
        if total is None:
            self._set(replace(self.version, num_bytes=self.num_bytes))

    def remove(self) -> None:
        """Delete the file, if it is still there, and the note beside it."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _set(self, version: Version) -> None:
        self.version = version
        with parquet.whole(self._note) as partial:
            partial.write_text(json.dumps(asdict(version)))


def _read(note: Path) -> Version | None:
    try:
        return Version(**json.loads(note.read_text()))
    except (ValueError, TypeError):  # a note that a crash of the computer has damaged
        return None
