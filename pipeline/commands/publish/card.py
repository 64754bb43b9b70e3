"""The dataset card: README.md with the front matter that the Hugging Face hub reads."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.audio.mono_16k import SAMPLE_RATE_HZ
from pipeline.commands.publish.published import CARD_FILE, DATA, Facts
from pipeline.commands.publish.terms import Terms
from pipeline.commands.publish.withholding import ID, MAX_WORDS, POINTERS, RESPONSE, TEACHER, Counts
from pipeline.stage import printable

TEMPLATE = Path(__file__).with_name("README.md.jinja")
_TASKS = {
    "semantic": ["automatic-speech-recognition", "audio-text-to-text"],
    "emotion": ["audio-classification", "audio-text-to-text"],
}
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True, slots=True)
class Published:
    """What the card and the printed summary tell: the rows of a corpus that have the same licence."""

    terms: Terms
    counts: Counts

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.counts.rows.total()

    @property
    def hours(self) -> float:
        """Length of the clips, also of those that are withheld."""
        return self.counts.samples / SAMPLE_RATE_HZ / 3600


def licences(groups: list[Published]) -> list[str]:
    """Return the hub's identifiers of the licences; `other` stands for the rows of withheld corpora."""
    known = {group.terms.known.hub_id for group in groups if group.terms.known}
    return [*sorted(known), *(["other"] if any(group.terms.refused for group in groups) else [])]


def write(folder: Path, facts: Facts, groups: list[Published], max_echo: float) -> None:
    """Write README.md."""
    from huggingface_hub import DatasetCard, DatasetCardData

    total = sum(group.rows for group in groups)
    size = next((name for limit, name in _SIZES if total < limit), "10M<n<100M")
    data = DatasetCardData(
        pretty_name=title(facts),
        license=licences(groups),
        language=sorted({language for group in groups for language in group.counts.languages}),
        task_categories=_TASKS[facts.kind],
        size_categories=[size],
        tags=["speech", "blsp-emo"],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"{DATA}/{split}-*.parquet"}
                    for split, count in facts.splits.items()
                    if count
                ],
            }
        ],
    )
    card = DatasetCard.from_template(data, template_path=str(TEMPLATE), **_facts(facts, groups, max_echo))
    (folder / CARD_FILE).write_text(card.content.rstrip() + "\n", encoding="utf-8")


def title(facts: Facts) -> str:
    """Return the name of the data set."""
    return f"BLSP-Emo packed rows: {facts.kind} alignment"


def _facts(facts: Facts, groups: list[Published], max_echo: float) -> Mapping[str, Any]:
    emotions = sum((group.counts.emotions for group in groups), Counter[str]())
    return {
        "title": title(facts),
        "kind": facts.kind,
        "splits": [{"name": split, "rows": f"{count:,}"} for split, count in facts.splits.items()],
        "corpora": [_corpus(group) for group in groups],
        "emotions": [(name, f"{count:,}") for name, count in emotions.most_common()],
        "hours": f"{sum(group.hours for group in groups):,.2f}",
        "has_signals": facts.has_signals,
        "max_words": MAX_WORDS,
        "max_echo": f"{max_echo:g}",
    }


def _corpus(group: Published) -> Mapping[str, Any]:
    terms, lost = group.terms, group.counts.lost
    return {
        "name": cell(terms.corpus),
        "title": cell(terms.title),
        "home": terms.home,
        "licence": cell(terms.licence or "not stated"),
        "licence_url": terms.known.url if terms.known else None,
        "conditions": ", ".join(terms.known.conditions) or "none" if terms.known else "",
        "source": cell(terms.source),
        "refused": None if terms.refused is None else cell(terms.refused),
        "rows": f"{group.rows:,}",
        "hours": f"{group.hours:,.2f}",
        "continuations": f"{group.counts.continuations - lost[POINTERS] - lost[RESPONSE]:,}",
        "pointers": f"{lost[POINTERS]:,}",
        "lost": f"{lost[RESPONSE]:,}",
        "ids": f"{lost[ID]:,}",
        "teacher": f"{lost[TEACHER]:,}",
    }


def cell(text: str) -> str:
    """Return a text that fits in a cell of a Markdown table."""
    return printable(" ".join(text.split())).replace("|", "\\|")
