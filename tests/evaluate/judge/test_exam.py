"""The exam: only a judge that reads words and emotion passes, and the mark to pass is the one that is explained."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from evaluate.judge import exam
from evaluate.judge.exam import Item
from evaluate.judgements import LEAST_RIGHT
from pipeline.stage import UserError
from pipeline.tables.emotions import EMOTIONS


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return exam.load()


@pytest.fixture(scope="module")
def pairs(items: list[Item]) -> list[Item]:
    return [item for item in items if item.warm != item.cold]


def test_there_are_40_pairs_of_all_five_emotions_and_10_equal_answers(items: list[Item], pairs: list[Item]) -> None:
    assert len(pairs) == 40
    assert Counter(item.emotion for item in pairs) == dict.fromkeys(EMOTIONS[:5], 8)
    assert len(items) == 50
    assert {item.emotion for item in items[40:]} == set(EMOTIONS[:5])
    assert len({item.id for item in items}) == 50
    assert len({(item.said, item.emotion) for item in items}) == 50


def test_a_judge_that_ignores_the_emotion_gets_half_of_the_swapped_pairs_right(pairs: list[Item]) -> None:
    better = {(item.said, item.warm, item.cold) for item in pairs}
    swapped = [item for item in pairs if (item.said, item.cold, item.warm) in better]
    assert len(swapped) == 24
    assert len(pairs) - len(swapped) // 2 < LEAST_RIGHT


def test_neither_length_nor_any_word_tells_the_answers_apart(pairs: list[Item]) -> None:
    for length in (len, lambda text: len(text.split())):
        assert all(0.5 < length(item.warm) / length(item.cold) < 2 for item in pairs)
        longer = sum(length(item.warm) > length(item.cold) for item in pairs)
        assert 15 <= longer <= 25
    words = [[set(re.findall(r"[\w']+|[!?]", text.lower())) for text in (item.warm, item.cold)] for item in pairs]
    for word in set().union(*(both[0] | both[1] for both in words)):
        only_warm = sum(word in warm and word not in cold for warm, cold in words)
        only_cold = sum(word in cold and word not in warm for warm, cold in words)
        assert max(only_warm, only_cold) <= 20, word


def test_a_classifier_of_words_does_not_pass(pairs: list[Item]) -> None:
    counts = CountVectorizer(token_pattern=r"[\w']+|[!?]")
    x = counts.fit_transform([item.warm for item in pairs] + [item.cold for item in pairs]).toarray()
    difference = x[: len(pairs)] - x[len(pairs) :]
    right = 0
    for i, item in enumerate(pairs):
        other = np.array([each.said != item.said for each in pairs])
        both = np.concatenate([difference[other], -difference[other]])
        fitted = LogisticRegression().fit(both, np.repeat([1, 0], other.sum()))
        right += int(fitted.decision_function(difference[i : i + 1])[0] > 0)
    assert 20 < right < LEAST_RIGHT


def test_the_pass_mark_is_the_smallest_whose_exact_interval_is_above_three_quarters() -> None:
    assert binomtest(LEAST_RIGHT, 40).proportion_ci(0.95, "exact").low > 0.75
    assert binomtest(LEAST_RIGHT - 1, 40).proportion_ci(0.95, "exact").low < 0.75
    assert binom.sf(LEAST_RIGHT - 1, 40, 0.5) < 1e-7


def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exam.yaml").write_text("swapped: []\ncold: [{said: a, emotion: sad, topic: t, warm: w}]\nequal: []\n")
    monkeypatch.setattr(exam, "FILE", tmp_path / "exam.yaml")
    with pytest.raises(UserError, match=r"exam\.yaml: exam\.cold\.0\.cold: missing"):
        exam.load()
