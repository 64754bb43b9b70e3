"""Download: the parts of corpora that are free to download, loaded, checked and unpacked.

A part of a corpus is one published file. While it arrives it lies in `TO/CORPUS/.downloaded/PART.part`;
`PART.json` there is written last and tells that the part is in.
"""

import json
import os
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from pipeline.corpora import registry
from pipeline.corpora.corpus import Archive
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import parquet

_WIDTH = 80  # characters of a line of the list


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a corpus: one file to download."""

    corpus: str
    name: str
    archive: Archive

    @property
    def title(self) -> str:
        """How the command line calls it."""
        return f"{self.corpus}:{self.name}"

    @property
    def file_name(self) -> str:
        """How the publisher calls its file."""
        return Path(unquote(urlsplit(self.archive.url).path)).name or self.name


def find(wanted: str) -> list[Part]:
    """Return the parts that `CORPUS` or `CORPUS:PART` means; raises UserError when there are none to download."""
    name, colon, part = wanted.partition(":")
    if name not in registry.names():
        raise UserError(f"{name}: no such corpus; expected one of {', '.join(registry.names())}")
    corpus = registry.load(name)
    if not corpus.archives:
        raise UserError(
            f"{name}: {corpus.title} ({corpus.licence}) cannot be downloaded this way; ask at {corpus.source}"
        )
    if colon and part not in corpus.archives:
        raise UserError(f"{name}: found no part {part!r}, expected one of {', '.join(corpus.archives)}")
    return [Part(name, part, corpus.archives[part]) for part in ([part] if colon else corpus.archives)]


def fetch(part: Part, to: Path, keep: bool = False) -> None:
    """Load `part` and unpack it below `to`, unless it is in; `keep` leaves the archive beside the marker."""
    from pipeline.commands.download import transfer, unpack  # as they load slowly, and the help does not need them

    root = to / part.corpus
    marker = root / ".downloaded" / f"{part.name}.json"
    if _is_in(part.archive, marker):
        say(f"download: {part.title}: is in {root} already; remove {marker} to download it anew")
        return
    folder = root / part.archive.into
    path = marker.with_name(f"{part.name}.part")
    copies = 2 if unpack.is_named_archive(part.file_name) else 1  # what comes out is hardly smaller
    arrived = transfer.fetch(part.title, part.archive.url, part.archive.md5, path, copies)
    num_files = 1
    if unpack.is_archive(path, part.file_name):
        num_files = unpack.unpack(path, folder)
        if keep:
            path.replace(path.with_name(part.file_name))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / part.file_name)
    arrived.remove()
    entry = {"url": part.archive.url, "md5": arrived.md5, "bytes": arrived.num_bytes}
    with parquet.whole(marker) as partial:
        partial.write_text(json.dumps(entry, indent=2) + "\n")
    checksum = "MD5 as published" if part.archive.md5 else f"no published checksum, MD5 {arrived.md5}"
    files = "file" if num_files == 1 else "files"
    size = transfer.megabytes(arrived.num_bytes)
    say(f"download: {part.title}: {size}, {checksum}; {num_files:,} {files} in {folder}")


def catalogue() -> str:
    """Lay out all corpora: title and licence, then the parts or where to ask for them."""
    corpora = {name: registry.load(name) for name in registry.names()}
    indent = max(map(len, corpora)) + 2
    entries = []
    for name, corpus in corpora.items():
        parts = f"parts: {' '.join(corpus.archives)}" if corpus.archives else f"ask at {corpus.source}"
        entries += [_wrap(f"{corpus.title}, {corpus.licence}", name.ljust(indent)), _wrap(parts, " " * indent)]
    return "\n".join(entries)


def _wrap(text: str, start: str) -> str:
    """Break `text` between words; a web address stays whole."""
    rest = " " * len(start)
    return textwrap.fill(
        text, _WIDTH, initial_indent=start, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _is_in(archive: Archive, marker: Path) -> bool:
    """Whether `marker` tells of this file: of its sum, or of its address where no sum is published."""
    try:
        entry = json.loads(marker.read_text())
        return bool(entry["url"] == archive.url if archive.md5 is None else entry["md5"] == archive.md5)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # none, or what a computer that went down may leave
        return False


def main(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="CORPUS[:PART]", help="Corpora, or parts of them.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder in which each corpus has its own.")] = Path("data/corpora"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep archives after unpacking.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Print all corpora with their licences and parts.")] = False,
) -> None:
    """Download, check and unpack corpora that are free to download; call again to go on after a stop."""
    if show:
        say(catalogue())
    elif not wanted:
        raise typer.BadParameter("found none, expected one or more, or --list", param_hint="CORPUS")
    for part in dict.fromkeys(part for each in wanted or [] for part in find(each)):
        try:
            fetch(part, to, keep)
        except OSError as error:
            if error.errno is None:
                raise
            # a write to a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), error.filename or str(to / part.corpus)) from None


if __name__ == "__main__":
    run_stage(main)
