import pytest

from pipeline.corpora import registry
from pipeline.corpora.licences import LICENCES, STATEMENTS, why_refused


def test_every_published_corpus_has_a_statement() -> None:
    assert sorted(STATEMENTS) == registry.names()
    assert all(statement.source.startswith("http") for statement in STATEMENTS.values())


def test_these_corpora_and_no_others_may_be_passed_on() -> None:
    allowed = [
        name
        for name, statement in STATEMENTS.items()
        if not statement.forbids and why_refused(registry.load(name).licence) is None
    ]
    assert sorted(allowed) == ["cafe", "cremad", "librispeech", "ravdess", "resd"]


@pytest.mark.parametrize(
    ("licence", "why"),
    [
        ("CC-BY-NC-ND-4.0", "allows no derivatives"),
        ("CC-BY-ND-3.0", "allows no derivatives"),
        ("GPL-3.0-only", "a licence of software"),
        ("LicenseRef-IEMOCAP", "not known"),
        ("cc-by-4.0 or so", "not known"),
        ("", "no licence is stated"),
        (None, "no licence is stated"),
    ],
)
def test_other_licences_are_refused_with_a_reason(licence: str | None, why: str) -> None:
    assert why in str(why_refused(licence))


def test_conditions_follow_from_the_licence() -> None:
    assert LICENCES["CC-BY-NC-SA-4.0"].conditions == ("attribution", "non-commercial", "share-alike")
    assert LICENCES["CC0-1.0"].conditions == ()
    assert LICENCES["ODbL-1.0"].conditions == ("attribution", "share-alike")
