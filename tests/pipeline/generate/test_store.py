import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.generate.signature import Signature
from pipeline.generate.store import KEY, SCHEMA, AnswerStore, StoredAnswer, store_folder
from pipeline.stage import UserError
from tests.builders import stored_answer

SIGNATURE = Signature(
    model="llm 1", tokenizer="t", system="S", text="Go on: ", dtype="float32", max_new_tokens=8, temperature=0.0,
    top_p=1.0, seed=None,
)  # fmt: skip


answer_to = partial(stored_answer, SIGNATURE)


def keys(*transcripts: str | None) -> pa.Array:
    return pa.array([None if text is None else SIGNATURE.key(text, None) for text in transcripts], KEY)


def read(answers: AnswerStore, *transcripts: str | None, chosen: dict[bytes, int] | None = None) -> list[str | None]:
    found: list[str | None] = answers.read(keys(*transcripts), chosen or {}, ["continuation"])[
        "continuation"
    ].to_pylist()
    return found


def test_a_stored_answer_has_the_columns_of_the_store_but_the_number_of_its_attempt() -> None:
    assert sorted([*(field.name for field in fields(StoredAnswer)), "generation"]) == sorted(SCHEMA.names)


def test_answers_come_back_in_the_order_asked_from_whatever_shard_holds_them() -> None:
    answers = AnswerStore(SIGNATURE)
    answers.append([answer_to("a"), answer_to("b")])
    answers.append([answer_to("c")])
    for each in (answers, AnswerStore(SIGNATURE)):
        assert read(each, "c", None, "a", "unknown", "c", "b") == [
            "after c",
            None,
            "after a",
            None,
            "after c",
            "after b",
        ]
    assert answers.missing(keys("a", "x", "c", "y")).equals(keys("x", "y"))
    assert read(AnswerStore(SIGNATURE)) == []


def test_an_empty_store_lacks_everything(store: Path) -> None:
    answers = AnswerStore(SIGNATURE)
    assert answers.missing(keys("a")).equals(keys("a"))
    assert read(answers, "a", None) == [None, None]
    assert store_folder() == store
    assert not store.exists()


def test_what_another_process_has_written_meanwhile_is_not_written_again() -> None:
    first, second = AnswerStore(SIGNATURE), AnswerStore(SIGNATURE)
    assert first.append([answer_to("a"), answer_to("b")]) == 2
    assert second.append([answer_to("b", "otherwise"), answer_to("c")]) == 1
    assert read(second, "a", "b", "c") == ["after a", "after b", "after c"]
    assert first.refresh()
    assert not first.refresh()
    assert first.known(keys("a", "c", "d")) == set(keys("a", "c").to_pylist())
    assert first.append([answer_to("c")]) == 0
    assert len(list(first.folder.glob("parts/*"))) == 2


def test_an_answer_given_anew_is_the_next_attempt_and_counts_when_it_is_chosen() -> None:
    answers = AnswerStore(SIGNATURE)
    answers.append([answer_to("a"), answer_to("b")])
    answers.append([answer_to("a", "again"), answer_to("c", "first")], anew=True)
    (key,) = keys("a").to_pylist()
    assert read(answers, "a", "b", "c") == ["after a", "after b", "first"]
    assert read(answers, "a", "b", chosen={key: 2}) == ["again", "after b"]
    assert [(each["generation"], each["continuation"]) for each in answers.history(key)] == [
        (1, "after a"),
        (2, "again"),
    ]
    assert answers.history(b"0" * 16) == []
    with pytest.raises(UserError, match=rf"no attempt 3 of {key.hex()}"):
        read(answers, "a", chosen={key: 3})


def test_another_signature_has_a_store_of_its_own_that_says_what_it_is(store: Path) -> None:
    other = Signature(**{name: getattr(SIGNATURE, name) for name in Signature.__slots__} | {"system": "T"})
    AnswerStore(SIGNATURE).append([answer_to("a")])
    assert len(AnswerStore(other).missing(keys("a"))) == 1
    (note,) = store.glob("continuations/*/recipe.json")
    assert json.loads(note.read_text())["text"] == "Go on: "


def test_the_key_depends_on_the_emotion_where_the_prompt_names_it() -> None:
    named = Signature(
        **{name: getattr(SIGNATURE, name) for name in Signature.__slots__} | {"text": "Go on, {emotion}: "}
    )
    assert SIGNATURE.key("a", "sad") == SIGNATURE.key("a", None)
    assert named.key("a", "sad") != named.key("a", "happy")
    assert SIGNATURE.key("a", None) != SIGNATURE.key("b", None)


def test_the_rate_of_the_newest_shard_is_remembered() -> None:
    answers = AnswerStore(SIGNATURE)
    assert answers.tokens_per_s() is None
    answers.append([answer_to("a")], tokens_per_s=12.34)
    assert AnswerStore(SIGNATURE).tokens_per_s() == 12.3


def test_what_a_killed_writer_left_half_written_goes_and_a_broken_shard_is_named() -> None:
    answers = AnswerStore(SIGNATURE)
    answers.append([answer_to("a")])
    (answers.folder / "parts" / ".00000001-x.parquet.partial").write_text("PAR1")
    answers.append([answer_to("b")])
    assert sorted(shard.name[:8] for shard in (answers.folder / "parts").iterdir()) == ["00000000", "00000001"]
    (answers.folder / "parts" / "00000002-x.parquet").write_text("PAR1")
    with pytest.raises(
        UserError, match=r"00000002-x\.parquet: not readable .+; delete it, and generate writes its answers again"
    ):
        AnswerStore(SIGNATURE)


def write(transcripts: Sequence[str]) -> None:
    answers = AnswerStore(SIGNATURE)
    for transcript in transcripts:
        answers.append([answer_to(transcript)])


def test_processes_that_write_at_once_lose_and_double_nothing() -> None:
    transcripts = [str(i) for i in range(30)]
    orders = [transcripts, transcripts[::-1], transcripts[15:] + transcripts[:15]]
    processes = [multiprocessing.get_context("fork").Process(target=write, args=(order,)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = [
        key
        for shard in AnswerStore(SIGNATURE).folder.glob("parts/*.parquet")
        for key in pq.read_table(shard)["key"].to_pylist()
    ]
    assert sorted(rows) == sorted(keys(*transcripts).to_pylist())


def test_one_process_at_a_time_is_the_first_to_write() -> None:
    with AnswerStore(SIGNATURE).writing() as first, AnswerStore(SIGNATURE).writing() as second:
        assert (first, second) == (True, False)
    with AnswerStore(SIGNATURE).writing() as first:
        assert first


def with_top(transcript: str, num_top: int) -> StoredAnswer:
    return answer_to(transcript, f"{transcript} with {num_top}", num_top)


def test_an_answer_kept_without_the_likeliest_tokens_that_are_wanted_counts_as_missing() -> None:
    AnswerStore(SIGNATURE).append([answer_to("a"), answer_to("b")])
    answers = AnswerStore(SIGNATURE, num_top=3)
    assert answers.missing(keys("a", "b", "c")).equals(keys("a", "b", "c"))
    assert answers.append([with_top("a", 2), with_top("c", 2)]) == 2
    assert answers.missing(keys("a", "b", "c")).equals(keys("a", "b", "c"))
    assert answers.append([with_top("a", 3), with_top("c", 4)]) == 2
    assert answers.append([with_top("a", 5)]) == 0
    for each in (answers, AnswerStore(SIGNATURE, num_top=3)):
        assert each.missing(keys("a", "b", "c")).equals(keys("b"))
        assert read(each, "a", "b", "c") == ["a with 3", None, "c with 4"]
        assert [each.first(key) for key in keys("a", "b", "c").to_pylist()] == [3, None, 2]
    assert read(AnswerStore(SIGNATURE), "a", "b", "c") == ["after a", "after b", "c with 2"]


def test_a_chosen_answer_without_the_likeliest_tokens_that_are_wanted_is_named() -> None:
    answers = AnswerStore(SIGNATURE, num_top=3)
    answers.append([answer_to("a")])
    answers.append([with_top("a", 3)])
    (key,) = keys("a").to_pylist()
    assert read(answers, "a", chosen={key: 2}) == ["a with 3"]
    with pytest.raises(UserError, match=rf"the chosen attempt 1 of {key.hex()} lacks its 3 likeliest tokens; choose"):
        read(answers, "a", chosen={key: 1})
