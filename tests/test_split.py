from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import manifest, split, tables
from pipeline.stage import UserError

OPTIONS: dict[str, Any] = {
    "seed": 1,
    "semantic": ["reading"],
    "emotion": ["acting"],
    "dev_fraction": 0.1,
    "test_fraction": 0.25,
    "test_speakers": {},
}


def options(**changes: Any) -> split.SplitParams:
    return split.SplitParams(**{**OPTIONS, **changes})


def corpus(name: str, parts: Mapping[str, str | None], emotions: tuple[str | None, ...] = (None, None)) -> pa.Table:
    """Rows of every speaker in the part that `parts` gives, one for each of `emotions`."""
    blank = dict.fromkeys(manifest.SCHEMA.names)
    rows = []
    for speaker, part in parts.items():
        for i, emotion in enumerate(emotions):
            key = f"{name}/{speaker}-{i}"
            row = {"id": key, "corpus": name, "speaker": f"{name}/{speaker}", "content_hash": key}
            rows.append({**blank, **row, "duration_s": 1.0, "emotion": emotion, "split": part})
    return tables.from_rows(rows, manifest.SCHEMA)


def parts_of(table: pa.Table) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for row in table.to_pylist():
        parts.setdefault(row["split"], set()).add(row["speaker"].split("/")[1])
    return parts


def unsplit(count: int) -> dict[str, str | None]:
    return {f"{i:02d}": None for i in range(1, count + 1)}


def test_speakers_are_dealt_whole_in_the_given_fractions() -> None:
    parts = parts_of(split.assign(corpus("a", unsplit(20)), "a", options()))
    assert {part: len(speakers) for part, speakers in parts.items()} == {"train": 13, "dev": 2, "test": 5}
    assert len(set.union(*parts.values())) == 20


def test_the_deal_is_the_same_on_every_machine_for_every_name_and_row_order() -> None:
    table = corpus("a", unsplit(8))
    parts = parts_of(split.assign(table, "a", options()))
    assert parts["test"] == {"04", "08"}
    assert parts["dev"] == {"02"}
    assert parts_of(split.assign(corpus("b", unsplit(8)), "b", options())) == parts
    assert parts_of(split.assign(table.take(list(range(15, -1, -1))), "a", options())) == parts
    assert parts_of(split.assign(table, "a", options(seed=2))) != parts


def test_a_fraction_above_zero_takes_a_speaker_and_zero_takes_none() -> None:
    small = parts_of(split.assign(corpus("a", unsplit(3)), "a", options(test_fraction=0.01, dev_fraction=0.01)))
    assert {part: len(speakers) for part, speakers in small.items()} == {"train": 1, "dev": 1, "test": 1}
    none = parts_of(split.assign(corpus("a", unsplit(3)), "a", options(test_fraction=0, dev_fraction=0)))
    assert none.keys() == {"train"}


def test_official_parts_stay() -> None:
    official = {"1": "train", "2": "train", "3": "dev", "4": "test"}
    assert parts_of(split.assign(corpus("a", official), "a", options())) == {
        "train": {"1", "2"},
        "dev": {"3"},
        "test": {"4"},
    }


def test_an_official_train_part_gives_dev_but_no_test_speakers() -> None:
    parts = parts_of(split.assign(corpus("a", dict.fromkeys(unsplit(20), "train")), "a", options()))
    assert {part: len(speakers) for part, speakers in parts.items()} == {"train": 18, "dev": 2}


def test_an_official_test_part_alone_stays_whole() -> None:
    assert parts_of(split.assign(corpus("a", {"1": "test"}), "a", options())) == {"test": {"1"}}


def test_named_test_speakers_take_the_place_of_the_fraction() -> None:
    chosen = options(test_speakers={"a": ["15", "16"]})
    assert parts_of(split.assign(corpus("a", unsplit(18)), "a", chosen))["test"] == {"15", "16"}
    everyone = options(test_speakers={"a": ["01", "02"]})
    assert parts_of(split.assign(corpus("a", unsplit(2)), "a", everyone)) == {"test": {"01", "02"}}


@pytest.mark.parametrize(
    ("parts", "changes", "message"),
    [
        (unsplit(2), {}, "a: expected speakers left for train, found 2, of which test takes 1 and dev 1"),
        (unsplit(3), {"test_speakers": {"a": ["7"]}}, "no speaker a/7; expected some of a/01, a/02, a/03"),
        ({"1": "test"}, {"test_speakers": {"a": ["1"]}}, "a has an official test part; expected no speakers for it"),
        ({"1": "test", "2": None}, {}, "a: expected an official part for all rows or for none, found both"),
    ],
)
def test_a_deal_that_cannot_be_made_is_told(
    parts: dict[str, str | None], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        split.assign(corpus("a", parts), "a", options(**changes))


def test_a_speaker_in_two_official_parts_is_told() -> None:
    table = pa.concat_tables([corpus("a", {"1": "train"}), corpus("a", {"1": "test"})])
    with pytest.raises(UserError, match="a: expected one part for each speaker, found a/1 in two"):
        split.assign(table, "a", options())


def test_emotions_outside_the_classes_are_excluded_with_a_reason() -> None:
    table = corpus("a", unsplit(2), ("sad", "calm", None))
    kept, excluded = split.select_classes(table, ["sad"])
    assert set(kept["emotion"].to_pylist()) == {"sad"}
    assert sorted(excluded["reason"].to_pylist()) == ["no emotion"] * 2 + ["not a class: calm"] * 2
    assert excluded.schema.equals(split.EXCLUDED_SCHEMA)


def test_a_class_that_no_clip_has_is_told() -> None:
    with pytest.raises(UserError, match="emotions: no emotion clip is surprise; expected some of calm, sad"):
        split.select_classes(corpus("a", unsplit(2), ("sad", "calm")), ["sad", "surprise"])


def test_a_recording_in_two_parts_is_told_though_the_corpora_have_other_names() -> None:
    table = pa.concat_tables([corpus("a", {"1": "train"}), corpus("b", {"9": "test"})])
    split.check_disjoint(table)
    hashes = pa.array(["same", "x", "same", "y"])
    twice = table.set_column(table.column_names.index("content_hash"), "content_hash", hashes)
    message = "expected each recording in one part only, found b/9-0 in test and a/1-0 in train"
    with pytest.raises(UserError, match=message):
        split.check_disjoint(twice)


def test_a_speaker_in_two_parts_is_told() -> None:
    table = pa.concat_tables([corpus("a", {"1": "train"}), corpus("a", {"1": "dev"})])
    with pytest.raises(
        UserError, match="expected each speaker in one part only, found a/1-0 in dev and a/1-0 in train"
    ):
        split.check_disjoint(table)


def run(folder: Path, **changes: Any) -> None:
    settings = {**OPTIONS, **changes}
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    (folder / "params.yaml").write_text(f"emotions: [sad, happy]\nsplit:\n{lines}")
    semantic, emotion, excluded = (folder / f"{name}.parquet" for name in ("semantic", "emotion", "excluded"))
    split.main(folder, semantic, emotion, excluded, folder / "params.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tables.write(corpus("reading", {"2": "train", "1": "train", "3": "test"}), tmp_path / "reading.parquet")
    tables.write(corpus("acting", unsplit(8), ("sad", "happy", "calm")), tmp_path / "acting.parquet")
    return tmp_path


def test_the_stage_writes_both_manifests_sorted_and_what_it_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    for name in ("semantic", "emotion"):
        table = manifest.read(folder / f"{name}.parquet")
        ids = table["id"].to_pylist()
        assert ids == sorted(ids)
        assert table["split"].null_count == 0
    assert tables.read(folder / "excluded.parquet", split.EXCLUDED_SCHEMA).num_rows == 8
    line = "split: semantic 2/2/2, emotion 10/2/4 rows for train/dev/test; 8 excluded\n"
    assert capsys.readouterr().out == line
    first = (folder / "emotion.parquet").read_bytes()
    run(folder)
    assert (folder / "emotion.parquet").read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_speakers": {"actng": ["1"]}}, "split.test_speakers: actng is in neither split.semantic nor .emotion"),
        ({"semantic": ["reading", "reading"]}, "expected each corpus once, found reading, reading"),
        ({"semantic": ["other"]}, r"other\.parquet: no such file; the stage that writes it has not run"),
        ({"dev_fraction": 1.5}, "split.dev_fraction: expected less than 1, found 1.5"),
    ],
)
def test_wrong_parameters_are_told(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, **changes)
    assert not (folder / "semantic.parquet").exists()
