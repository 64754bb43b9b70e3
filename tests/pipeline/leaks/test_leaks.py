from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.leaks import __main__ as leaks
from pipeline.leaks import fingerprint
from pipeline.stage import UserError
from tests.builders import LEAKS, LeaksProject, rising_and_falling


@pytest.fixture
def project(tmp_path: Path) -> LeaksProject:
    return LeaksProject(tmp_path)


def test_a_clean_split_passes(project: LeaksProject, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_planted_leak_is_found_written_and_fails_the_stage(project: LeaksProject, kind: str) -> None:
    project.change("acted", 3, **PLANTED[kind])
    message = rf"expected no forbidden leak, found 1 of kind {kind} \(first acted/0 in train, acted/3 in test\)"
    with pytest.raises(UserError, match=message):
        project.run(forbid=[*LEAKS["forbid"], "sentence"])
    (found,) = project.report().to_pylist()
    expected = {"kind": kind, "corpus": "acted", "train_rows": 1, "dev_rows": 0, "test_rows": 1}
    ids = {"seen_id": "acted/0", "test_id": "acted/3", "allowed": None}
    values = {"speaker": "acted/speaker-0", "dialogue": "acted/dialogue-0"}
    assert found == {**expected, **ids, "value": values.get(kind) or next(iter(PLANTED[kind].values()))}


def test_a_planted_copy_is_found_by_its_sound(project: LeaksProject) -> None:
    project.write("acted", 3, rising_and_falling(200)[1_111:] * np.float32(0.3))
    message = r"found 1 of kind near_audio \(first acted/0 in train, acted/3 in test\); see .*leaks\.parquet"
    with pytest.raises(UserError, match=message):
        project.run()
    (found,) = project.report().to_pylist()
    assert (found["value"], found["train_rows"], found["test_rows"]) == ("acted/3", 1, 1)


def test_leaks_of_several_kinds_are_told_together(project: LeaksProject) -> None:
    project.change("acted", 4, dialogue="dialogue-2", speaker="acted/speaker-2")
    message = r"found 1 of kind speaker \(first acted/2 in dev, .*; 1 of kind dialogue \(first acted/2 in dev"
    with pytest.raises(UserError, match=message):
        project.run()


def test_rows_are_counted_by_split_and_the_first_ones_named(project: LeaksProject) -> None:
    for i in range(5):
        project.change("acted", i, text="the same")
    (found,) = project.run().to_pylist()
    assert [found[f"{split}_rows"] for split in ("train", "dev", "test")] == [2, 1, 2]
    assert (found["seen_id"], found["test_id"]) == ("acted/0", "acted/3")
    assert found["allowed"] == "not in leaks.forbid"


def test_what_the_manifests_share_with_each_other_is_found(project: LeaksProject) -> None:
    project.change("read", 0, content_hash="hash acted/4")
    with pytest.raises(UserError, match=r"1 of kind audio \(first read/0 in train, acted/4 in test\)"):
        project.run()


def test_equal_dialogue_names_of_two_corpora_are_two_dialogues(project: LeaksProject) -> None:
    project.change("read", 0, dialogue="shared")
    project.change("acted", 4, dialogue="shared")
    assert project.run().num_rows == 0


def test_a_corpus_in_both_manifests_counts_once(project: LeaksProject) -> None:
    project.rows["read"] = [dict(row) for row in project.rows["acted"]]
    project.change("acted", 3, text="text acted/0")
    project.change("read", 3, text="text acted/0")
    (found,) = project.run(near_audio_of=["semantic", "emotion"]).to_pylist()
    assert (found["train_rows"], found["test_rows"]) == (1, 1)


def test_an_allowed_kind_passes_for_its_corpus_alone(project: LeaksProject) -> None:
    for corpus in ("read", "acted"):
        project.change(corpus, 3, speaker=f"{corpus}/speaker-0")
    with pytest.raises(UserError, match=r"found 1 of kind speaker \(first read/0"):
        project.run(allow={"acted": ["speaker"]})
    allowed = {found["corpus"]: found["allowed"] for found in project.report().to_pylist()}
    assert allowed == {"acted": "leaks.allow", "read": None}
    assert project.run(allow={"acted": ["speaker"], "read": ["speaker"]}).num_rows == 2


def test_what_is_unknown_is_shared_with_nobody(project: LeaksProject) -> None:
    for i in range(5):
        project.change(
            "acted", i, speaker=("acted/", None, "acted/unknown")[i % 3], dialogue=None, text=None, content_hash=None
        )
        project.change("read", i, text="", dialogue=None)
    assert project.run().num_rows == 0


def test_recordings_that_the_hash_tells_are_not_looked_up(
    project: LeaksProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.change("acted", 3, content_hash="hash acted/0")
    looked_up: list[fingerprint.Fingerprint] = []

    def find(_: fingerprint.Index, query: fingerprint.Fingerprint) -> list[fingerprint.Match]:
        looked_up.append(query)
        return []

    monkeypatch.setattr(fingerprint.Index, "find", find)
    report = project.run(forbid=[])
    assert report["kind"].to_pylist() == ["audio"]
    assert len(looked_up) == 2  # of three rows of train and dev


def test_only_the_clips_of_the_named_manifests_are_read(project: LeaksProject) -> None:
    project.write("read", 3, rising_and_falling(100))
    assert project.run().num_rows == 0
    with pytest.raises(UserError, match=r"1 of kind near_audio \(first read/0 in train, read/3 in test\)"):
        project.run(near_audio_of=["semantic"])


def test_manifests_without_a_test_row_share_nothing(project: LeaksProject) -> None:
    for corpus in ("read", "acted"):
        for i in range(5):
            project.change(corpus, i, split="train", speaker=f"{corpus}/one")
    assert project.run().num_rows == 0


def test_the_report_is_the_same_each_time(project: LeaksProject) -> None:
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
def test_wrong_parameters_are_told(project: LeaksProject, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        project.run(**changes)


def test_a_corpus_without_a_root_is_told(project: LeaksProject) -> None:
    project.rows["read"][0]["corpus"] = "written"
    with pytest.raises(UserError, match="corpus written is not listed under ingest; expected some of read, acted"):
        project.run()


def test_a_clip_that_has_gone_is_told(project: LeaksProject) -> None:
    project.prepare()
    (project.folder / "acted" / "1.wav").unlink()
    with pytest.raises(UserError, match=r"acted/1\.wav: .*, yet ingest read it; ingest acted again"):
        leaks.main(*project.files, project.folder / "params.yaml")
