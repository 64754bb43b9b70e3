import pytest

from pipeline.corpora.genders import gender_at
from pipeline.stage import UserError


@pytest.mark.parametrize(
    ("published", "gender"),
    [
        ("female_feminine", "female"), ("weiblich", "female"), (" F ", "female"), ("Female", "female"),
        ("女", "female"),
        ("male_masculine", "male"), ("MÄNNLICH", "male"), ("m", "male"), ("Man", "male"), ("мужской", "male"),
        ("", None), ("other", None), ("non-binary", None), ("do_not_wish_to_say", None), ("unknown", None),
    ],
)  # fmt: skip
def test_a_gender_is_known_by_its_names(published: str, gender: str | None) -> None:
    assert gender_at("a.csv", published) == gender


def test_a_gender_with_another_name_is_told_with_its_place() -> None:
    with pytest.raises(UserError, match=r"a\.csv: line 3: expected female, male or other as gender, found 1"):
        gender_at("a.csv: line 3", "1")
