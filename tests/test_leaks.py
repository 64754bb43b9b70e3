from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio.mono_16k import Samples
from pipeline.commands import leaks as command
from pipeline.leaks import __main__ as leaks
from pipeline.leaks import fingerprint
from pipeline.stage import UserError
from pipeline.tables import parquet
from tests.builders import utterance, write_table

OPTIONS: dict[str, Any] = {
    "forbid": ["speaker", "dialogue", "audio", "near_audio"],
    "allow": {},
    "near_audio_of": ["emotion"],
}
CLEAN = ("train", "train", "dev", "test", "test")


def sound(seed: int) -> Samples:
    """Make up two seconds whose bands rise and fall."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((40, 800)) * generator.uniform(0.05, 0.2, (40, 1))
    return steps.ravel().astype(np.float32)


def row(corpus: str, i: int, part: str, **changes: Any) -> dict[str, Any]:
    """A row that shares nothing with any other."""
    key = f"{corpus}/{i}"
    made = {
        "corpus": corpus, "audio": f"{i}.wav", "start_s": 0.0, "duration_s": 2.0, "text": f"text {key}",
        "speaker": f"{corpus}/speaker-{i}", "dialogue": f"dialogue-{i}", "split": part, "content_hash": f"hash {key}",
    }  # fmt: skip
    return utterance(key) | made | changes


class Project:
    """A folder with two manifests and the clips of the corpora `read` and `acted`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {
            name: [row(name, i, part) for i, part in enumerate(CLEAN)] for name in ("read", "acted")
        }  # a corpus a manifest
        for corpus, first in (("read", 100), ("acted", 200)):
            (folder / corpus).mkdir()
            for i in range(len(CLEAN)):
                self.write(corpus, i, sound(first + i))

    def write(self, corpus: str, i: int, samples: Samples) -> None:
        soundfile.write(self.folder / corpus / f"{i}.wav", samples, 16_000)

    def change(self, corpus: str, i: int, **changes: Any) -> None:
        self.rows[corpus][i].update(changes)

    def run(self, **changes: Any) -> pa.Table:
        """Run the stage and return the report."""
        self.prepare(**changes)
        leaks.main(*self.files, self.folder / "params.yaml")
        return self.report()

    def prepare(self, **changes: Any) -> None:
        for corpus, file in zip(("read", "acted"), self.files, strict=False):
            write_table(file, self.rows[corpus])
        roots = "".join(
            f"  {name}: {{reader: ravdess, root: {self.folder / name}, check: samples}}\n" for name in ("read", "acted")
        )
        lines = "".join(f"  {key}: {value}\n" for key, value in {**OPTIONS, **changes}.items())
        (self.folder / "params.yaml").write_text(f"ingest:\n{roots}leaks:\n{lines}")

    def report(self) -> pa.Table:
        return parquet.read(self.files[2], leaks.SCHEMA, allow_empty=True)

    @property
    def files(self) -> tuple[Path, Path, Path]:
        semantic, emotion, output = (self.folder / f"{name}.parquet" for name in ("semantic", "emotion", "leaks"))
        return semantic, emotion, output


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_clean_split_passes(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.run(near_audio_of=["semantic", "emotion"]).num_rows == 0
    assert capsys.readouterr().out.endswith(
        "leaks: test shares 0 values with train or dev; none of them is forbidden\n"
    )


PLANTED: Mapping[str, dict[str, Any]] = {
    "speaker": {"speaker": "acted/speaker-0"},
    "dialogue": {"dialogue": "dialogue-0"},
    "sentence": {"text": "text acted/0"},
    "audio": {"content_hash": "hash acted/0"},
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_leak_is_found_written_and_fails_the_stage(project: Project, kind: str) -> None:
    project.change("acted", 3, **PLANTED[kind])
    message = rf"expected no forbidden leak, found 1 of kind {kind} \(first acted/0 in train, acted/3 in test\)"
    with pytest.raises(UserError, match=message):
        project.run(forbid=[*OPTIONS["forbid"], "sentence"])
    (found,) = project.report().to_pylist()
    expected = {"kind": kind, "corpus": "acted", "train_rows": 1, "dev_rows": 0, "test_rows": 1}
    ids = {"seen_id": "acted/0", "test_id": "acted/3", "allowed": None}
    values = {"speaker": "acted/speaker-0", "dialogue": "acted/dialogue-0"}
    assert found == {**expected, **ids, "value": values.get(kind) or next(iter(PLANTED[kind].values()))}


def test_a_planted_copy_is_found_by_ear(project: Project) -> None:
    project.write("acted", 3, sound(200)[1_111:] * np.float32(0.3))
    message = r"found 1 of kind near_audio \(first acted/0 in train, acted/3 in test\); see .*leaks\.parquet"
    with pytest.raises(UserError, match=message):
        project.run()
    (found,) = project.report().to_pylist()
    assert (found["value"], found["train_rows"], found["test_rows"]) == ("acted/3", 1, 1)


def test_leaks_of_several_kinds_are_told_together(project: Project) -> None:
    project.change("acted", 4, dialogue="dialogue-2", speaker="acted/speaker-2")
    message = r"found 1 of kind speaker \(first acted/2 in dev, .*; 1 of kind dialogue \(first acted/2 in dev"
    with pytest.raises(UserError, match=message):
        project.run()


def test_rows_are_counted_by_part_and_the_first_ones_named(project: Project) -> None:
    for i in range(5):
        project.change("acted", i, text="the same")
    (found,) = project.run().to_pylist()
    assert [found[f"{part}_rows"] for part in ("train", "dev", "test")] == [2, 1, 2]
    assert (found["seen_id"], found["test_id"]) == ("acted/0", "acted/3")
    assert found["allowed"] == "not in leaks.forbid"


def test_what_the_manifests_share_with_each_other_is_found(project: Project) -> None:
    project.change("read", 0, content_hash="hash acted/4")
    with pytest.raises(UserError, match=r"1 of kind audio \(first read/0 in train, acted/4 in test\)"):
        project.run()


def test_equal_dialogue_names_of_two_corpora_are_two_dialogues(project: Project) -> None:
    project.change("read", 0, dialogue="shared")
    project.change("acted", 4, dialogue="shared")
    assert project.run().num_rows == 0


def test_a_corpus_in_both_manifests_counts_once(project: Project) -> None:
    project.rows["read"] = [dict(row) for row in project.rows["acted"]]
    project.change("acted", 3, text="text acted/0")
    project.change("read", 3, text="text acted/0")
    (found,) = project.run(near_audio_of=["semantic", "emotion"]).to_pylist()
    assert (found["train_rows"], found["test_rows"]) == (1, 1)


def test_an_allowed_kind_passes_for_its_corpus_alone(project: Project) -> None:
    for corpus in ("read", "acted"):
        project.change(corpus, 3, speaker=f"{corpus}/speaker-0")
    with pytest.raises(UserError, match=r"found 1 of kind speaker \(first read/0"):
        project.run(allow={"acted": ["speaker"]})
    allowed = {found["corpus"]: found["allowed"] for found in project.report().to_pylist()}
    assert allowed == {"acted": "leaks.allow", "read": None}
    assert project.run(allow={"acted": ["speaker"], "read": ["speaker"]}).num_rows == 2


def test_what_is_unknown_is_shared_with_nobody(project: Project) -> None:
    for i in range(5):
        project.change(
            "acted", i, speaker=("acted/", None, "acted/unknown")[i % 3], dialogue=None, text=None, content_hash=None
        )
        project.change("read", i, text="", dialogue=None)
    assert project.run().num_rows == 0


def test_recordings_that_the_hash_tells_are_not_looked_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.change("acted", 3, content_hash="hash acted/0")
    heard: list[fingerprint.Fingerprint] = []

    def find(_: fingerprint.Index, looked_up: fingerprint.Fingerprint) -> list[fingerprint.Match]:
        heard.append(looked_up)
        return []

    monkeypatch.setattr(fingerprint.Index, "find", find)
    report = project.run(forbid=[])
    assert report["kind"].to_pylist() == ["audio"]
    assert len(heard) == 2  # of three rows of train and dev


def test_only_the_clips_of_the_named_manifests_are_read(project: Project) -> None:
    project.write("read", 3, sound(100))
    assert project.run().num_rows == 0
    with pytest.raises(UserError, match=r"1 of kind near_audio \(first read/0 in train, read/3 in test\)"):
        project.run(near_audio_of=["semantic"])


def test_the_table_fits_80_columns_and_leaves_blank_what_is_unknown(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        project.change("acted", i, dialogue=None, text=f"text {i % 2}")
    project.change("acted", 3, speaker="acted/speaker-0")
    project.prepare(allow={"acted": ["speaker"]})
    command.main(*project.files, project.folder / "params.yaml")
    table = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table] == [
        ["corpus", "of", "test", "speaker", "dialogue", "sentence", "audio", "near", "audio"],
        ["acted", "1", "2", "0", "0"],
        ["read", "0", "0", "0", "0"],
        ["leaks.allow:", "speaker", "of", "acted"],
        ["not", "in", "leaks.forbid:", "sentence", "of", "acted"],
    ]
    assert max(map(len, table)) <= 80


def test_the_command_prints_and_writes_what_is_forbidden_and_then_fails(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.change("acted", 3, speaker="acted/speaker-0")
    project.prepare()
    with pytest.raises(UserError, match=r"found 1 of kind speaker \(first acted/0 in train, acted/3 in test\)"):
        command.main(*project.files, project.folder / "params.yaml")
    assert "corpus of test  speaker" in capsys.readouterr().out
    assert project.report()["kind"].to_pylist() == ["speaker"]


def test_manifests_without_a_test_row_share_nothing(project: Project) -> None:
    for corpus in ("read", "acted"):
        for i in range(5):
            project.change(corpus, i, split="train", speaker=f"{corpus}/one")
    assert project.run().num_rows == 0


def test_the_report_is_the_same_each_time(project: Project) -> None:
    for i in range(5):
        project.change("acted", i, text=f"text {i % 2}", speaker=f"acted/{i % 2}")
    project.run(forbid=[])
    first = project.files[2].read_bytes()
    project.run(forbid=[])
    assert project.files[2].read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"allow": {"actd": ["speaker"]}}, "leaks.allow: actd is in neither manifest; expected some of acted, read"),
        ({"near_audio_of": []}, "leaks.near_audio_of: expected semantic, emotion or both, found none, yet near_audio"),
        (
            {"forbid": ["speakers"]},
            "leaks.forbid.0: expected 'speaker', 'dialogue', 'sentence', 'audio' or 'near_audio'",
        ),
    ],
)
def test_wrong_parameters_are_told(project: Project, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        project.run(**changes)


def test_a_corpus_without_a_root_is_told(project: Project) -> None:
    project.rows["read"][0]["corpus"] = "written"
    with pytest.raises(UserError, match="corpus written is not listed under ingest; expected some of read, acted"):
        project.run()


def test_a_clip_that_has_gone_is_told(project: Project) -> None:
    project.prepare()
    (project.folder / "acted" / "1.wav").unlink()
    with pytest.raises(UserError, match=r"acted/1\.wav: .*, yet ingest read it; ingest acted again"):
        leaks.main(*project.files, project.folder / "params.yaml")
