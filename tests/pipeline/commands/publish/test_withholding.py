from collections.abc import Sequence
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.publish import pointers
from pipeline.commands.publish.terms import Terms
from pipeline.commands.publish.withholding import Withholder
from pipeline.prompts import Prompter
from pipeline.tables import packed

VOCABULARY = [" a", " b", " c", " d", " A", " B", " C", " D", ",", " x", " y", " z"]
LETTERS = st.lists(st.sampled_from(range(len(VOCABULARY))), max_size=12)


class WordPrompter:
    """A tokenizer of words; letters in capitals are other tokens, as in an LLM's vocabulary."""

    def content_ids(self, text: str) -> list[int]:
        return [VOCABULARY.index(f" {word}") for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(VOCABULARY[token] for token in ids).strip()


def publish(text: str, response_ids: list[int], max_echo: float = 0.5) -> dict[str, Any]:
    prompter = WordPrompter()
    refused = Terms(corpus="c", licence=None, title="c", home=None, source="", refused="no licence is stated")
    withholder = Withholder({("c", None): refused}, cast(Prompter, prompter), max_echo)
    row = dict.fromkeys(packed.SCHEMA.names) | {
        "id": "c/1", "corpus": "c", "text": text, "audio": {"bytes": b"clip", "path": None},
        "text_ids": prompter.content_ids(text), "response_ids": response_ids, "num_response_tokens": len(response_ids),
    }  # fmt: skip
    return withholder.publish(row)


def ids(text: str) -> list[int]:
    return WordPrompter().content_ids(text)


def test_a_continuation_that_repeats_three_words_becomes_pointers() -> None:
    row = publish("a b c d", ids("x b c d y x y x y x y x"))
    assert row["response_ids"] is None
    assert row["response_pointers"] == [*ids("x"), -2, -3, -4, *ids("y x y x y x y x")]


def test_a_continuation_that_repeats_two_of_many_words_stays() -> None:
    row = publish("a b c d", ids("x b c x y z"))
    assert row["response_ids"] == ids("x b c x y z")
    assert row["response_pointers"] is None


def test_a_continuation_that_is_mostly_an_echo_becomes_pointers() -> None:
    assert publish("a b c d", ids("b c x"))["response_pointers"] == [-2, -3, *ids("x")]
    assert publish("a b c d", ids("b c x"), max_echo=0.7)["response_pointers"] is None


def test_a_whole_short_transcript_becomes_pointers() -> None:
    assert publish("a b", ids("a b x y z x y z"))["response_pointers"] == [-1, -2, *ids("x y z x y z")]


def test_a_continuation_whose_rest_repeats_the_transcript_is_lost() -> None:
    row = publish("a b c d", ids("A B C x y z x y z"))
    assert (row["response_ids"], row["response_pointers"]) == (None, None)
    assert "response_ids" in row["withheld"]


def test_a_row_without_transcript_has_nothing_to_repeat() -> None:
    assert publish("", ids("x y z"))["response_ids"] == ids("x y z")


@given(LETTERS, LETTERS)
def test_no_continuation_shows_three_words_of_its_transcript(said: list[int], answer: list[int]) -> None:
    text_ids = [token for token in said if token < 4]
    text = WordPrompter().decode(text_ids)
    row = publish(text, answer)
    encoded = row["response_ids"] if row["response_pointers"] is None else row["response_pointers"]
    for run in pointers.readable(encoded or []):
        shown = WordPrompter().decode(run).lower().replace(",", "").split()
        spoken = text.split()
        assert not any(spoken[i : i + 3] == shown[j : j + 3] for i in range(len(spoken) - 2) for j in range(len(shown)))
    if row["response_pointers"] is not None:
        assert pointers.decode(row["response_pointers"], text_ids) == answer
