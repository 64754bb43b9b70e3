"""Decide for each corpus of a packed folder whether its clips and transcripts may be passed on. Unknown means no."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.corpora import registry
from pipeline.corpora.licences import LICENCES, STATEMENTS, Licence, why_refused
from pipeline.corpora.params import CorpusParams

OWN = "the mapping of who packed the data"
"""Source of the licence of a user's own table or data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What may be passed on of the rows of a corpus that have the same licence."""

    corpus: str
    licence: str | None
    """As the rows state it."""
    title: str
    home: str | None
    """Web page of the corpus."""
    source: str
    """Where the licence or the terms are stated."""
    refused: str | None
    """Why clips, transcripts and labels are withheld; None if they are passed on."""

    @property
    def known(self) -> Licence | None:
        """The licence under which the rows are passed on; None if they are withheld."""
        return LICENCES[self.licence] if self.refused is None and self.licence else None


def decide(
    found: Iterable[tuple[str, str | None]], corpora: Mapping[str, CorpusParams]
) -> dict[tuple[str, str | None], Terms]:
    """Return the terms of each pair of corpus and licence; `corpora` is the section `ingest` of the parameters."""
    return {pair: _decide(*pair, corpora.get(pair[0])) for pair in found}


def _decide(name: str, licence: str | None, corpus: CorpusParams | None) -> Terms:
    title, home, source, refused = name, None, OWN, why_refused(licence)
    if corpus is None:
        source = "unknown"
        refused = "the corpus is not listed under ingest in the parameters"
    elif corpus.reader in registry.names():
        facts, statement = registry.load(corpus.reader), STATEMENTS.get(corpus.reader)
        title, home, source = facts.title, facts.source, statement.source if statement else "unknown"
        if statement is None:
            refused = f"pipeline/corpora/licences.py has no statement for {corpus.reader}"
        elif facts.licence != licence:
            refused = f"the rows have {licence or 'no licence'}, but {facts.title} has {facts.licence}"
        else:
            refused = statement.forbids or refused
    return Terms(corpus=name, licence=licence, title=title, home=home, source=source, refused=refused)
