"""The rows of a corpus: each utterance is checked by its metadata, its audio and the utterances before it.

Utterances are processed in chunks, so that the rows of a large corpus need not fit in memory. Audio is decoded on all
cores, and a file with many utterances is opened once. If headers suffice, only headers are read.
"""

import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.params import Check
from pipeline.corpora.transcript import has_words, normalise, spoken
from pipeline.ingest import inspection, missing_files
from pipeline.ingest.coverage import Coverage
from pipeline.ingest.inspection import AudioFacts, Segment
from pipeline.ingest.unwritable import refuse_unwritable
from pipeline.tables import emotions, languages
from pipeline.tables.quarantine import Fault

CHUNK = 4096  # utterances
_FILES_PER_TASK = 256  # files that a process gets at a time
# English has about 15 characters a second, and nobody speaks three times as fast
MAX_CHARACTERS_PER_S = 50
_ALWAYS_FITS = 20  # characters: a clip of one or two words may be cut tightly

Row = dict[str, Any]


@dataclass(slots=True)
class CorpusRows:
    """Makes the rows of a corpus, which the manifest calls `name`."""

    corpus: Corpus
    root: Path
    name: str
    check: Check
    coverage: Coverage
    ids: set[int] = field(default_factory=set)
    """Hashes of the ids so far."""
    recordings: set[int] = field(default_factory=set)
    """Hashes of the content hashes so far."""
    nearby: missing_files.NearbyFiles = field(init=False)
    """Describes the files with names like those of missing ones."""

    def __post_init__(self) -> None:
        self.nearby = missing_files.NearbyFiles(str(self.root))

    def rows(self) -> Generator[list[Row]]:
        """Yield the rows of each chunk in the reader's order; a refused row has a `reason`."""
        with self._pool() as pool, _closed(self.corpus.read(self.root)) as published:
            # while the rows of a chunk are made, the audio of the next chunk is inspected
            chunks = (self._inspect(clips, pool) for clips in _chunks(self._clips(published)))
            for (clips, found), _ in itertools.pairwise(itertools.chain(chunks, [([], ())])):
                facts_by_clip = dict(found)
                yield [self._row(clip, facts_by_clip[id(clip)]) for clip in clips]

    def _pool(self) -> Executor:
        """Return threads to decode audio, which releases Python's lock, or processes to parse headers."""
        if self.check == "samples":
            return ThreadPoolExecutor(os.cpu_count())
        return ProcessPoolExecutor(
            os.cpu_count(), get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        )

    def _clips(self, published: Iterable[Clip]) -> Iterable[Clip]:
        """Check the names of clips. If the corpus has emotions, check for unknown labels before audio is inspected."""
        root = str(self.root)
        clips = (refuse_unwritable(clip, root) for clip in published)
        if not self.corpus.labels:
            return clips
        read = list(clips)
        emotions.check_labels(self.name, self.corpus.labels, _labels(read))
        return read

    def _inspect(
        self, clips: list[Clip], pool: Executor
    ) -> tuple[list[Clip], Iterable[tuple[int, AudioFacts | Fault]]]:
        """Start to inspect a chunk; return it, and an iterator over each clip's Python id() and its facts or fault."""
        if not self.corpus.labels:
            emotions.check_labels(self.name, {}, _labels(clips))
        faults = {id(clip): self._fault(clip) for clip in clips}
        sound = [clip for clip in clips if faults[id(clip)] is None]
        files = _by_file(sound)
        paths = [self._path(file[0]) for file in files]
        segments = [[Segment(clip.start_s, clip.duration_s) for clip in file] for file in files]
        inspect = inspection.inspect_samples if self.check == "samples" else inspection.inspect_header
        # starting a process takes longer than reading a few headers
        each = map if self.check == "headers" and len(files) < CHUNK else partial(pool.map, chunksize=_FILES_PER_TASK)
        inspected = _by_clip(files, each(partial(_inspect_file, inspect), paths, segments))
        refused = ((key, fault) for key, fault in faults.items() if fault is not None)
        return clips, itertools.chain(refused, inspected)

    def _fault(self, clip: Clip) -> Fault | None:
        """Return the reader's fault, or else a fault of the metadata; a missing file comes before the latter."""
        if clip.fault is not None:
            return clip.fault
        fault = self._fault_of_metadata(clip)
        # without a fault, the inspection of the audio finds a missing file, which saves a call for each file
        return Fault("no-file") if fault is not None and not self._is_there(clip) else fault

    def _is_there(self, clip: Clip) -> bool:
        path = self._path(clip)
        return os.path.exists(path) or any(map(os.path.exists, missing_files.converted(path)))

    def _fault_of_metadata(self, clip: Clip) -> Fault | None:
        if clip.utterance in self.corpus.faults:
            return Fault("known-fault", self.corpus.faults[clip.utterance])
        if self.corpus.labels and clip.emotion is None:
            return Fault("no-label")
        if clip.text is not None and not has_words(spoken(clip.text, self.corpus.tags)):
            return Fault("no-transcript", f"found only {clip.text.strip()}" if has_words(clip.text) else "")
        return None

    def _path(self, clip: Clip) -> str:
        """Return the path of the audio; a table may give an absolute one. Joining strings is faster than using Path."""
        return os.path.join(self.root, clip.audio)

    def _row(self, clip: Clip, facts: AudioFacts | Fault) -> Row:
        """Make the row of an utterance; copies of earlier utterances are found only here, in order."""
        fault = self._double_id(clip) or (facts if isinstance(facts, Fault) else self._fault_with(clip, facts))
        if fault is not None and fault.reason == "no-file" and not fault.detail:
            fault = Fault("no-file", self.nearby.describe(clip.audio))
        self.coverage.add(clip, fault)
        row = {"id": f"{self.name}/{clip.utterance}", "corpus": self.name, "audio": clip.audio}
        if fault is not None:
            return row | {"reason": fault.reason, "detail": fault.detail}
        assert isinstance(facts, AudioFacts)
        return row | self._published(clip) | {"start_s": clip.start_s, **facts._asdict()}

    def _double_id(self, clip: Clip) -> Fault | None:
        known = hash(clip.utterance) in self.ids
        self.ids.add(hash(clip.utterance))
        return Fault("double-id") if known else None

    def _fault_with(self, clip: Clip, facts: AudioFacts) -> Fault | None:
        most = max(_ALWAYS_FITS, MAX_CHARACTERS_PER_S * facts.duration_s)
        if clip.text and len(clip.text) > most and (length := len(spoken(clip.text, self.corpus.tags))) > most:
            return Fault("too-much-text", f"{length} characters in {facts.duration_s:.2f} s")
        if facts.content_hash is None:
            return None
        known = hash(facts.content_hash) in self.recordings
        self.recordings.add(hash(facts.content_hash))
        if known and clip.utterance not in self.corpus.doubles:
            return Fault("double-audio", f"content hash {facts.content_hash}")
        return None

    def _published(self, clip: Clip) -> Row:
        """Return the columns that come from file names and metadata."""
        labels, votes = self.corpus.labels, clip.votes or clip.votes_both
        language = clip.language or self.corpus.language
        return {
            "text": None if clip.text is None else normalise(spoken(clip.text, self.corpus.tags)),
            "text_published": clip.text,
            "language": languages.canonical(language) or language,
            "speaker": f"{self.name}/{clip.speaker}",
            "gender": clip.gender,
            "session": clip.session,
            "dialogue": clip.dialogue,
            "turn": clip.turn,
            "emotion": None if clip.emotion is None else labels[clip.emotion],
            "emotion_published": clip.emotion,
            "emotion_votes": _items(emotions.soften(votes, labels) if votes else None),
            "votes": _items(clip.votes),
            "votes_face": _items(clip.votes_face),
            "votes_both": _items(clip.votes_both),
            "intensity": clip.intensity,
            "split": clip.split,
            "attributes": _items(clip.attributes),
            "licence": self.corpus.licence,
        }


def _labels(clips: Iterable[Clip]) -> Iterator[str]:
    """Yield all labels of usable clips, and the labels of their votes."""
    for clip in clips:
        if clip.fault is None:
            if clip.emotion is not None:
                yield clip.emotion
            for votes in (clip.votes, clip.votes_face, clip.votes_both):
                yield from votes or ()


def _by_file(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Group the clips by file, in time order."""
    files: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=attrgetter("start_s")):
        files.setdefault(clip.audio, []).append(clip)
    return list(files.values())


class _Converted(NamedTuple):
    suffix: str
    found: list[AudioFacts | Fault]


def _inspect_file(
    inspect: Callable[..., list[AudioFacts | Fault]], path: str, segments: list[Segment]
) -> list[AudioFacts | Fault] | _Converted:
    """Inspect a file, or else a converted one with its name."""
    found = inspect(path, segments)
    if isinstance(found[0], Fault) and found[0].reason == "no-file":
        for other in filter(os.path.exists, missing_files.converted(path)):
            return _Converted(os.path.splitext(other)[1], inspect(other, segments))
    return found


def _by_clip(
    files: list[list[Clip]], results: Iterable[list[AudioFacts | Fault] | _Converted]
) -> Iterator[tuple[int, AudioFacts | Fault]]:
    """Yield each clip's Python id() and its facts or fault; a clip from a converted file gets its name."""
    for clips, result in zip(files, results, strict=True):
        if isinstance(result, _Converted):
            for clip in clips:
                clip.audio = os.path.splitext(clip.audio)[0] + result.suffix
            result = result.found
        yield from zip(map(id, clips), result, strict=True)


@contextmanager
def _closed(clips: Iterator[Clip]) -> Iterator[Iterator[Clip]]:
    """Close a reader at the end, also after an error; a traceback would keep it and its files open."""
    try:
        yield clips
    finally:
        if isinstance(clips, Generator):
            clips.close()


def _chunks(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    reading = iter(clips)
    while chunk := list(itertools.islice(reading, CHUNK)):
        yield chunk


def _items(values: Any) -> list[tuple[str, Any]] | None:
    return None if values is None else list(values.items())
