from collections import Counter

from evaluate.asking.clip_choice import choose_clips

SPEAKERS = [*"aaaaaaaa", *"bbb", *"c"]


def test_speakers_take_turns() -> None:
    for count, expected in ((3, [1, 1, 1]), (6, [1, 2, 3]), (7, [1, 3, 3])):
        chosen = choose_clips(SPEAKERS, count, 1)
        assert chosen == sorted(set(chosen))
        assert sorted(Counter(SPEAKERS[place] for place in chosen).values()) == expected


def test_all_clips_are_chosen_if_there_are_no_more() -> None:
    assert choose_clips(SPEAKERS, None, 1) == choose_clips(SPEAKERS, 99, 1) == list(range(12))
    assert choose_clips(SPEAKERS, 0, 1) == choose_clips([], 5, 1) == []


def test_a_smaller_choice_is_within_a_larger_one_and_the_seed_changes_it() -> None:
    for seed in range(5):
        assert set(choose_clips(SPEAKERS, 4, seed)) < set(choose_clips(SPEAKERS, 8, seed))
    assert len({tuple(choose_clips(SPEAKERS, 4, seed)) for seed in range(20)}) > 5
