"""Coverage: compare the number of clips found with the number of clips published."""

from collections import Counter

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.stage import UserError
from pipeline.tables.quarantine import Fault

# clips with these reasons are not counted: they do not belong to the corpus, repeat an id, or have no file
_NOT_COUNTED = {"bad-name", "not-listed", "not-speech", "double-id", "no-file"}


class Coverage:
    """Counts the clips of a corpus. A clip that was published broken counts even if its file is missing."""

    def __init__(self, name: str, corpus: Corpus) -> None:
        self.name = name
        self.published, self.faults = corpus.counts, corpus.faults
        self.counts = Counter[str]()
        self.speakers: set[str] = set()

    def add(self, clip: Clip, fault: Fault | None) -> None:
        """Count a clip, usable or not; a clip without a file, and a file that is not a clip, are left out."""
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
        """Return the found and the published number by key; keys of which nothing was found are left out."""
        found = self.counts + Counter({"speakers": len(self.speakers)})
        return {key: (found[key], number) for key, number in self.published.items() if found[key]}

    def check(self) -> None:
        """Raise UserError if more was found than was published: clips are doubled, or labels are wrong."""
        for key, (found, published) in self.table().items():
            if found > published:
                raise UserError(f"{self.name}: {key}: found {found:,}, expected at most {published:,} as published")
