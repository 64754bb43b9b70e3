import json
import multiprocessing
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.generate.signature import Recipe
from pipeline.generate.store import KEY, Shelf, place
from pipeline.stage import UserError

RECIPE = Recipe(
    model="llm 1", tokenizer="t", system="S", text="Go on: ", dtype="float32", max_new_tokens=8, temperature=0.0,
    top_p=1.0, seed=None,
)  # fmt: skip


def row(transcript: str, continuation: str = "", **values: Any) -> dict[str, Any]:
    return {
        "key": RECIPE.key(transcript, None),
        "transcript": transcript,
        "emotion": None,
        "prompt_token_ids": [1, 2],
        "seed": None,
        "continuation": continuation or f"after {transcript}",
        "token_ids": [3],
        "finish_reason": "stop",
        "logprob": -1.5,
        "top_ids": None,
        "top_logprobs": None,
        "engine": "echo 1",
        "hardware": "none",
        "written_at": datetime(2026, 1, 1, tzinfo=UTC),
        **values,
    }


def keys(*transcripts: str | None) -> pa.Array:
    return pa.array([None if text is None else RECIPE.key(text, None) for text in transcripts], KEY)


def read(shelf: Shelf, *transcripts: str | None, chosen: dict[bytes, int] | None = None) -> list[str | None]:
    found: list[str | None] = shelf.read(keys(*transcripts), chosen or {}, ["continuation"])["continuation"].to_pylist()
    return found


def test_answers_come_back_in_the_order_asked_from_whatever_part_holds_them() -> None:
    shelf = Shelf(RECIPE)
    shelf.append([row("a"), row("b")])
    shelf.append([row("c")])
    for each in (shelf, Shelf(RECIPE)):
        assert read(each, "c", None, "a", "unknown", "c", "b") == [
            "after c",
            None,
            "after a",
            None,
            "after c",
            "after b",
        ]
    assert shelf.missing(keys("a", "x", "c", "y")).equals(keys("x", "y"))
    assert read(Shelf(RECIPE)) == []


def test_an_empty_shelf_lacks_everything(store: Path) -> None:
    shelf = Shelf(RECIPE)
    assert shelf.missing(keys("a")).equals(keys("a"))
    assert read(shelf, "a", None) == [None, None]
    assert place() == store
    assert not store.exists()


def test_what_another_process_has_written_meanwhile_is_not_written_again() -> None:
    first, second = Shelf(RECIPE), Shelf(RECIPE)
    assert first.append([row("a"), row("b")]) == 2
    assert second.append([row("b", "otherwise"), row("c")]) == 1
    assert read(second, "a", "b", "c") == ["after a", "after b", "after c"]
    assert first.refresh()
    assert not first.refresh()
    assert first.known(key for key in keys("a", "c", "d").to_pylist()) == set(keys("a", "c").to_pylist())
    assert first.append([row("c")]) == 0
    assert len(list(first.folder.glob("parts/*"))) == 2


def test_an_answer_given_anew_is_the_next_generation_and_counts_when_it_is_chosen() -> None:
    shelf = Shelf(RECIPE)
    shelf.append([row("a"), row("b")])
    shelf.append([row("a", "again"), row("c", "first")], anew=True)
    (key,) = keys("a").to_pylist()
    assert read(shelf, "a", "b", "c") == ["after a", "after b", "first"]
    assert read(shelf, "a", "b", chosen={key: 2}) == ["again", "after b"]
    assert [(each["generation"], each["continuation"]) for each in shelf.history(key)] == [(1, "after a"), (2, "again")]
    assert shelf.history(b"0" * 16) == []
    with pytest.raises(UserError, match=rf"no generation 3 of {key.hex()}"):
        read(shelf, "a", chosen={key: 3})


def test_another_recipe_has_a_shelf_of_its_own_that_says_what_it_is(store: Path) -> None:
    other = Recipe(**{name: getattr(RECIPE, name) for name in Recipe.__slots__} | {"system": "T"})
    Shelf(RECIPE).append([row("a")])
    assert len(Shelf(other).missing(keys("a"))) == 1
    (note,) = store.glob("continuations/*/recipe.json")
    assert json.loads(note.read_text())["text"] == "Go on: "


def test_the_key_depends_on_the_emotion_where_the_prompt_names_it() -> None:
    named = Recipe(**{name: getattr(RECIPE, name) for name in Recipe.__slots__} | {"text": "Go on, {emotion}: "})
    assert RECIPE.key("a", "sad") == RECIPE.key("a", None)
    assert named.key("a", "sad") != named.key("a", "happy")
    assert RECIPE.key("a", None) != RECIPE.key("b", None)


def test_the_rate_of_the_newest_part_is_remembered() -> None:
    shelf = Shelf(RECIPE)
    assert shelf.tokens_per_s() is None
    shelf.append([row("a")], tokens_per_s=12.34)
    assert Shelf(RECIPE).tokens_per_s() == 12.3


def test_what_a_killed_writer_left_half_written_goes_and_a_broken_part_is_named() -> None:
    shelf = Shelf(RECIPE)
    shelf.append([row("a")])
    (shelf.folder / "parts" / ".00000001-x.parquet.partial").write_text("PAR1")
    shelf.append([row("b")])
    assert sorted(part.name[:8] for part in (shelf.folder / "parts").iterdir()) == ["00000000", "00000001"]
    (shelf.folder / "parts" / "00000002-x.parquet").write_text("PAR1")
    with pytest.raises(UserError, match=r"00000002-x\.parquet: not readable .+; delete it, and its rows are generated"):
        Shelf(RECIPE)


def write(transcripts: Sequence[str]) -> None:
    shelf = Shelf(RECIPE)
    for transcript in transcripts:
        shelf.append([row(transcript)])


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
        key for part in Shelf(RECIPE).folder.glob("parts/*.parquet") for key in pq.read_table(part)["key"].to_pylist()
    ]
    assert sorted(rows) == sorted(keys(*transcripts).to_pylist())


def test_one_process_at_a_time_is_the_first_to_write() -> None:
    with Shelf(RECIPE).writing() as first, Shelf(RECIPE).writing() as second:
        assert (first, second) == (True, False)
    with Shelf(RECIPE).writing() as first:
        assert first


def with_top(transcript: str, num_top: int, **values: Any) -> dict[str, Any]:
    top = {"top_ids": [list(range(num_top))] * 2, "top_logprobs": [[-1.0] * num_top] * 2}
    return row(transcript, f"{transcript} with {num_top}", **top, **values)


def test_an_answer_kept_without_the_likeliest_tokens_that_are_wanted_counts_as_missing() -> None:
    Shelf(RECIPE).append([row("a"), row("b")])
    shelf = Shelf(RECIPE, num_top=3)
    assert shelf.missing(keys("a", "b", "c")).equals(keys("a", "b", "c"))
    assert shelf.append([with_top("a", 2), with_top("c", 2)]) == 2
    assert shelf.missing(keys("a", "b", "c")).equals(keys("a", "b", "c"))
    assert shelf.append([with_top("a", 3), with_top("c", 4)]) == 2
    assert shelf.append([with_top("a", 5)]) == 0
    for each in (shelf, Shelf(RECIPE, num_top=3)):
        assert each.missing(keys("a", "b", "c")).equals(keys("b"))
        assert read(each, "a", "b", "c") == ["a with 3", None, "c with 4"]
        assert [each.first(key) for key in keys("a", "b", "c").to_pylist()] == [3, None, 2]
    assert read(Shelf(RECIPE), "a", "b", "c") == ["after a", "after b", "c with 2"]


def test_a_chosen_answer_without_the_likeliest_tokens_that_are_wanted_is_named() -> None:
    shelf = Shelf(RECIPE, num_top=3)
    shelf.append([row("a")])
    shelf.append([with_top("a", 3)])
    (key,) = keys("a").to_pylist()
    assert read(shelf, "a", chosen={key: 2}) == ["a with 3"]
    with pytest.raises(
        UserError, match=rf"generation 1 of {key.hex()}, the chosen one, lacks its 3 likeliest tokens; "
    ):
        read(shelf, "a", chosen={key: 1})
