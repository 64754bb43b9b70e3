"""Corpora of noise, and what ingest makes of them."""

import errno
import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.corpora import registry
from pipeline.ingest import __main__ as ingest
from pipeline.tables import manifest, parquet, quarantine

MAPPING = "language: en\nlicence: CC0-1.0\n"


@dataclass(frozen=True)
class Taken:
    """The manifest and the quarantine of a corpus."""

    kept: list[dict[str, Any]]
    refused: list[dict[str, Any]]

    @property
    def reasons(self) -> dict[str, tuple[str, str]]:
        """Return reason and detail by id."""
        return {row["id"]: (row["reason"], row["detail"]) for row in self.refused}

    def column(self, name: str) -> list[Any]:
        """Return a column of the manifest."""
        return [row[name] for row in self.kept]


def noise(name: str, seconds: float = 0.5, kind: str = "WAV") -> bytes:
    """Return noise as a file; the same name gives the same samples."""
    file = io.BytesIO()
    samples = np.random.default_rng(zlib.crc32(name.encode(errors="surrogateescape"))).integers(
        -2000, 2000, round(16_000 * seconds), np.int16
    )
    soundfile.write(file, samples, 16_000, format=kind)
    return file.getvalue()


@pytest.fixture
def sound() -> Callable[..., bytes]:
    """Make noise as the bytes of a file."""
    return noise


@pytest.fixture
def speak() -> Callable[..., Path]:
    """Write noise to a file in the format of its suffix."""

    def write(path: Path, seconds: float = 0.5) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".flac": "FLAC", ".mp3": "MP3"}.get(path.suffix.lower(), "WAV")
        path.write_bytes(noise(path.stem, seconds, kind))
        return path

    return write


@pytest.fixture
def take_in(tmp_path: Path) -> Callable[..., Taken]:
    """Ingest a corpus; a table gets a mapping, unless the root has one."""

    def run(reader: str, root: Path, mapping: str | None = None, **options: Any) -> Taken:
        if mapping is not None:
            (root / "mapping.yaml").write_text(MAPPING + mapping)
        output = tmp_path / "taken" / "x.parquet"
        ingest.ingest(registry.open_corpus(reader, root, **options), root, "x", "samples", output)
        refused = quarantine.read(quarantine.beside(output)).to_pylist()
        rows = parquet.read(output, manifest.SCHEMA).to_pylist(maps_as_pydicts="strict")
        return Taken(rows, refused)

    return run


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make folders of a name impossible to list, also for root, who runs the tests in a container."""
    listed = os.scandir

    def run(name: str) -> None:
        def scandir(path: str | Path) -> Any:
            if Path(path).name == name:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return run
