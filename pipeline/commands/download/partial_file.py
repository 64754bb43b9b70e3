"""What has arrived of a file from the web: its bytes, and beside them in `.json` which version of the file they are."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.progress import Task
from pipeline.tables import parquet


@dataclass(frozen=True, slots=True)
class Version:
    """What tells a version of a file from another."""

    url: str
    validator: str | None
    """Strong ETag, or else the date of the last change."""
    num_bytes: int | None


class Arrived:
    """What has arrived of the file at `url`, before this run too, with its MD5."""

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
        """Whether nothing is missing."""
        return self.version is not None and self.version.num_bytes == self.num_bytes

    @property
    def md5(self) -> str:
        """MD5 of what has arrived."""
        return self._digest.hexdigest()

    def start(self, version: Version) -> None:
        """Forget what has arrived, and note what will."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.num_bytes = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._set(version)

    def append(self, blocks: Iterable[bytes], name: str) -> None:
        """Write `blocks`, which are all of the rest, to the end of the file, and show the progress."""
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
        """Delete the file, where it still lies there, and the note beside it."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _set(self, version: Version) -> None:
        self.version = version
        with parquet.whole(self._note) as partial:
            partial.write_text(json.dumps(asdict(version)))


def _read(note: Path) -> Version | None:
    try:
        return Version(**json.loads(note.read_text()))
    except (ValueError, TypeError):  # what a computer that went down may leave
        return None
