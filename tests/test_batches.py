import pytest
import torch

from pipeline.tables.packed import PromptShell
from train.data.dataset import Collator, Example
from train.data.sampler import plan, plan_epoch
from train.model.inputs import sequences


def test_an_epoch_takes_every_row_once_but_those_that_fill_no_batch() -> None:
    lengths = list(range(103))
    batches = plan_epoch(lengths, 10, seed=1, epoch=0)
    rows = [row for batch in batches for row in batch]
    assert len(batches) == 10
    assert len(set(rows)) == len(rows) == 100
    assert {len(batch) for batch in batches} == {10}


def test_the_rows_left_over_change_from_epoch_to_epoch() -> None:
    left = [set(range(103)) - {r for b in plan_epoch(range(103), 10, 1, e) for r in b} for e in range(5)]
    assert len({frozenset(rows) for rows in left}) > 1


def test_rows_of_like_length_stand_together_in_random_order() -> None:
    lengths = [7 * i % 1000 for i in range(1000)]
    batches = plan_epoch(lengths, 10, seed=1, epoch=0)
    padded = sum(10 * max(lengths[row] for row in batch) for batch in batches)
    assert sum(lengths) / padded > 0.85
    first = [lengths[batch[0]] for batch in batches]
    assert first != sorted(first)


def test_the_plan_is_a_function_of_its_arguments_and_its_tail_is_the_resumed_plan() -> None:
    whole = plan(range(57), 8, seed=5, num_batches=30)
    assert whole == plan(range(57), 8, seed=5, num_batches=30)
    assert whole != plan(range(57), 8, seed=6, num_batches=30)
    assert whole[:12] == plan(range(57), 8, seed=5, num_batches=12)


def test_fewer_rows_than_a_batch_make_one_batch() -> None:
    assert sorted(plan_epoch(range(3), 8, seed=1, epoch=0)[0]) == [0, 1, 2]


def test_a_sequence_predicts_each_response_token_and_nothing_after_the_last() -> None:
    made = sequences([1, 2], [[None, None], [7]], [3], [[4, 5], [6]])
    assert made.token_ids.tolist() == [[1, 2, 0, 0, 3, 4, 5], [1, 2, 7, 3, 6, 0, 0]]
    assert made.speech.tolist() == [[False, False, True, True, *[False] * 3], [False] * 7]
    assert made.attended.sum(1).tolist() == [7, 5]
    following = made.token_ids.roll(-1, 1)
    assert following[made.predicts].tolist() == [4, 5, 6]


def test_an_empty_response_predicts_nothing() -> None:
    assert not sequences([1], [[None]], [3], [[]]).predicts.any()


def test_padding_moves_to_the_left_for_answering() -> None:
    made = sequences([1, 2], [[None, None], [7]], [3], [[], []]).padded_left()
    assert made.token_ids.tolist() == [[1, 2, 0, 0, 3], [0, 1, 2, 7, 3]]
    assert made.attended.tolist() == [[True] * 5, [False, *[True] * 4]]
    assert made.speech.tolist() == [[False, False, True, True, False], [False] * 5]


@pytest.mark.parametrize("with_teacher", [True, False])
def test_a_batch_holds_the_same_responses_for_student_and_teacher(with_teacher: bool) -> None:
    shell = PromptShell(before_speech=[1], before_text=[1], after=[2])
    examples = [
        Example(torch.randn(80, 100), 100, [11, 12, 13], [4, 5], 0),
        Example(torch.randn(80, 300), 300, [14], [6], -1),
    ]
    batch = Collator(shell, with_teacher)(examples)
    assert batch.features.shape == (2, 80, 300)
    assert not batch.features[0, :, 100:].any()
    assert batch.student.speech.sum(1).tolist() == [7, 19]
    assert batch.response_ids.tolist() == [4, 5, 6]
    assert batch.emotion.tolist() == [0, -1]
    if with_teacher:
        assert batch.teacher is not None
        assert batch.teacher.token_ids.roll(-1, 1)[batch.teacher.predicts].tolist() == [4, 5, 6]
        attended = int(batch.student.attended.sum()) + int(batch.teacher.attended.sum())
        assert batch.num_positions == attended - 2  # of each two rows, the shared start of one token is computed once
    else:
        assert batch.teacher is None


def test_stored_signals_stand_in_the_order_of_the_response_tokens_and_in_place_of_the_text_branch() -> None:
    signals = ([[[4, 9], [5, 9]], [[6, 9]]], [[[-0.1, -3.0], [-0.2, -2.0]], [[-0.3, -1.5]]])
    examples = [
        Example(torch.randn(80, 100), 100, [11], response, 0, top_ids, top_logprobs)
        for response, top_ids, top_logprobs in zip([[4, 5], [6]], *signals, strict=True)
    ]
    shell = PromptShell(before_speech=[1], before_text=[1], after=[2])
    batch = Collator(shell, with_teacher=False, with_signals=True)(examples)
    assert batch.teacher is None
    assert batch.signals is not None
    assert batch.signals.top_ids.tolist() == [[4, 9], [5, 9], [6, 9]]
    assert batch.signals.top_logprobs[:, 1].tolist() == [-3.0, -2.0, -1.5]
    assert batch.response_ids.tolist() == [4, 5, 6]
