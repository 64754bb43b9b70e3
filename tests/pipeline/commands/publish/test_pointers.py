from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.publish import pointers

IDS = st.lists(st.integers(0, 20), max_size=30)


@given(IDS, IDS)
def test_pointers_restore_every_continuation(response_ids: list[int], text_ids: list[int]) -> None:
    assert pointers.decode(pointers.encode(response_ids, text_ids), text_ids) == response_ids


@given(IDS, IDS)
def test_no_token_of_the_transcript_stays_readable(response_ids: list[int], text_ids: list[int]) -> None:
    runs = pointers.readable(pointers.encode(response_ids, text_ids))
    assert not {token for run in runs for token in run} & set(text_ids)
    assert [token for run in runs for token in run] == [each for each in response_ids if each not in text_ids]
    assert all(runs)


def test_a_pointer_splits_what_is_readable() -> None:
    encoded = pointers.encode([7, 8, 5, 9], [4, 5, 5])
    assert encoded == [7, 8, -2, 9]
    assert pointers.readable(encoded) == [[7, 8], [9]]
