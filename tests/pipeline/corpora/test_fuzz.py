"""Generated corpora with random damage: each row is kept, quarantined, or the corpus stops with one line."""

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis.strategies import randoms

from pipeline.corpora import registry
from pipeline.ingest.__main__ import ingest
from pipeline.stage import run_app
from pipeline.tables import parquet, quarantine

pytestmark = pytest.mark.fuzz

MAPPING = "language: en\nlicence: CC0-1.0\n"
TEXTS = (
    "Hello there.", 'He said "no"', '"Is it dangerous?', 'he asked, shaking."', "", "[LAUGHTER]", "<SIL>", "a\tb",
    "a,b;c|d", "b'bytes'", "oh \ud83d", "Grüße 😀", "\x1b[31m", "'", "two\nlines", "&amp;", "x" * 300, "NULL", "1e999",
)  # fmt: skip
HARM = (b'"', b"\n", b",", b"\t", b"\0", b"\xff", b"[", b"{", b"\\", b"}", b"\r", b";", b"\xe2\x80", b"")
TOKEN = re.compile(rb"f\d+\.wav")


def harm(content: bytes, generator: Random) -> bytes:
    """Put something else in a few places, or cut the end off."""
    for _ in range(generator.choice([0, 0, 1, 1, 2, 5])):
        place = generator.randrange(len(content) + 1)
        content = content[:place] + generator.choice(HARM) + content[place + generator.randrange(2) :]
    return content[: generator.randrange(len(content) + 1)] if generator.random() < 0.1 else content


def harm_sound(sound: bytes, generator: Random) -> bytes:
    kind = generator.randrange(8)
    cut = generator.randrange(len(sound))
    return {0: b"", 1: sound[:cut], 2: b"text", 3: b"version https://git-lfs", 4: sound[cut:]}.get(kind, sound)


Outcome = tuple[set[str], int] | None


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


@pytest.fixture
def attempt(
    new_folder: Callable[[], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Ingest a corpus; return the audio and the number of its rows, or None after one line of error."""
    monkeypatch.setattr("pipeline.stage._hide_bars_in_logs", lambda: None)  # it would change tqdm each time

    def run(reader: str, root: Path, **options: Any) -> Outcome:
        output = new_folder() / "out" / "x.parquet"
        capsys.readouterr()

        def app() -> None:
            ingest(registry.open_corpus(reader, root, **options), root, "x", "samples", output)

        refused = quarantine.beside(output)
        try:
            run_app(app)
        except SystemExit:
            error = capsys.readouterr().err
            assert error.startswith("error: ")
            assert error.count("\n") == 1
            assert error.rstrip("\n").isprintable(), error
            assert not output.exists()
            if "no usable clip" not in error:
                return None
        assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
        written = [path for path in (output, refused) if path.exists()]
        schema = pa.schema([("audio", pa.string())])
        audio = [name for path in written for name in parquet.read(path, schema, allow_empty=True)["audio"].to_pylist()]
        return set(audio), len(audio)

    return run


def write_table(path: Path, rows: Sequence[dict[str, str]], generator: Random) -> None:
    names = list(rows[0])
    if path.suffix == ".parquet":
        valid = [{key: value.encode(errors="replace").decode() for key, value in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(valid), path, write_page_checksum=True)
        if generator.random() < 0.3:
            content = bytearray(path.read_bytes())
            place = generator.randrange(4, len(content))
            content[place : place + 20] = b"\xff" * 20
            path.write_bytes(content[: max(4, len(content) - generator.choice([0, 0, 9]))])
        return
    if path.suffix == ".jsonl":
        text = "".join(f"{json.dumps(row, ensure_ascii=True)}\n" for row in rows)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else generator.choice(",;|")
        file = io.StringIO()
        if generator.random() < 0.5:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            writer.writerows([names, *(list(row.values()) for row in rows)])
        else:
            file.writelines(f"{delimiter.join(cells)}\n" for cells in [names, *(row.values() for row in rows)])
        text = file.getvalue()
    path.write_bytes(harm(text.encode(errors="replace"), generator))


@given(generator=randoms(use_true_random=False))
def test_a_table_loses_no_row(
    generator: Random, new_folder: Callable[[], Path], sound: Callable[..., bytes], attempt: Callable[..., Outcome]
) -> None:
    root = new_folder()
    more = generator.sample([("gender", "f"), ("split", "train"), ("turn", "0"), ("language", "en"), ("", "")], 2)
    rows = []
    for i in range(generator.randint(1, 6)):
        (root / f"f{i}.wav").write_bytes(harm_sound(sound(str(i), 0.2), generator))
        row = {"audio": f"f{i}.wav", "speaker": generator.choice("ab"), "text": generator.choice(TEXTS), **dict(more)}
        rows.append(row)
    order = generator.sample(list(rows[0]), len(rows[0]))
    path = root / f"c{generator.choice(['.csv', '.tsv', '.jsonl', '.parquet'])}"
    write_table(path, [{name: row[name] for name in order} for row in rows], generator)
    (root / "mapping.yaml").write_bytes(
        harm(MAPPING.encode(), generator) if generator.random() < 0.1 else MAPPING.encode()
    )
    outcome = attempt("table", root, table=path)
    if outcome is not None:
        audio, count = outcome
        if path.suffix == ".jsonl":
            assert count == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
            return
        named = {f"f{i}.wav" for i in range(len(rows))}
        if path.suffix != ".parquet":
            named = {token.decode() for token in TOKEN.findall(path.read_bytes())}
        assert {name for name in named if not any(name in known for known in audio)} == set()
        assert count >= len(named)


@given(generator=randoms(use_true_random=False))
def test_a_data_set_of_hugging_face_loses_no_row(
    generator: Random, new_folder: Callable[[], Path], sound: Callable[..., bytes], attempt: Callable[..., Outcome]
) -> None:
    folder, root = new_folder(), new_folder()
    (root / "mapping.yaml").write_text(MAPPING)
    count, files = 0, ""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in generator.sample(
        ["train", "test", "validation", "train.100", "evaluation", "other"], generator.randint(1, 3)
    ):
        cells: list[dict[str, Any] | None] = []
        for i in range(generator.randint(1, 4)):
            named = generator.choice(["a.wav", "", None, "x.long suffix", "../a.wav", "a.\0"])
            data = harm_sound(sound(f"{split} {i}", 0.2), generator)
            cells.append(
                generator.choice([{"bytes": data, "path": named}] * 8 + [None, {"bytes": None, "path": "no.wav"}])
            )
        texts = [generator.choice(TEXTS).encode(errors="replace").decode() for _ in cells]
        genders = [generator.choice(["f", "male", "other", "?"]) for _ in cells]
        table = {"audio": pa.array(cells, kind), "speaker": [split] * len(cells), "text": texts, "gender": genders}
        path = folder / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table(table), path, write_page_checksum=True)
        if generator.random() < 0.2:
            content = bytearray(path.read_bytes())
            place = generator.randrange(4, len(content))
            content[place : place + 20] = b"\xff" * 20
            path.write_bytes(content)
        count += len(cells)
        files += f"  - split: {split}\n    path: {split}-*\n"
    if generator.random() < 0.7:
        config = f"configs:\n- config_name: default\n  data_files:\n{files}"
        (folder / "README.md").write_text(f"---\n{config}---\n")
    outcome = attempt("hub", root, dataset=str(folder))
    assert outcome is None or outcome[1] == count


TREES = {
    "aesdd": "anger/a{:02} (1)", "cafe": "Colère/Faible/{:02}-C-1-1", "cremad": "AudioWAV/10{:02}_IEO_ANG_HI",
    "emodb": "wav/{:02}a01Fa", "esd": "00{:02}/Angry/00{:02}_000351", "mead": "M0{:02}/audio/angry/level_1/001",
    "ravdess": "Actor_{:02}/03-01-06-02-01-01-{:02}", "savee": "AudioData/DC/a{:02}",
    "tess": "OAF_angry/OAF_back{}_angry",
}  # fmt: skip
ODD_NAMES = ("outtake", "._x", "a\nb", 'it\'s "x"', "caf\udce9", "\x1b[31m", "x" * 200, "Ünï", ".hidden", "-")


@given(generator=randoms(use_true_random=False))
def test_a_tree_of_files_loses_no_file(
    generator: Random, new_folder: Callable[[], Path], sound: Callable[..., bytes], attempt: Callable[..., Outcome]
) -> None:
    reader, layout = generator.choice(sorted(TREES.items()))
    root = new_folder()
    sure: set[Path] = set()
    for i in range(1, generator.randint(2, 6)):
        name = layout.format(i, i)
        folder = root / os.path.dirname(name)
        folder.mkdir(parents=True, exist_ok=True)
        for stem in {os.path.basename(name), *([generator.choice(ODD_NAMES)] if generator.random() < 0.4 else [])}:
            suffix = generator.choice([".wav", ".wav", ".WAV", ".flac", ".mp3", ".txt", ""])
            (folder / f"{stem}{suffix}").write_bytes(harm_sound(sound(f"{i}{stem}", 0.2), generator))
        if generator.random() < 0.1 and not (folder / "link.wav").is_symlink():
            (folder / "link.wav").symlink_to(generator.choice(["nowhere.wav", ".", "link.wav"]))
        other = folder.with_name(generator.choice([folder.name.upper(), f".{folder.name}", f"{folder.name} 2"]))
        if generator.random() < 0.2 and not other.exists():
            folder.rename(other)
            sure.discard(folder)
            folder = other
        if not folder.name.startswith(".") and not folder.name.endswith(" 2"):
            sure.add(folder)
    outcome = attempt(reader, root)
    if outcome is not None:
        audio, count = outcome
        read = {root / os.path.dirname(name) for name in audio} | sure
        assert count == sum(is_audio(path) for folder in read for path in folder.iterdir())


def is_audio(path: Path) -> bool:
    return path.suffix.lower() in (".wav", ".flac", ".mp3") and not path.name.startswith(".")
