"""How much of a published corpus is there: counts found beside counts published."""

from collections import Counter

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

# what lies at the root and is no clip of the corpus, and what the corpus names and does not lie there
_NOT_COUNTED = {"bad-name", "not-listed", "not-speech", "double-id", "no-file"}


class Coverage:
    """Counts clips as they pass, those known to be broken even where they are missing: they are as published."""

    def __init__(self, name: str, corpus: Corpus) -> None:
        self.name = name
        self.published, self.faults = corpus.counts, corpus.faults
        self.counts = Counter[str]()
        self.speakers: set[str] = set()

    def add(self, clip: Clip, fault: Fault | None) -> None:
        """Count a clip whose file is there, sound or not."""
        if not self.published:
            return
        if fault is not None and fault.reason in _NOT_COUNTED and clip.utterance not in self.faults:
            return
        self.counts["clips"] += 1
        self.speakers.add(clip.speaker)
        for key in {clip.emotion, clip.split, *clip.audio.split("/")}:
            if key and key in self.published:
                self.counts[key] += 1

    def table(self) -> dict[str, tuple[int, int]]:
        """Return found and published numbers by key, of the keys of which anything is there."""
        found = self.counts + Counter({"speakers": len(self.speakers)})
        return {key: (found[key], number) for key, number in self.published.items() if found[key]}

    def check(self) -> None:
        """Raise UserError where there is more than was published: doubled data, or labels gone wrong."""
        for key, (found, published) in self.table().items():
            if found > published:
                raise UserError(f"{self.name}: {key}: found {found:,}, expected at most {published:,} as published")
