import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.corpora import registry
from pipeline.params import Alignment
from pipeline.split import __main__ as split
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from tests.builders import utterance

OPTIONS: dict[str, Any] = {
    "seed": 1,
    "semantic": ["reading"],
    "emotion": ["acting"],
    "dev_fraction": 0.1,
    "test_fraction": 0.25,
    "test_speakers": {},
    "folds": {},
    "lists": {},
    "test_sentences": [],
}


def options(**changes: Any) -> split.SplitParams:
    return split.SplitParams(**{**OPTIONS, **changes})


def assign(table: pa.Table, name: str, settings: split.SplitParams) -> pa.Table:
    return split.assign(table, name, settings, {"fold-1": ["1", "2"], "elsewhere": ["8", "9"]})


def corpus(name: str, splits: Mapping[str, str | None], emotions: tuple[str | None, ...] = (None, None)) -> pa.Table:
    """Rows of every speaker in the split that `splits` gives, one for each of `emotions`."""
    rows = []
    for speaker, where in splits.items():
        for i, emotion in enumerate(emotions):
            key = f"{name}/{speaker}-{i}"
            row = {"corpus": name, "speaker": f"{name}/{speaker}", "audio": f"{key}.wav", "text": "words"}
            rows.append(utterance(key, duration_s=1.0, emotion=emotion, split=where) | row)
    return parquet.from_rows(rows, manifest.SCHEMA)


def speakers_by_split(table: pa.Table) -> dict[str | None, set[str]]:
    splits: dict[str | None, set[str]] = {}
    for row in table.to_pylist():
        splits.setdefault(row["split"], set()).add(row["speaker"].split("/")[1])
    return splits


def unsplit(count: int) -> dict[str, str | None]:
    return {f"{i:02d}": None for i in range(1, count + 1)}


def test_speakers_are_assigned_whole_in_the_given_fractions() -> None:
    splits = speakers_by_split(assign(corpus("a", unsplit(20)), "a", options()))
    assert {name: len(speakers) for name, speakers in splits.items()} == {"train": 13, "dev": 2, "test": 5}
    assert len(set.union(*splits.values())) == 20


def test_the_splits_are_the_same_on_every_machine_for_every_name_and_row_order() -> None:
    table = corpus("a", unsplit(8))
    splits = speakers_by_split(assign(table, "a", options()))
    assert splits["test"] == {"04", "08"}
    assert splits["dev"] == {"02"}
    assert speakers_by_split(assign(corpus("b", unsplit(8)), "b", options())) == splits
    assert speakers_by_split(assign(table.take(list(range(15, -1, -1))), "a", options())) == splits
    assert speakers_by_split(assign(table, "a", options(seed=2))) != splits


def meetings(pairs: Mapping[str, str]) -> pa.Table:
    """Ten speakers, those of each pair in a dialogue of their own, the others in none."""
    table = corpus("a", unsplit(10))
    dialogues = [pairs.get(row["speaker"].split("/")[1]) for row in table.to_pylist()]
    return table.set_column(
        manifest.SCHEMA.get_field_index("dialogue"), manifest.SCHEMA.field("dialogue"), pa.array(dialogues, pa.string())
    )


def test_speakers_of_the_same_dialogues_are_assigned_together() -> None:
    pairs = {f"{speaker:02d}": f"d{(speaker + 1) // 2}" for speaker in range(1, 11)}
    for seed in range(5):
        splits = speakers_by_split(assign(meetings(pairs), "a", options(seed=seed, dev_fraction=0.2)))
        assert {name: len(speakers) for name, speakers in splits.items()} == {"train": 6, "dev": 2, "test": 2}
        for speakers in splits.values():
            assert speakers == {f"{odd + i:02d}" for odd in range(1, 11, 2) for i in (0, 1) if f"{odd:02d}" in speakers}


def test_a_corpus_in_which_all_speak_with_all_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"of 10 speakers, test takes 10 and dev 0; .* here 1 group"):
        assign(meetings({f"{speaker:02d}": "d" for speaker in range(1, 11)}), "a", options())


def test_a_fraction_above_zero_takes_a_speaker_and_zero_takes_none() -> None:
    small = speakers_by_split(assign(corpus("a", unsplit(3)), "a", options(test_fraction=0.01, dev_fraction=0.01)))
    assert {name: len(speakers) for name, speakers in small.items()} == {"train": 1, "dev": 1, "test": 1}
    none = speakers_by_split(assign(corpus("a", unsplit(3)), "a", options(test_fraction=0, dev_fraction=0)))
    assert none.keys() == {"train"}


def test_official_splits_stay() -> None:
    official = {"1": "train", "2": "train", "3": "dev", "4": "test"}
    assert speakers_by_split(assign(corpus("a", official), "a", options())) == {
        "train": {"1", "2"},
        "dev": {"3"},
        "test": {"4"},
    }


def test_an_official_train_split_gives_dev_but_no_test_speakers() -> None:
    splits = speakers_by_split(assign(corpus("a", dict.fromkeys(unsplit(20), "train")), "a", options()))
    assert {name: len(speakers) for name, speakers in splits.items()} == {"train": 18, "dev": 2}


def test_an_official_test_split_alone_stays_whole() -> None:
    assert speakers_by_split(assign(corpus("a", {"1": "test"}), "a", options())) == {"test": {"1"}}


def test_named_test_speakers_take_the_place_of_the_fraction() -> None:
    chosen = options(test_speakers={"a": ["15", "16"]})
    assert speakers_by_split(assign(corpus("a", unsplit(18)), "a", chosen))["test"] == {"15", "16"}
    everyone = options(test_speakers={"a": ["01", "02"]})
    assert speakers_by_split(assign(corpus("a", unsplit(2)), "a", everyone)) == {"test": {"01", "02"}}


@pytest.mark.parametrize(
    ("splits", "changes", "message"),
    [
        (unsplit(2), {}, "a: no speaker is left for train: of 2 speakers, test takes 1 and dev 1"),
        (unsplit(3), {"test_speakers": {"a": ["7"]}}, "no speaker a/7; expected some of a/01, a/02, a/03"),
        ({"1": "test"}, {"test_speakers": {"a": ["1"]}}, "a has an official test split; expected no speakers for it"),
        ({"1": "test"}, {"folds": {"a": "fold-1"}}, "split.folds: a has an official test split; expected no speakers"),
        (
            unsplit(3),
            {"folds": {"a": "fold-2"}},
            "split.folds: a has no fold fold-2; expected one of fold-1, elsewhere",
        ),
        (unsplit(3), {"folds": {"a": "elsewhere"}}, "split.folds: no speaker a/8; expected some of a/01, a/02, a/03"),
    ],
)
def test_splits_that_cannot_be_made_are_told(
    splits: dict[str, str | None], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        assign(corpus("a", splits), "a", options(**changes))


def test_official_splits_may_share_speakers_and_dev_is_drawn_from_those_of_train() -> None:
    train = corpus("a", dict.fromkeys(unsplit(10), "train"))
    table = pa.concat_tables([train, corpus("a", dict.fromkeys(("01", "02"), "test"))])
    assigned = assign(table, "a", options())
    splits = speakers_by_split(assigned)
    assert splits["test"] == {"01", "02"}
    assert len(splits["dev"]) == 1
    assert splits["train"] | splits["dev"] == set(unsplit(10))
    assert not splits["train"] & splits["dev"]
    assert assigned.filter(pc.equal(assigned["split"], "test")).num_rows == 4


def test_a_row_without_a_split_beside_official_ones_stays_without() -> None:
    splits = speakers_by_split(assign(corpus("a", {"1": "train", "2": "dev", "3": "test", "4": None}), "a", options()))
    assert splits == {"train": {"1"}, "dev": {"2"}, "test": {"3"}, None: {"4"}}


def test_a_fold_makes_its_speakers_test_and_draws_dev_from_the_others() -> None:
    splits = speakers_by_split(assign(corpus("a", dict.fromkeys("123456")), "a", options(folds={"a": "fold-1"})))
    assert splits["test"] == {"1", "2"}
    assert len(splits["dev"]) == 1
    assert len(splits["train"]) == 3


def test_a_fold_of_which_a_speaker_is_missing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    splits = speakers_by_split(assign(corpus("a", dict.fromkeys("1345")), "a", options(folds={"a": "fold-1"})))
    assert splits["test"] == {"1"}
    assert capsys.readouterr().out == "split: a: found 1 of the 2 test speakers of fold-1\n"


def test_lists_replace_official_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {"train": [f"a/{i}-0.wav" for i in range(1, 8)], "test": ["a/1-1.wav", "a/absent.wav"]}
    write_lists(tmp_path, splits)
    table = corpus("a", dict.fromkeys("123456789", "test"))
    assigned = assign(table, "a", options(lists={"a": str(tmp_path)}))
    split_of = dict(zip(assigned["id"].to_pylist(), assigned["split"].to_pylist(), strict=True))
    assert split_of["a/1-1"] == "test"
    assert Counter(split_of.values()) == {"train": 6, "dev": 1, "test": 1, None: 10}
    assert capsys.readouterr().out == f"split: a: found 8 of the 9 clips in the lists of {tmp_path}\n"


def test_what_a_manifest_cannot_use_is_excluded_with_a_reason() -> None:
    table = pa.concat_tables(
        [
            corpus("a", {"1": "train"}, ("sad", "calm", None)),
            corpus("b", {"2": None, "3": "test"}, ("sad",)),
            corpus("c", {"4": None}, ("sad",)),
        ]
    )
    divided = split.divide(table, "emotion", ["sad"], options(lists={"b": "lists"}))
    assert divided.kept["id"].to_pylist() == ["a/1-0", "b/3-0"]
    assert divided.kept.schema.equals(manifest.SCHEMA)
    reasons = dict(zip(divided.excluded["id"].to_pylist(), divided.excluded["reason"].to_pylist(), strict=True))
    assert reasons == {
        "a/1-1": "not a class: calm",
        "a/1-2": "no emotion",
        "b/2-0": "in no list",
        "c/4-0": "no official part",
    }
    assert divided.excluded.schema.equals(split.EXCLUDED_SCHEMA)


@pytest.mark.parametrize(("kind", "kept"), [("emotion", ["a/3-0"]), ("semantic", [])])
def test_a_clip_without_a_transcript_serves_as_an_emotion_test_alone(kind: Alignment, kept: list[str]) -> None:
    table = corpus("a", {"1": "train", "2": "dev", "3": "test"}, ("sad",))
    table = table.set_column(table.column_names.index("text"), "text", pa.nulls(3, pa.string()))
    divided = split.divide(table, kind, ["sad"], options())
    assert divided.kept["id"].to_pylist() == kept
    assert set(divided.excluded["reason"].to_pylist()) == {"no transcript"}


@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_only_test_keeps_the_words_of_test_sentences(kind: Alignment) -> None:
    table = corpus("a", {"1": "train", "2": "dev", "3": "test", "4": None}, ("sad", "sad", "sad"))
    texts = ["Kids are talking.", "dogs sit", None] * 4
    table = table.set_column(table.column_names.index("text"), "text", pa.array(texts))
    divided = split.divide(table, kind, ["sad"], options(test_sentences=["KIDS are talking"]))
    kept = {"a/1-1", "a/2-1", "a/3-0", "a/3-1"} | ({"a/3-2"} if kind == "emotion" else set())
    assert set(divided.kept["id"].to_pylist()) == kept
    reasons = dict(zip(divided.excluded["id"].to_pylist(), divided.excluded["reason"].to_pylist(), strict=True))
    assert {key for key, reason in reasons.items() if "test_sentences" in reason} == {"a/1-0", "a/2-0"}
    assert reasons["a/4-0"] == "no official part"


def test_a_class_that_no_clip_has_is_told() -> None:
    with pytest.raises(UserError, match="emotions: no clip has the emotion surprise; expected some of calm, sad"):
        split.check_classes(corpus("a", unsplit(2), ("sad", "calm")), ["sad", "surprise"])


def write_lists(folder: Path, splits: Mapping[str, list[str]]) -> None:
    for name, audio in splits.items():
        lines = "".join(json.dumps({"key": path, "wav": f"downloads/{path}"}) + "\n" for path in audio)
        (folder / f"a_{name}_fold_1.jsonl").write_text(lines)


def run(folder: Path, **changes: Any) -> None:
    settings = {**OPTIONS, **changes}
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    ingest = "".join(
        f"  {name}: {{reader: ravdess, root: {name}, check: samples}}\n" for name in ("reading", "acting", "other")
    )
    (folder / "params.yaml").write_text(f"emotions: [sad, happy]\ningest:\n{ingest}split:\n{lines}")
    semantic, emotion, excluded = (folder / f"{name}.parquet" for name in ("semantic", "emotion", "excluded"))
    split.main(folder, semantic, emotion, excluded, folder / "params.yaml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Manifests of two corpora as ingest writes them, with the published folds of one."""
    (tmp_path / "ingested").mkdir()
    (tmp_path / "ingested" / "acting.json").write_text(json.dumps({"folds": {"emobox-1": ["01", "02"]}}))
    parquet.write(corpus("reading", {"2": "train", "1": "train", "3": "test"}), tmp_path / "reading.parquet")
    parquet.write(corpus("acting", unsplit(8), ("sad", "happy", "calm")), tmp_path / "acting.parquet")
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
    assert parquet.read(folder / "excluded.parquet", split.EXCLUDED_SCHEMA).num_rows == 8
    line = "split: semantic 2/2/2, emotion 10/2/4 rows for train/dev/test; 8 excluded (8 not a class: calm)\n"
    assert capsys.readouterr().out == line
    first = (folder / "emotion.parquet").read_bytes()
    run(folder)
    assert (folder / "emotion.parquet").read_bytes() == first


def test_published_folds_come_from_the_summary_that_ingest_writes(folder: Path) -> None:
    run(folder, folds={"acting": "emobox-1"})
    assert speakers_by_split(manifest.read(folder / "emotion.parquet"))["test"] == {"01", "02"}
    (folder / "ingested" / "acting.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"ingested/acting\.json: found no folds; expected a summary that ingest has wri"
    ):
        run(folder, folds={"acting": "emobox-1"})
    run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_speakers": {"actng": ["1"]}},
            "split.test_speakers: actng is in neither split.semantic nor split.emotion",
        ),
        ({"folds": {"other": "emobox-1"}}, "split.folds: other is in neither split.semantic nor split.emotion"),
        (
            {"folds": {"acting": "emobox-1"}, "lists": {"acting": "lists"}},
            "split: expected acting in one of folds and lists, found it in both",
        ),
        ({"folds": {"acting": "emobox-7"}}, "split.folds: acting has no fold emobox-7; expected one of emobox-1"),
        ({"semantic": ["read"]}, "split: read is not listed under ingest; expected some of reading, acting, other"),
        ({"lists": {"acting": "lists"}}, r"lists: expected one list \*_train_\*\.jsonl or \.jsonl\.gz, found none"),
        ({"semantic": ["reading", "reading"]}, "expected each corpus once, found reading, reading"),
        ({"semantic": ["other"]}, r"other\.parquet: no such file; the stage that writes it has not run"),
        ({"test_sentences": ["other words"]}, "split.test_sentences: no test clip has the words 'other words'"),
        ({"dev_fraction": 1.5}, "split.dev_fraction: expected less than 1, found 1.5"),
    ],
)
def test_wrong_parameters_are_told(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, **changes)
    assert not (folder / "semantic.parquet").exists()


def published(reader: str, root: Path) -> pa.Table:
    """Rows of all clips that a reader names, whether their audio is there or not."""
    rows = [
        utterance(
            f"{reader}/{clip.utterance}",
            speaker=f"{reader}/{clip.speaker}",
            corpus=reader,
            audio=clip.audio,
            split=clip.split,
        )
        for clip in registry.load(reader).read(root)
    ]
    return parquet.from_rows(rows, manifest.SCHEMA)


@pytest.mark.shared
def test_the_published_lists_of_ravdess_make_the_same_test_split_as_its_fold(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = published("ravdess", shared / "data/RAVDESS")
    lists = {"ravdess": str(shared / "data/EmoBox/ravdess/fold_5")}
    by_list = split.assign(table, "ravdess", options(lists=lists), {})
    folds = registry.load("ravdess").folds
    by_fold = split.assign(table, "ravdess", options(folds={"ravdess": "emobox-5"}), folds)
    assert by_list.equals(by_fold)
    assert speakers_by_split(by_list)["test"] == {"02", "15", "16", "18"}
    assert capsys.readouterr().out.startswith("split: ravdess: found 1,080 of the 1,440 clips")


@pytest.mark.shared
def test_the_published_lists_of_meld_are_its_official_splits_without_the_two_lost_clips(shared: Path) -> None:
    table = published("meld", shared / "data/MELD")
    lists = {"meld": str(shared / "data/EmoBox/meld/fold_1")}
    listed = split.assign(table, "meld", options(lists=lists), {})
    pairs = Counter(zip(table["split"].to_pylist(), listed["split"].to_pylist(), strict=True))
    assert pairs == {
        ("train", "train"): 9_988, ("dev", "dev"): 1_108, ("test", "test"): 2_610, ("train", None): 1, ("dev", None): 1,
    }  # fmt: skip
