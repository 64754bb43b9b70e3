"""Unpack a zip or tar archive below one folder, and nowhere else.

The content is first written to a new folder beside the archive, all links after all files. So nothing is written
through a link. Writing through a link is how archives got past tarfile's own filter (CVE-2025-4517). Then the content
moves to its folder, which may already contain other archives of the corpus.
"""

import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PureWindowsPath

from pipeline.progress import track
from pipeline.stage import UserError

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_ZIP_MAGIC = b"PK\x03\x04"
_MAGIC = (_ZIP_MAGIC, b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # zip, empty zip, gzip, bzip2, xz
_ENCRYPTED = 1  # bit of a zip member's flags
_MS_DOS = 0  # the system of some programs that write \ for /
_DAMAGES = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, ValueError, struct.error, IndexError,
    KeyError, OverflowError,
)  # fmt: skip
# of names in an archive; a disk allows 255 bytes, and folders are removed by recursion
_MAX_NAME_BYTES, _MAX_FOLDERS = 255, 100


def is_archive(path: Path, file_name: str) -> bool:
    """Return whether `path` is an archive by its published name, or by its bytes if the name has no suffix."""
    if not Path(file_name).suffix:
        return _is_zip(path) or tarfile.is_tarfile(path)
    return is_named_archive(file_name)


def is_named_archive(file_name: str) -> bool:
    """Return whether the published name is that of an archive."""
    return file_name.lower().endswith(_SUFFIXES)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack `archive` and the archives inside it into `folder`; return the number of files.

    Raises UserError if the archive is damaged, or if a name or link in it leads outside; `folder` is then unchanged.
    """
    stage = archive.with_name(f"{archive.name}.unpacking")
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir()
        count = _fill(stage, archive)
        _merge(stage, folder)
    except NotImplementedError:
        raise UserError(f"{archive}: compressed in a way that only other programs unpack, such as 7z") from None
    except OSError as error:
        if error.errno is None:  # from a decompressor
            raise _damaged(archive, error) from None
        where = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{archive}: cannot be unpacked: {where}{os.strerror(error.errno).lower()}") from None
    except _DAMAGES as error:
        raise _damaged(archive, error) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return count


def _fill(stage: Path, archive: Path) -> int:
    """Write all files below `stage`, then all links, and count both."""
    links: dict[Path, str] = {}
    count = _extract(archive, stage, links)
    # MELD's splits are tar files in a tar file
    for inner in [path for path in sorted(stage.rglob("*")) if path.is_file() and is_named_archive(path.name)]:
        if not _has_magic(inner):  # such as a web page with the name of an archive: it stays as it is
            continue
        try:
            count += _extract(inner, inner.parent, links) - 1
        except _DAMAGES as error:
            raise _damaged(archive, error, f"{inner.relative_to(stage)}: ") from None
        inner.unlink()
    _link(archive, stage, links)
    return count


def _extract(archive: Path, folder: Path, links: dict[Path, str]) -> int:
    """Write the files of one archive, add its symbolic links to `links`, and count both."""
    return _extract_zip(archive, folder, links) if _is_zip(archive) else _extract_tar(archive, folder, links)


def _extract_zip(archive: Path, folder: Path, links: dict[Path, str]) -> int:
    count = 0
    with zipfile.ZipFile(archive) as file:
        for member in track(file.infolist(), "unpack", len(file.infolist()), "files"):
            if member.create_system == _MS_DOS and "/" not in member.filename:
                member.filename = member.filename.replace("\\", "/")
            _check_name(archive, member.filename)
            if member.flag_bits & _ENCRYPTED:
                raise UserError(f"{archive}: {member.filename!r} is encrypted; expected an archive without a password")
            count += not member.is_dir()
            if stat.S_ISLNK(member.external_attr >> 16):  # the upper half is the Unix mode
                links[folder / member.filename] = os.fsdecode(file.read(member))
            else:
                file.extract(member, folder)
    return count


def _extract_tar(archive: Path, folder: Path, links: dict[Path, str]) -> int:
    count = 0
    with tarfile.open(archive) as file:
        for member in track(file, "unpack", unit="files"):
            _check_name(archive, member.name)
            count += not member.isdir()
            if member.issym():
                links[folder / member.name] = member.linkname
            elif member.islnk():  # a hard link to an earlier file
                _check_name(archive, member.linkname)
                (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / member.linkname, folder / member.name)
            elif member.isdir():
                (folder / member.name).mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                _write(file, member, folder / member.name)
            else:
                raise UserError(f"{archive}: {member.name!r} is a device or pipe; expected files and folders")
        assert file.fileobj is not None
        while file.fileobj.read(1 << 20):  # read on to the checksum at the end of a compressed file
            pass
    return count


def _write(file: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a file without its published owner and mode; the tarfile of Debian 12 has no filter for that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = file.extractfile(member)
    assert source is not None
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)


def _link(archive: Path, stage: Path, links: dict[Path, str]) -> None:
    """Create the symbolic links; raises UserError if one does not lead to a file or folder below `stage`."""
    for path in links:  # create the folders first: once a link exists, mkdir could follow it out of `stage`
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, target in links.items():
        if path.exists():
            raise UserError(
                f"{archive}: found two entries {str(path.relative_to(stage))!r}, one of them a link to {target!r}"
            )
        path.symlink_to(target)
    for path, target in links.items():
        name = path.relative_to(stage)
        try:
            inside = path.resolve(strict=True).is_relative_to(stage.resolve())
        except (OSError, RuntimeError):  # the link leads nowhere, or in a circle
            inside = False
        if not inside or _leads_out(os.path.normpath(name.parent / target)):
            raise UserError(f"{archive}: the link {str(name)!r} leads to {target!r}; expected a file in the archive")


def _merge(source: Path, target: Path) -> None:
    """Move the content of `source` to `target`, and replace files of the same name."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        there = target / path.name
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and there.is_dir():
            _merge(path, there)
        elif there.exists() and is_folder != there.is_dir():
            found, expected = ("file", "folder") if is_folder else ("folder", "file")
            raise UserError(f"{there}: found a {found}, expected a {expected} as in the archive")
        else:
            shutil.move(path, there)  # also to another disk, if a folder of the corpus is a link to it


def _check_name(archive: Path, name: str) -> None:
    if not name:
        raise UserError(f"{archive}: found an entry without a name; expected names of files and folders")
    if _leads_out(name):
        raise UserError(f"{archive}: {name!r} leads outside; expected names below the archive's own folder")
    names = name.encode(errors="surrogateescape").split(b"/")
    if len(names) > _MAX_FOLDERS or max(map(len, names)) > _MAX_NAME_BYTES:
        found = f"{len(names)} folders within another, and a name of {max(map(len, names))} bytes"
        expected = f"at most {_MAX_FOLDERS} and {_MAX_NAME_BYTES}"
        raise UserError(f"{archive}: {name[:40]!r} ...: found {found}; expected {expected}")


def _leads_out(name: str) -> bool:
    path = PureWindowsPath(name)  # splits at both kinds of slashes
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(512)
    return head.startswith(_MAGIC) or head[257:262] == b"ustar"


def _damaged(archive: Path, error: Exception, inner: str = "") -> UserError:
    reason = str(error).partition("\n")[0].rstrip(":")
    return UserError(f"{archive}: {inner}not a whole zip or tar archive ({reason}); remove it to download it again")
