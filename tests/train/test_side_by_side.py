"""The layout of several answers to a prompt in one sequence."""

from itertools import pairwise

from train.side_by_side import shared_start, side_by_side

ANSWERS: list[list[tuple[int, ...]]] = [
    [(1, 2, 3), (4,), (5, 6)],
    [(7, 8, 9, 10, 11, 12)],
    [(13,)],
    [(14, 15), (16, 17), (18, 19, 20)],
]


def test_parts_hold_every_answer_but_those_of_one_token_once_and_are_no_wider_than_asked() -> None:
    for width in (1, 2, 3, 100):
        groups = list(side_by_side(ANSWERS, width))
        assert len(groups) == {1: 3, 2: 2, 3: 2, 100: 1}[width]
        found: dict[int, list[list[int]]] = {}
        for group in groups:
            assert group.token_ids.shape[1] <= max(width, 5)
            for row, numbers in enumerate(group.numbers.tolist()):
                for place, number in enumerate(numbers):
                    if number >= 0:
                        pair = [int(group.token_ids[row, place]), int(group.following[row, place])]
                        assert int(group.offsets[row, place]) == len(found.setdefault(number, []))
                        found[number].append(pair)
        flat = [answer for of_prompt in ANSWERS for answer in of_prompt]
        assert found == {
            number: [list(pair) for pair in pairwise(answer)] for number, answer in enumerate(flat) if len(answer) > 1
        }


def test_a_token_sees_itself_and_the_earlier_tokens_of_its_own_answer() -> None:
    (group,) = side_by_side([[(1, 2, 3), (5, 6, 7)], [(8, 9)]], 100)
    assert group.visible[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert group.visible[1].any(dim=1).all()  # padding sees something, so that its softmax is a number
    assert group.visible[1][0].int().tolist() == [1, 0, 0, 0]


def test_the_shared_start_is_what_all_pieces_share() -> None:
    assert shared_start([(1, 2, 3), (1, 2, 4), (1, 2)]) == (1, 2)
    assert shared_start([(1, 2, 3), (2, 2, 3), (1, 2, 3)]) == ()
    assert shared_start([(1, 2)] * 2) == (1, 2)
