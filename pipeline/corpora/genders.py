"""Genders by their published names."""

from pipeline.stage import UserError

_FEMALE = (
    "f", "female", "female_feminine", "feminine", "woman", "girl", "w", "weiblich", "frau", "femme", "féminin",
    "mujer", "femenino", "femminile", "feminino", "женский", "ж", "女", "女性",
)  # fmt: skip
_MALE = (
    "m", "male", "male_masculine", "masculine", "man", "boy", "männlich", "mann", "homme", "masculin",
    "hombre", "masculino", "maschile", "мужской", "м", "男", "男性",
)  # fmt: skip
# neither of the two, or not known; the last five are values of Common Voice
_OTHER = (
    "", "-", "?", "unknown", "unk", "unspecified", "none", "null", "nan", "na", "n/a", "u", "x", "o", "d", "divers",
    "diverse", "nonbinary", "intersex", "transgender", "non-binary", "do_not_wish_to_say", "other",
)  # fmt: skip

GENDERS: dict[str, str | None] = dict.fromkeys(_OTHER) | dict.fromkeys(_FEMALE, "female") | dict.fromkeys(_MALE, "male")
"""Published name in lower case: female, male, or None for another gender and for an unknown one."""


def gender_at(place: str, published: str) -> str | None:
    """Return the gender that a published table names at a place; raises UserError if its name is not known."""
    name = published.strip().casefold()
    if name not in GENDERS:
        raise UserError(f"{place}: expected female, male or other as gender, found {published}")
    return GENDERS[name]
