"""Scores of groups of clips."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evaluate.groups import MIN_CLIPS, read_trained_speakers, score_groups
from evaluate.metrics import score_recognition
from evaluate.own_answers import less_mean, select_clips
from evaluate.predictions import OWN_ANSWERS_SCHEMA
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from tests.builders import CLASSES, recognition_table, utterance, write_table

DURATIONS = np.random.default_rng(1).permutation(80) / 10
GENDERS = [(None, "female", "female", "male")[i % 4] for i in range(80)]


def facts(num_clips: int = 80) -> pa.Table:
    rows = [
        utterance(f"acted/{i}", gender=GENDERS[i], duration_s=float(DURATIONS[i])) for i in reversed(range(num_clips))
    ]
    return parquet.from_rows([utterance("other/1", gender="male", duration_s=9.0), *rows], manifest.SCHEMA)


def own_table(num_clips: int = 80) -> pa.Table:
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"acted/{i}",
            "corpus": "acted",
            "speaker": f"s{i % 8}",
            "emotion": CLASSES[i // 4 % 4],
            "text": f"t{i % 3}",
        }
        | {"seen_words": True, "system": system, "logprobs": rng.normal(0, 1, 4).tolist(), "num_tokens": [3] * 4}
        | {"candidates": [0, 1, 2, 3], "named": [False] * 4}
        for i in range(num_clips)
        for system in ("voice", "silence")
    ]
    return parquet.from_rows(rows, OWN_ANSWERS_SCHEMA)


def test_a_group_has_the_scores_of_its_clips() -> None:
    table = recognition_table()
    found = score_groups(table, None, facts(), [], CLASSES, 0.95)
    assert not found.too_small
    thirds = pd.qcut(DURATIONS, 3, labels=False)
    groups = {f"gender={name}": [i for i in range(80) if GENDERS[i] == name] for name in ("female", "male")}
    groups |= {
        f"duration={name}": np.flatnonzero(thirds == number).tolist()
        for number, name in enumerate(("short", "medium", "long"))
    }
    assert found.metrics.keys() == {f"{name}/emotion_acted" for name in groups}
    for name, numbers in groups.items():
        rows = table.filter(pc.is_in(table["id"], value_set=pa.array([f"acted/{i}" for i in numbers])))
        expected = score_recognition(rows, CLASSES, 0.95).metrics["emotion_acted"]
        scores = found.metrics[f"{name}/emotion_acted"]
        assert scores.keys() == expected.keys()
        for system, of_system in scores.items():
            assert of_system.items() <= expected[system].items()
        assert scores["head"].keys() == {"ua", "ua_low", "ua_high", "n", "speakers"}


def test_the_mean_of_own_answers_is_that_of_all_clips_not_of_the_group() -> None:
    table = own_table()
    found = score_groups(recognition_table(), table, facts(), [], CLASSES, 0.95).metrics
    clips = less_mean(select_clips(table, "voice", CLASSES))[0]
    ids = table.filter(pc.field("system") == "voice").sort_by("id")["id"].to_pylist()
    is_male = np.array([GENDERS[int(row_id.removeprefix("acted/"))] == "male" for row_id in ids])
    right = (clips.scores.argmax(axis=1) == clips.truth)[is_male]
    recalls = [right[clips.truth[is_male] == k].mean() for k in np.unique(clips.truth[is_male])]
    voice = found["gender=male/own_answers_acted"]["voice"]
    assert voice["ua"] == pytest.approx(np.mean(recalls), abs=1e-6)
    assert (voice["n"], voice["speakers"]) == (20, 2)
    assert "silence" not in found["gender=male/own_answers_acted"]


def test_speakers_of_the_training_are_a_group_beside_new_speakers() -> None:
    table = recognition_table()
    rows = [
        row | {"speaker": f"acted/{int(row['id'][6:]) % 4}"} for row in facts().to_pylist() if row["id"][:5] == "acted"
    ]
    about = parquet.from_rows(rows, manifest.SCHEMA)
    own = own_table()
    found = score_groups(table, own, about, {"acted/1", "acted/9"}, CLASSES, 0.95).metrics
    assert sorted(name for name in found if name.startswith("speaker")) == [
        "speaker=new/emotion_acted", "speaker=new/own_answers_acted",
        "speaker=trained/emotion_acted", "speaker=trained/own_answers_acted",
    ]  # fmt: skip
    known = table.filter(pc.field("speaker") == "acted/1")
    expected = score_recognition(known, CLASSES, 0.95).metrics["emotion_acted"]["head"]
    assert found["speaker=trained/emotion_acted"]["head"]["ua"] == expected["ua"]
    assert [found[f"speaker={name}/emotion_acted"]["head"]["n"] for name in ("trained", "new")] == [20, 60]
    everyone = {f"acted/{i}" for i in range(4)}
    found = score_groups(table, None, about, everyone, CLASSES, 0.95).metrics
    assert [name for name in found if name.startswith("speaker")] == ["speaker=trained/emotion_acted"]


def test_trained_speakers_are_those_of_both_train_splits(tmp_path: Path) -> None:
    for kind, speaker in (("semantic", "a"), ("emotion", "b")):
        rows = [utterance(split, speaker=f"{speaker}-{split}", split=split) for split in ("train", "dev", "test")]
        write_table(tmp_path / f"{kind}.parquet", rows)
    assert read_trained_speakers(tmp_path) == {"a-train", "b-train"}


def test_a_small_group_is_named_and_has_no_scores() -> None:
    table = recognition_table()
    first = table.filter(pc.is_in(table["id"], value_set=pa.array([f"acted/{i}" for i in range(4 * MIN_CLIPS - 4)])))
    found = score_groups(first, None, facts(), [], CLASSES, 0.95)
    assert found.too_small == ["gender=male/emotion_acted"]
    assert "gender=female/emotion_acted" in found.metrics


def test_a_test_clip_without_a_row_in_the_manifest_is_one_line() -> None:
    with pytest.raises(UserError, match="found no row of the test clip acted/79, expected every test clip"):
        score_groups(recognition_table(), None, facts(79), [], CLASSES, 0.95)
