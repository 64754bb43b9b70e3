import numpy as np

from evaluate.semantics.questions import read_instructions, speak
from evaluate.semantics.rules import RULES, complies


def test_there_are_at_least_fifty_questions_and_every_rule_takes_its_arguments() -> None:
    instructions = read_instructions()
    questions = [question for each in instructions for question in each.questions]
    assert len(questions) == len(set(questions)) == 66
    assert len({each.name for each in instructions}) == len(instructions) == 22
    assert {each.rule for each in instructions} == set(RULES)
    for each in instructions:
        assert complies(each.rule, "Some answer", each.arguments) in (True, False)


def test_questions_are_spoken_alike_each_time_whatever_follows_them() -> None:
    instructions = read_instructions()[:3]
    first, again = speak(instructions), speak(instructions[:2])
    for of_first, of_again in zip(first, again, strict=False):
        for samples, others in zip(of_first, of_again, strict=True):
            assert np.array_equal(samples, others)
            assert samples.dtype == np.float32
            assert 16_000 < len(samples) < 10 * 16_000
            assert 0.1 < np.abs(samples).max() < 1
    assert not np.array_equal(first[0][0][:16_000], first[0][1][:16_000])
