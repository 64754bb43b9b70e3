from train.model.inputs import sequences


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
