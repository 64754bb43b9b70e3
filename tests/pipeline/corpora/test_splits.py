import pytest

from pipeline.corpora.splits import official, official_of_all


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("train.100", "train"), ("train.clean.360", "train"), ("TRAIN", "train"),
        ("training", "train"), ("train_0", "train"), ("test", "test"), ("test.other", "test"), ("clean_test", "test"),
        ("dev", "dev"), ("validation", "dev"), ("validation.clean", "dev"), ("valid", "dev"), ("val", "dev"),
        ("devel", "dev"), ("validated", None), ("invalidated", None), ("other", None), ("train_dev", None),
        ("testimony", None), ("evaluation", None), ("en", None), ("", None),
    ],
)  # fmt: skip
def test_a_name_with_one_word_for_a_split_names_it(name: str, split: str | None) -> None:
    assert official(name) == split


def test_evaluation_is_what_the_other_splits_leave() -> None:
    assert official_of_all(["train", "evaluation"]) == {"train": "train", "evaluation": "test"}
    assert official_of_all(["train", "eval", "test"]) == {"train": "train", "eval": "dev", "test": "test"}
    assert official_of_all(["train", "unchecked"]) == {"train": "train", "unchecked": None}
