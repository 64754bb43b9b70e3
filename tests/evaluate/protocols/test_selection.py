"""A protocol selects its rows, and refuses a run that does not keep its conditions."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.protocols.definition import Protocol
from evaluate.protocols.selection import RunFacts, read_facts, select
from pipeline.stage import UserError
from tests.builders import recognised, utterance, write_table

PROTOCOL = Protocol(
    name="acted-test-2", about="", reader="cremad", classes=["sad", "angry"], headline=["ua"], source="",
    folds={"one": ["1", "2"], "two": ["3"]}, counts={"sad": 3, "angry": 3},
)  # fmt: skip
RUN = RunFacts(
    classes=["neutral", "sad", "angry"], readers={"acted": "cremad", "libri": "librispeech"}, manifests=Path("nowhere"),
    recognition_prompt={"system": "S", "text": "T", "speech": "A"}, trained={"acted": {"8"}, "libri": {"1"}},
)  # fmt: skip


def clips(*speakers: str, corpus: str = "acted", emotions: Iterable[str] = ("neutral", "sad", "angry")) -> Any:
    """Predictions of a clip of each emotion by each speaker."""
    rows = [
        {"id": f"{corpus}/{speaker}_{emotion}", "speaker": f"{corpus}/{speaker}", "emotion": emotion}
        for speaker in speakers
        for emotion in emotions
    ]
    return recognised(rows, ["sad"])


def test_rows_of_other_classes_and_other_speakers_are_left_out_and_counted() -> None:
    found = select(PROTOCOL, clips("1", "3", "9"), RUN)
    assert found is not None
    assert sorted(found.predictions["id"].unique().to_pylist()) == [
        "acted/1_angry", "acted/1_sad", "acted/3_angry", "acted/3_sad"
    ]  # fmt: skip
    assert (found.corpus, found.num_rows, found.left_out) == ("acted", 4, 5)
    assert len(found.predictions) == 4 * len(clips("1")) // 3


@pytest.fixture
def official(tmp_path: Path) -> RunFacts:
    """The facts of a run whose corpus has an official test split of the speakers 1, 3 and 9."""
    rows = [
        utterance(row["id"], split="test" if row["speaker"][-1] in "139" else "train")
        for row in clips("1", "3", "7", "9").to_pylist()
        if row["system"] == "head"
    ]
    write_table(tmp_path / "acted.parquet", rows)
    return replace(RUN, manifests=tmp_path)


def test_the_official_test_split_has_all_speakers(official: RunFacts) -> None:
    found = select(PROTOCOL.model_copy(update={"folds": None}), clips("1", "3", "9"), official)
    assert found is not None
    assert (found.num_rows, found.left_out) == (6, 3)


def test_a_row_outside_the_official_test_split_is_refused(official: RunFacts) -> None:
    message = "found the test row acted/7_sad, expected only rows of the official test split"
    refuse(message, run=official, table=clips("1", "7"), folds=None)


def test_a_corpus_without_predictions_gives_nothing() -> None:
    assert select(PROTOCOL, clips("1", corpus="libri"), RUN) is None


def test_the_reader_table_needs_the_name_of_the_corpus() -> None:
    run = replace(RUN, readers={"calls": "table", "acted": "table"})
    named = PROTOCOL.model_copy(update={"reader": "table", "corpus": "acted"})
    assert select(named, clips("1", corpus="calls"), run) is None
    found = select(named, clips("1"), run)
    assert found is not None
    assert found.corpus == "acted"


def refuse(message: str, *, run: RunFacts = RUN, table: Any = None, **changes: Any) -> None:
    with pytest.raises(UserError, match=message):
        select(PROTOCOL.model_copy(update=changes), table or clips("1", "3"), run)


def test_a_run_without_a_class_is_refused() -> None:
    run = replace(RUN, classes=["neutral", "sad"])
    refuse("acted-test-2: emotions: found neutral, sad, expected all of sad, angry", run=run)


def test_another_prompt_is_refused() -> None:
    prompt = {"system": "S", "text": "T", "speech": "other"}
    refuse("acted-test-2: prompts.recognition: found .*'A'.*expected .*'other'", recognition_prompt=prompt)
    assert select(PROTOCOL.model_copy(update={"recognition_prompt": dict(RUN.recognition_prompt)}), clips("1"), RUN)


def test_speakers_of_no_fold_are_refused() -> None:
    refuse("found no test row of its classes and speakers in acted", table=clips("9"))


def test_more_rows_than_published_are_refused() -> None:
    counts = {"sad": 2, "angry": 1}
    refuse("acted: found 2 test rows of angry, expected at most 1", counts=counts)


def test_two_corpora_of_the_reader_are_refused() -> None:
    run = replace(RUN, readers={"acted": "cremad", "again": "cremad"})
    import pyarrow as pa

    table = pa.concat_tables([clips("1"), clips("1", corpus="again")])
    refuse("expected one corpus of the reader cremad among the predictions, found acted, again", run=run, table=table)


@pytest.mark.parametrize("corpus", ["acted", "again"])
def test_a_test_speaker_in_training_is_refused_also_under_another_name_of_the_corpus(corpus: str) -> None:
    run = replace(RUN, readers={"acted": "cremad", "again": "cremad"}, trained={corpus: {"3", "8"}})
    refuse(f"acted-test-2: found the test speaker 3 of {corpus} in train or dev", run=run)
    assert select(PROTOCOL, clips("1"), run), "speaker 3 is not tested here"


@pytest.mark.parametrize("corpus", ["acted", "again"])
def test_a_zero_shot_corpus_in_training_is_refused(corpus: str) -> None:
    run = replace(RUN, readers={"acted": "cremad", "again": "cremad"}, trained={corpus: {"8"}})
    refuse(rf"found rows of {corpus} in train or dev, expected none \(zero-shot\)", run=run, zero_shot=True)
    free = replace(run, trained={"libri": {"8"}})
    assert select(PROTOCOL.model_copy(update={"zero_shot": True}), clips("1"), free)


PARAMS = """
emotions: [sad, angry]
ingest: {acted: {reader: cremad, root: r, check: samples}, libri: {reader: librispeech, root: r, check: samples}}
prompts: {recognition: {system: S, text: T, speech: A}}
"""


def test_the_facts_of_a_run_come_from_its_parameters_and_both_manifests(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    for kind, corpus, splits in (("semantic", "libri", "train"), ("emotion", "acted", "train dev test")):
        rows = [
            utterance(f"{corpus}/{split}", corpus=corpus, speaker=f"{corpus}/of-{split}/x", split=split)
            for split in splits.split()
        ]
        write_table(tmp_path / f"{kind}.parquet", rows)
    facts = read_facts(tmp_path / "params.yaml", tmp_path)
    assert facts.trained == {"libri": {"of-train/x"}, "acted": {"of-train/x", "of-dev/x"}}
    assert (facts.classes, facts.readers) == (["sad", "angry"], {"acted": "cremad", "libri": "librispeech"})
    assert facts.manifests == tmp_path
    assert facts.recognition_prompt == {"system": "S", "text": "T", "speech": "A"}
