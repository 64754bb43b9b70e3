"""Archives with odd entries are unpacked, or stop with one line and leave nothing behind."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.commands.download import unpack
from pipeline.stage import UserError


def as_zip(path: Path, *entries: tuple[str, bytes], system: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.filename, info.create_system = name, system
            file.writestr(info, content)
    return path


def as_tar(path: Path, *entries: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("pack", [as_zip, as_tar])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("d/" * 2000 + "x.wav", "found 2001 folders within another, .+; expected at most 100 and 255"),
        ("x" * 300, "found 1 folders within another, and a name of 300 bytes; expected at most 100 and 255"),
        ("", "found an entry without a name; expected names of files and folders"),
    ],
)
def test_a_name_that_no_disk_can_hold_stops_it(pack: object, name: str, found: str, tmp_path: Path) -> None:
    assert callable(pack)
    archive = pack(tmp_path / "c", ("a.wav", b"1"), (name, b"2"))
    with pytest.raises(UserError, match=rf"/c: .*{found}"):
        unpack.unpack(archive, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_file_that_only_has_the_name_of_an_archive_stays_a_file(tmp_path: Path) -> None:
    archive = as_zip(tmp_path / "c.zip", ("clip.wav", b"x"), ("notes.zip", b"<html>moved</html>"))
    assert unpack.unpack(archive, tmp_path / "target") == 2
    assert (tmp_path / "target" / "notes.zip").read_bytes() == b"<html>moved</html>"


def test_a_damaged_archive_in_an_archive_is_named(tmp_path: Path) -> None:
    inner = as_tar(tmp_path / "i.tar", ("x.wav", b"1" * 5000)).read_bytes()[:3000]
    with pytest.raises(UserError, match=r"c\.zip: part/train\.tar: not a whole zip or tar archive"):
        unpack.unpack(as_zip(tmp_path / "c.zip", ("part/train.tar", inner)), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    archive = as_zip(tmp_path / "c.zip", ("wav\\1.wav", b"1"), ("wav\\deep\\2.wav", b"2"), system=0)
    assert unpack.unpack(archive, tmp_path / "target") == 2
    assert (tmp_path / "target" / "wav" / "deep" / "2.wav").read_bytes() == b"2"
    with pytest.raises(UserError, match="leads outside"):
        unpack.unpack(as_zip(tmp_path / "d.zip", ("..\\1.wav", b"1"), system=0), tmp_path / "target")


@pytest.mark.parametrize("entries", [(("a", b"1"), ("a/b", b"2")), (("a/b", b"1"), ("a", b"2")), ((".", b"1"),)])
@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_entries_that_exclude_each_other_stop_it(
    pack: object, entries: tuple[tuple[str, bytes], ...], tmp_path: Path
) -> None:
    assert callable(pack)
    with pytest.raises(UserError, match=r"/c: cannot be unpacked: .+"):
        unpack.unpack(pack(tmp_path / "c", *entries), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
