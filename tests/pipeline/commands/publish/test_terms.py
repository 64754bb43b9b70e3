import pytest

from pipeline.commands.publish.terms import OWN, Terms, decide
from pipeline.corpora import licences
from pipeline.corpora.params import CorpusParams


def terms(licence: str | None, reader: str) -> Terms:
    corpora = {"c": CorpusParams(reader=reader, root="c", check="samples")}
    return decide([("c", licence)], corpora)["c", licence]


def test_the_rows_of_a_free_corpus_are_passed_on_with_its_source() -> None:
    found = terms("CC-BY-4.0", "librispeech")
    assert (found.refused, found.title, found.source) == (None, "LibriSpeech", "https://www.openslr.org/12")
    assert found.known is not None
    assert found.known.hub_id == "cc-by-4.0"


@pytest.mark.parametrize(
    ("licence", "reader", "why"),
    [
        ("LicenseRef-IEMOCAP", "iemocap", "LicenseRef-IEMOCAP is not known to allow it"),
        ("GPL-3.0-only", "meld", "TV series"),
        ("CC0-1.0", "commonvoice", "forbid copies"),
        ("CC-BY-NC-ND-4.0", "tess", "allows no derivatives"),
        ("MIT", "iemocap", "the rows have MIT, but IEMOCAP has LicenseRef-IEMOCAP"),
        ("ours", "table", "ours is not known to allow it"),
        (None, "hub", "no licence is stated"),
    ],
)
def test_other_rows_are_withheld_with_a_reason(licence: str | None, reader: str, why: str) -> None:
    assert why in str(terms(licence, reader).refused)
    assert terms(licence, reader).known is None


def test_the_mapping_states_the_licence_of_an_own_corpus() -> None:
    found = terms("CC-BY-4.0", "table")
    assert (found.refused, found.title, found.source) == (None, "c", OWN)


def test_a_reader_without_statement_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(licences.STATEMENTS, "librispeech")
    assert "has no statement for librispeech" in str(terms("CC-BY-4.0", "librispeech").refused)


def test_a_corpus_that_is_not_in_the_parameters_is_withheld() -> None:
    found = decide([("d", "CC0-1.0")], {})["d", "CC0-1.0"]
    assert found.refused == "the corpus is not listed under ingest in the parameters"
