"""What an archive holds lands in its folder, and what would land elsewhere stops it before anything does."""

import errno
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.commands.download import unpack
from pipeline.stage import UserError

TREE = {'Corpus/a b/it\'s "1".wav': b"one", "Corpus/deep/er/2.wav": b"two", "Corpus/readme.txt": b""}


def as_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: Mapping[str, bytes], *members: tarfile.TarInfo) -> Path:
    compression = path.suffix[1:] if path.suffix != ".tar" else ""
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def link(name: str, target: str) -> tarfile.TarInfo:
    return special(name, tarfile.SYMTYPE, target)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(archive: Path, match: str) -> None:
    """Unpacking stops with this line; nothing lies in the target, beside it or beside the archive."""
    parent = archive.parent
    before = set(parent.rglob("*"))
    with pytest.raises(UserError, match=match):
        unpack.unpack(archive, parent / "target" / "corpus")
    assert set(parent.rglob("*")) == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Deep enough that what leads up still leads into the test's own folder."""
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["c.zip", "c.tar", "c.tar.gz", "c.tar.bz2", "c.tar.xz"])
def test_a_tree_comes_out_as_it_went_in_whatever_the_names(name: str, folder: Path) -> None:
    archive = (as_zip if name.endswith("zip") else as_tar)(folder / name, TREE)
    assert unpack.unpack(archive, folder / "target") == len(TREE)
    assert tree(folder / "target") == TREE
    assert {path.name for path in folder.iterdir()} == {name, "target"}


def test_empty_folders_come_out_too_and_count_for_nothing(folder: Path) -> None:
    archive = as_tar(folder / "c.tar", {}, special("./", tarfile.DIRTYPE), special("./empty", tarfile.DIRTYPE))
    assert unpack.unpack(archive, folder / "target") == 0
    assert (folder / "target" / "empty").is_dir()


def test_archives_of_one_corpus_lie_in_one_tree_and_the_later_replaces_files(folder: Path) -> None:
    unpack.unpack(as_zip(folder / "1.zip", {"C/SPEAKERS.TXT": b"old", "C/dev/1.wav": b"1"}), folder / "target")
    unpack.unpack(as_tar(folder / "2.tar", {"C/SPEAKERS.TXT": b"new", "C/test/2.wav": b"2"}), folder / "target")
    assert tree(folder / "target") == {"C/SPEAKERS.TXT": b"new", "C/dev/1.wav": b"1", "C/test/2.wav": b"2"}


def test_a_folder_of_the_corpus_that_is_a_link_to_another_disk_is_filled_there(folder: Path) -> None:
    (folder / "disk").mkdir()
    (folder / "target").mkdir()
    (folder / "target" / "Corpus").symlink_to(folder / "disk")
    unpack.unpack(as_zip(folder / "c.zip", TREE), folder / "target")
    assert (folder / "disk" / "readme.txt").is_file()
    assert (folder / "target" / "Corpus").is_symlink()


def test_archives_in_an_archive_are_unpacked_where_they_lie(folder: Path) -> None:
    inner = as_tar(folder / "train.tar.gz", {"train/1.mp4": b"1", "train/2.mp4": b"2"})
    outer = as_tar(folder / "MELD.tar", {"MELD/train.tar.gz": inner.read_bytes(), "MELD/train.csv": b"csv"})
    assert unpack.unpack(outer, folder / "target") == 3
    assert tree(folder / "target") == {"MELD/train.csv": b"csv", "MELD/train/1.mp4": b"1", "MELD/train/2.mp4": b"2"}


def test_what_an_unfinished_unpacking_left_is_not_taken_over_by_the_next(folder: Path) -> None:
    archive = as_zip(folder / "c.zip", {"a": b"a"})
    (folder / "c.zip.unpacking").mkdir()
    (folder / "c.zip.unpacking" / "left").touch()
    unpack.unpack(archive, folder / "target")
    assert tree(folder / "target") == {"a": b"a"}


OUTWARD = ["../up.wav", "a/../../up.wav", "/tmp/up.wav", "..\\up.wav", "C:\\up.wav", "C:/up.wav", "a/.."]


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_a_name_that_leads_outside_stops_it(
    pack: Callable[[Path, Mapping[str, bytes]], Path], name: str, folder: Path
) -> None:
    archive = pack(folder / "archive", {"good": b"1", name: b"2"})
    refuse(archive, "leads outside; expected names below the archive's own folder")


def test_a_name_that_leads_outside_stops_it_in_an_inner_archive_too(folder: Path) -> None:
    inner = as_zip(folder / "inner.zip", {"../../../../up.wav": b"1"}).read_bytes()
    refuse(as_zip(folder / "c.zip", {"a/inner.zip": inner}), "up.wav' leads outside")


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../../outer", "a/../../..", "nowhere", "self"])
def test_a_link_that_leads_outside_or_nowhere_stops_it(target: str, folder: Path) -> None:
    archive = as_tar(folder / "c.tar", {"a/1": b"1"}, link("self", target))
    refuse(archive, "the link 'self' leads to .*; expected a file in the archive")


def test_a_link_that_leads_outside_stops_a_zip_too(folder: Path) -> None:
    member = zipfile.ZipInfo("passwords")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr(member, "../../../etc/passwd")
    refuse(folder / "c.zip", "the link 'passwords' leads to '../../../etc/passwd'")


def test_a_link_to_the_folder_of_the_unpacking_itself_stops_it(folder: Path) -> None:
    archive = as_tar(folder / "c.tar", {"a": b"1"}, link("b", "../c.tar.unpacking/a"))
    refuse(archive, "the link 'b' leads to '../c.tar.unpacking/a'")


def test_nothing_is_written_through_a_link(folder: Path) -> None:
    (folder / "outside").mkdir()
    through = {"way/file": b"1", "way/deep/file": b"2"}
    with tarfile.open(folder / "c.tar", "w") as archive:
        archive.addfile(link("way", str(folder / "outside")))
        for name, content in through.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        archive.addfile(link("way/link", "file"))
    refuse(folder / "c.tar", "found two entries 'way', one of them a link to '.*/outside'")
    assert not list((folder / "outside").iterdir())


def test_links_through_links_are_checked_by_where_they_end(folder: Path) -> None:
    # `deep/up` is the top, so that `deep/up/..` leaves it although the words stay inside
    archive = as_tar(folder / "c.tar", {"deep/1": b"1"}, link("deep/up", ".."), link("out", "deep/up/../.."))
    refuse(archive, "the link 'out' leads to")


def test_links_within_the_archive_stay_links(folder: Path) -> None:
    links = [link("b", "a/1"), link("a/up", "../a"), link("b", "a/1")]
    unpack.unpack(as_tar(folder / "c.tar", {"a/1": b"1"}, *links), folder / "target")
    assert (folder / "target" / "b").readlink() == Path("a/1")
    assert (folder / "target" / "a" / "up" / "1").read_bytes() == b"1"


def test_a_second_name_of_a_file_becomes_a_file(folder: Path) -> None:
    archive = as_tar(folder / "c.tar", {"a/1": b"1"}, special("b/2", tarfile.LNKTYPE, "a/1"))
    assert unpack.unpack(archive, folder / "target") == 2
    assert tree(folder / "target") == {"a/1": b"1", "b/2": b"1"}


def test_a_second_name_of_a_file_outside_stops_it(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    refuse(as_tar(folder / "1.tar", {}, special("b", tarfile.LNKTYPE, "../secret")), "'../secret' leads outside")
    members = [link("l", "../secret"), special("b", tarfile.LNKTYPE, "l")]
    refuse(as_tar(folder / "2.tar", {}, *members), "cannot be unpacked: .*/l: no such file")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_or_pipe_stops_it(kind: bytes, folder: Path) -> None:
    refuse(as_tar(folder / "c.tar", {"a": b"1"}, special("d", kind)), "'d' is a device or pipe")


@pytest.mark.parametrize("name", ["c.zip", "c.tar.gz", "c.tar.bz2", "c.tar.xz"])
@pytest.mark.parametrize("kept", [0, 3, 100, 2_000])
def test_a_damaged_archive_is_told(name: str, kept: int, folder: Path) -> None:
    archive = (as_zip if name.endswith("zip") else as_tar)(folder / name, {"noise": os.urandom(4_000)})
    archive.write_bytes(archive.read_bytes()[:kept])
    refuse(archive, "not a whole zip or tar archive .*remove it to download it again")


def test_a_web_page_in_place_of_an_archive_is_told(folder: Path) -> None:
    (folder / "c.tar.gz").write_text("<html>Please log in</html>")
    refuse(folder / "c.tar.gz", "not a whole zip or tar archive")


@pytest.mark.parametrize("name", ["c.zip", "c.tar.gz", "c.tar.bz2", "c.tar.xz"])
def test_a_flipped_bit_is_found(name: str, folder: Path) -> None:
    archive = (as_zip if name.endswith("zip") else as_tar)(folder / name, {"noise": os.urandom(4_000)})
    content = bytearray(archive.read_bytes())
    content[2_000] ^= 1
    archive.write_bytes(content)
    refuse(archive, "not a whole zip or tar archive")


def test_a_name_in_no_encoding_is_told(folder: Path) -> None:
    content = as_zip(folder / "c.zip", {"é": b"1"}).read_bytes()
    (folder / "c.zip").write_bytes(content.replace("é".encode(), b"\xff\xff"))
    refuse(folder / "c.zip", "not a whole zip or tar archive .*codec")


def test_an_encrypted_or_oddly_compressed_zip_is_told(folder: Path) -> None:
    content = as_zip(folder / "c.zip", {"a": b"1"}).read_bytes()
    central = content.index(b"PK\x01\x02")
    for offset, value, match in ((8, 1, "'a' is encrypted"), (10, 9, "only other programs unpack")):
        changed = bytearray(content)
        changed[central + offset] = value  # flags, then the method: 9 is Deflate64
        (folder / "c.zip").write_bytes(changed)
        refuse(folder / "c.zip", match)


def test_a_full_disk_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.commands.download.unpack.shutil.copyfileobj", full)
    refuse(as_tar(folder / "c.tar", {"a": b"1"}), "c.tar: cannot be unpacked: no space left on device")


def test_a_file_where_a_folder_lies_is_told(folder: Path) -> None:
    archive = as_zip(folder / "c.zip", {"a": b"1"})
    (folder / "target" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="target/a: found a folder, expected a file as in the archive"):
        unpack.unpack(archive, folder / "target")


def test_the_name_tells_an_archive_and_its_bytes_where_the_name_has_no_suffix(folder: Path) -> None:
    packed, plain = as_zip(folder / "1", TREE), folder / "2"
    plain.write_text("a,b\n")
    assert unpack.is_archive(packed, "Corpus.ZIP")
    assert unpack.is_archive(packed, "content")
    assert unpack.is_archive(as_tar(folder / "3.gz", TREE), "content")
    assert unpack.is_archive(plain, "c.tar.gz")
    assert not unpack.is_archive(packed, "table.xlsx")
    assert not unpack.is_archive(plain, "content")
