import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from huggingface_hub import DatasetCard

from pipeline.filter.scores import words
from pipeline.stage import UserError
from pipeline.tables import manifest, packed
from tests.builders import change_params, write_table
from tests.doubles import let_runs_load_nothing
from tests.pipeline.commands.publish.conftest import REFUSED, SAID, Project


def published_rows(folder: Path) -> list[dict[str, Any]]:
    """Read all published rows as plain values."""
    return [row for shard in sorted((folder / "data").iterdir()) for row in pq.read_table(shard).to_pylist()]


def leaves(value: Any) -> Iterator[Any]:
    """Yield the strings and bytes of a value, and its lists of numbers."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and not (value and all(isinstance(each, int) for each in value)):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, str | bytes | list):
        yield value


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def forbidden() -> list[str]:
    """Return the transcripts that may not be passed on."""
    return [text for key, _, text, _ in SAID if key.partition("/")[0] in REFUSED]


def contains(values: list[Any], part: list[Any]) -> bool:
    return any(values[i : i + len(part)] == part for i in range(len(values) - len(part) + 1))


@pytest.mark.parametrize("signals", [False, True])
def test_nothing_that_a_licence_forbids_is_in_the_folder(make_project: Callable[..., Project], signals: bool) -> None:
    project = make_project(signals)
    folder = project.publish()
    values = [leaf for row in published_rows(folder) for leaf in leaves(row)]
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    texts = [each for each in values if isinstance(each, str)]
    texts += [content.decode(errors="replace") for content in files]
    ids = [each for each in values if isinstance(each, list)]
    texts += [project.prompter.decode([max(token, 0) for token in each]) for each in ids]
    sequences = {
        tuple(spoken[i : i + 3]) for text in forbidden() if (spoken := words(text)) for i in range(len(spoken) - 2)
    }
    assert len(sequences) > 20
    for said in map(words, texts):
        assert not sequences & {tuple(said[i : i + 3]) for i in range(len(said))}
    for sequence in sequences:
        tokens = list(project.prompter.content_ids(" ".join(sequence)))
        assert not any(contains(each, tokens) for each in ids)
    assert any(contains(each, list(project.prompter.content_ids("this little work"))) for each in ids)


def test_no_clip_of_a_forbidden_row_is_in_the_folder(project: Project) -> None:
    folder = project.publish()
    found = [leaf for row in published_rows(folder) for leaf in leaves(row) if isinstance(leaf, bytes)]
    found += [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    heard = np.concatenate([soundfile.read(io.BytesIO(each), dtype="int16")[0] for each in found[:3]]).tobytes()
    assert len(found) > 8
    checked = 0
    for row in project.rows().values():
        clip = row["audio"]["bytes"]
        samples = soundfile.read(io.BytesIO(clip), dtype="int16")[0].tobytes()
        if row["corpus"] in REFUSED:
            checked += 1
            frames = range(clip.index(b"\xff\xf8"), len(clip) - 16, 16)
            assert not any(clip[start : start + 16] in each for each in found for start in frames)
            assert samples[200:232] not in heard
        else:
            assert samples[200:232] in heard
    assert checked == 8


def test_a_forbidden_row_keeps_keys_and_lengths(project: Project) -> None:
    source = project.rows()
    for row in published_rows(project.publish()):
        if row["corpus"] == "libri":
            assert row | source[row["id"]] == row
            assert row["withheld"] == []
        else:
            kept = next(each for each in source.values() if each["row_hash"] == row["row_hash"])
            same = [name for name in kept if row[name] == kept[name] and kept[name] is not None]
            assert {"corpus", "licence", "language", "continuation_key", "num_samples", "num_text_tokens"} <= set(same)
            assert not {"speaker", "emotion", "emotion_votes", "text", "audio", "text_ids"} & set(same)
            assert set(kept) - set(same) == set(row["withheld"])


def test_a_continuation_stays_readable_if_it_repeats_little(project: Project) -> None:
    rows = {row["row_hash"]: row for row in published_rows(project.publish())}
    found = {key: rows[row["row_hash"]] for key, row in project.rows().items()}
    by_form = {
        key: "clear" if row["response_ids"] is not None else "pointers" if row["response_pointers"] else "lost"
        for key, row in found.items()
    }
    assert by_form == {
        "iemocap/Ses01F_impro01_F000": "clear",
        "iemocap/Ses01F_impro01_F001": "pointers",
        "iemocap/Ses01F_impro01_F002": "lost",  # in capitals, so other tokens
        "iemocap/Ses01F_impro01_F003": "lost",
        "iemocap/Ses01F_impro01_F004": "clear",  # an empty one
        "libri/19-198-0000": "clear",
        "libri/19-198-0001": "clear",
        "libri/19-198-0002": "clear",
        "meld/dia0_utt0": "pointers",
        "meld/dia0_utt1": "pointers",
        "own/we_went_to_the_sea": "clear",
    }


def test_an_id_that_holds_the_transcript_is_withheld(project: Project) -> None:
    ids = [row["id"] for row in published_rows(project.publish()) if row["corpus"] == "own"]
    assert ids == [None]


def test_unknown_means_forbidden(project: Project) -> None:
    change_params({"ingest": {}}, project.params)
    assert all("audio" in row["withheld"] for row in published_rows(project.publish()))


def test_the_echo_limit_of_the_filter_is_used(project: Project) -> None:
    change_params({"filter.semantic.max_echo": 0.0}, project.params)
    rows = published_rows(project.publish())
    assert sum(row["response_pointers"] is not None for row in rows) == 3
    assert sum(row["response_ids"] is None for row in rows) == 5


def test_publish_says_what_each_corpus_lost_and_why(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.publish()
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["corpus", "rows", "withheld", "pointers", "lost", "ids", "signals"] in lines
    assert ["iemocap", "5", "5", "1", "2", "0", "0"] in lines
    assert ["libri", "3", "0", "0", "0", "0", "0"] in lines
    assert ["own", "1", "1", "0", "0", "1", "0"] in lines
    assert "  meld: clips and dialogues are from the TV series Friends" in out
    assert "  own: ask Anna is not known to allow it" in out
    assert len(lines) <= 24


def test_the_card_is_read_by_the_hub(project: Project) -> None:
    card = DatasetCard.load(project.publish() / "README.md")
    data = card.data.to_dict()
    assert data["license"] == ["cc-by-4.0", "other"]
    assert data["language"] == ["en"]
    assert data["task_categories"] == ["automatic-speech-recognition", "audio-text-to-text"]
    assert data["configs"][0]["data_files"][2] == {"split": "test", "path": "data/test-*.parquet"}
    assert "[LibriSpeech](https://www.openslr.org/12)" in card.text
    assert "- **iemocap** (5 rows): LicenseRef-IEMOCAP is not known to allow it." in card.text
    assert "https://sail.usc.edu/iemocap/Data_Release_Form_IEMOCAP.pdf" in card.text
    assert "| train | 7 |" in card.text
    assert "| sad | 3 |" in card.text
    assert "2 withheld" in " ".join(card.text.split())


def test_datasets_loads_the_folder(project: Project, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(project.publish()), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 7, "dev": 1, "test": 3}
    assert isinstance(loaded["train"].features["audio"], datasets.Audio)
    rows = loaded["train"].cast_column("audio", datasets.Audio(decode=False))
    assert sum(row["audio"] is not None for row in rows) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("signals", [False, True])
def test_croissant_describes_every_column(make_project: Callable[..., Project], signals: bool) -> None:
    project = make_project(signals)
    folder = project.publish()
    described = mlcroissant.Dataset(folder / "croissant.json")
    assert not described.metadata.ctx.issues.errors
    records = {record["rows/row_hash"]: record for record in described.records("rows")}
    rows = published_rows(folder)
    assert len(records) == len(rows) == 11
    for row in rows:
        record = records[row["row_hash"].encode()]
        plain = [name for name in row if name not in ("audio", "emotion_votes")]
        for name in plain:
            value = record[f"rows/{name}"]
            expected = row[name].encode() if isinstance(row[name], str) else row[name]
            expected = [each.encode() for each in expected] if name == "withheld" else expected
            assert value == expected, name
        assert record["rows/audio"] == (row["audio"] and row["audio"]["bytes"])
        if row["emotion_votes"]:
            votes = record["rows/emotion_votes"]
            assert [each["rows/emotion_votes/share"] for each in votes] == [0.75, 0.25]
    assert {record["rows/split"] for record in records.values()} == {b"train", b"dev", b"test"}
    files = json.loads((folder / "croissant.json").read_text())["distribution"]
    assert [file["@id"] for file in files[:-1]] == [
        f"{split}-00000-of-00001.parquet" for split in ("train", "dev", "test")
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_folder_may_hold_free_corpora_alone_and_an_empty_split(project: Project, tmp_path: Path) -> None:
    free = [row for row in project.rows().values() if row["corpus"] == "libri"]
    with packed.Writer(project.packed, packed.load_shell(project.packed), 1_000_000) as writer:
        writer.write("train", free)
        writer.write("dev", [])
    folder = project.publish()
    assert [path.name for path in (folder / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert [row["withheld"] for row in published_rows(folder)] == [[], [], []]
    assert content(project.rebuild()) == content(project.packed)
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == ["cc-by-4.0"]
    assert "## What is withheld\n\nNothing." in card.text
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3}
    assert len(list(mlcroissant.Dataset(folder / "croissant.json").records("rows"))) == 3


def test_free_corpora_need_no_tokenizer(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [row for row in project.rows().values() if row["corpus"] == "libri"]
    with packed.Writer(project.packed, packed.load_shell(project.packed), 1_000_000) as writer:
        writer.write("train", free)
    let_runs_load_nothing(monkeypatch)
    assert len(published_rows(project.publish())) == 3


def test_publishing_again_gives_the_same_bytes(project: Project) -> None:
    assert content(project.publish()) == content(project.publish())


def test_a_folder_that_publish_has_not_written_is_refused(project: Project) -> None:
    (project.folder / "published").mkdir()
    (project.folder / "published" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"published: found thesis\.txt; expected a new folder, or one with only what"):
        project.publish()
    (project.folder / "published" / "thesis.txt").rename(project.folder / "thesis.txt")
    with pytest.raises(UserError, match="published: found nothing; expected a new folder"):
        project.publish()
    with pytest.raises(UserError, match=r"packed: found .*; expected a new folder"):
        project.publish("packed")
    with pytest.raises(UserError, match=r"thesis\.txt: found a file or a link; expected a new folder"):
        project.publish("thesis.txt")
    (project.folder / "published").rmdir()
    (project.publish() / ".git").mkdir()
    with pytest.raises(UserError, match=r"published: found \.git; expected"):
        project.publish()


def test_another_tokenizer_is_named(project: Project) -> None:
    rows = manifest.read(project.folder / "manifest.parquet").to_pylist()
    rows[0]["text"] = "another transcript"
    write_table(project.folder / "manifest.parquet", rows)
    project.pack()
    with pytest.raises(UserError, match=r"iemocap/Ses01F_impro01_F000: found token ids of another tokenizer"):
        project.publish()


def test_an_unpacked_folder_is_named(project: Project) -> None:
    empty = project.folder / "empty"
    empty.mkdir()
    (empty / "frame.json").write_bytes((project.packed / "frame.json").read_bytes())
    from pipeline.commands.publish import command

    with pytest.raises(UserError, match=r"empty: found no packed rows"):
        command.main(empty, project.folder / "published", project.params)


# kills its own process when a file of the folder is written
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.commands.publish import card, command, croissant, published

def dies(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

owner = {"close": published.SplitWriter, "card": card, "croissant": croissant, "replace_folder": published}[sys.argv[1]]
setattr(owner, "write" if sys.argv[1] in ("card", "croissant") else sys.argv[1], dies)
command.main(*map(Path, sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_killed_publish_leaves_no_half_folder(project: Project) -> None:
    paths = [str(path) for path in (project.packed, project.folder / "published", project.params)]
    for name in ("close", "card", "croissant", "replace_folder"):
        done = subprocess.run([sys.executable, "-c", KILLED, name, *paths], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (project.folder / "published").exists()
    assert len(published_rows(project.publish())) == 11
    assert not list(project.folder.glob(".published*"))


def test_shards_end_with_the_row_that_reaches_their_size(tmp_path: Path) -> None:
    from pipeline.commands.publish import published

    columns = published.schema(False)
    writer = published.SplitWriter(tmp_path, "train", columns, shard_bytes=150)
    for i in range(7):
        writer.add(dict.fromkeys(columns.names) | {"id": str(i), "audio": {"bytes": b"x" * 50, "path": None}})
    names = [shard.name for shard in writer.close()]
    assert names == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [pq.read_metadata(tmp_path / name).num_rows for name in names] == [3, 3, 1]
    (tmp_path / "data").mkdir()
    for name in names[1:]:
        (tmp_path / name).rename(tmp_path / "data" / name)
    with pytest.raises(UserError, match="found 2 shards of train, expected 3"):
        list(published.rows(tmp_path, "train"))
