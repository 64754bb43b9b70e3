"""Download the archives of free corpora, check and unpack them.

An archive is one published file of a corpus. During the download it is `TO/CORPUS/.downloaded/ARCHIVE.part`. The marker
`ARCHIVE.json` beside it is written last: it means that the archive is unpacked.
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
class NamedArchive:
    """An archive of a corpus: one file to download."""

    corpus: str
    name: str
    archive: Archive

    @property
    def title(self) -> str:
        """The archive's name on the command line."""
        return f"{self.corpus}:{self.name}"

    @property
    def file_name(self) -> str:
        """The file's name at the publisher."""
        return Path(unquote(urlsplit(self.archive.url).path)).name or self.name


def find(wanted: str) -> list[NamedArchive]:
    """Return the archives that `CORPUS` or `CORPUS:ARCHIVE` names; raises UserError if there are none to download."""
    name, colon, archive = wanted.partition(":")
    if name not in registry.names():
        raise UserError(f"{name}: no such corpus; expected one of {', '.join(registry.names())}")
    corpus = registry.load(name)
    if not corpus.archives:
        raise UserError(
            f"{name}: {corpus.title} ({corpus.licence}) cannot be downloaded this way; ask at {corpus.source}"
        )
    if colon and archive not in corpus.archives:
        raise UserError(f"{name}: found no archive {archive!r}, expected one of {', '.join(corpus.archives)}")
    return [NamedArchive(name, each, corpus.archives[each]) for each in ([archive] if colon else corpus.archives)]


def fetch(named: NamedArchive, to: Path, keep: bool = False) -> None:
    """Download `named` and unpack it below `to`, unless it has a marker; `keep` keeps the archive beside the marker."""
    from pipeline.commands.download import transfer, unpack  # slow to import, and --help does not need them

    root = to / named.corpus
    marker = root / ".downloaded" / f"{named.name}.json"
    if _is_in(named.archive, marker):
        say(f"download: {named.title}: already in {root}; remove {marker} to download it again")
        return
    folder = root / named.archive.into
    path = marker.with_name(f"{named.name}.part")
    copies = 2 if unpack.is_named_archive(named.file_name) else 1  # unpacked files need about as much space
    arrived = transfer.fetch(named.title, named.archive.url, named.archive.md5, path, copies)
    num_files = 1
    if unpack.is_archive(path, named.file_name):
        num_files = unpack.unpack(path, folder)
        if keep:
            path.replace(path.with_name(named.file_name))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / named.file_name)
    arrived.remove()
    entry = {"url": named.archive.url, "md5": arrived.md5, "bytes": arrived.num_bytes}
    with parquet.whole(marker) as partial:
        partial.write_text(json.dumps(entry, indent=2) + "\n")
    checksum = "MD5 as published" if named.archive.md5 else f"no published checksum, MD5 {arrived.md5}"
    files = "file" if num_files == 1 else "files"
    size = transfer.megabytes(arrived.num_bytes)
    say(f"download: {named.title}: {size}, {checksum}; {num_files:,} {files} in {folder}")


def catalogue() -> str:
    """Lay out all corpora: title and licence, and the archives or where to ask for the corpus."""
    corpora = {name: registry.load(name) for name in registry.names()}
    indent = max(map(len, corpora)) + 2
    entries = []
    for name, corpus in corpora.items():
        source = f"archives: {' '.join(corpus.archives)}" if corpus.archives else f"ask at {corpus.source}"
        entries += [_wrap(f"{corpus.title}, {corpus.licence}", name.ljust(indent)), _wrap(source, " " * indent)]
    return "\n".join(entries)


def _wrap(text: str, start: str) -> str:
    """Break `text` into lines between words, but not inside a web address."""
    rest = " " * len(start)
    return textwrap.fill(
        text, _WIDTH, initial_indent=start, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _is_in(archive: Archive, marker: Path) -> bool:
    """Return whether `marker` names this archive: its checksum, or its address if no checksum is published."""
    try:
        entry = json.loads(marker.read_text())
        return bool(entry["url"] == archive.url if archive.md5 is None else entry["md5"] == archive.md5)
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # no marker, or one damaged by a crash
        return False


def main(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="CORPUS[:ARCHIVE]", help="Corpora, or single archives of them.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Folder in which each corpus gets a folder.")] = Path("data/corpora"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep archives after unpacking.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Print all corpora with their licences and archives.")] = False,
) -> None:
    """Download corpora, check and unpack them.

    Not every corpus is free to download; --list says where to ask for the others. After an interruption, run the
    command again: it continues where it stopped.
    """
    if show:
        say(catalogue())
    elif not wanted:
        raise typer.BadParameter("found none, expected one or more, or --list", param_hint="CORPUS")
    for named in dict.fromkeys(named for each in wanted or [] for named in find(each)):
        try:
            fetch(named, to, keep)
        except OSError as error:
            if error.errno is None:
                raise
            # the error of a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), error.filename or str(to / named.corpus)) from None


if __name__ == "__main__":
    run_stage(main)
