from train.data.sampler import plan, plan_epoch


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
