"""The result of a reader in pipeline/corpora/readers: facts about a corpus, and a clip for each utterance."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.tables.quarantine import Fault


@dataclass(slots=True, kw_only=True)  # not frozen: creating a frozen one takes twice the time
class Clip:
    """An utterance from names and metadata; ingest adds the corpus name, the unified emotion and facts of the audio."""

    utterance: str
    """Published id, unique in the corpus."""
    audio: str
    """File, relative to the corpus root, with forward slashes."""
    text: str | None
    """Transcript as published; None if the corpus publishes none, "" if only this utterance lacks it."""
    speaker: str
    """Published id."""
    start_s: float = 0.0
    duration_s: float | None = None
    """None means to the end of the file."""
    language: str | None = None
    """ISO 639 code, also with a region; None means the language of the corpus."""
    gender: str | None = None
    """female or male."""
    session: str | None = None
    """Recording session; its utterances share the room and the speakers."""
    dialogue: str | None = None
    """Dialogue or chapter, unique in the corpus."""
    turn: int | None = None
    """Position in the dialogue, from 0."""
    emotion: str | None = None
    """Label as published."""
    votes: Mapping[str, float] | None = None
    """Votes by published label, of annotators who only heard the voice."""
    votes_face: Mapping[str, float] | None = None
    """Votes of annotators who only saw the face."""
    votes_both: Mapping[str, float] | None = None
    """Votes of annotators who heard the voice and saw the face."""
    intensity: str | None = None
    split: str | None = None
    """Official split; None if the corpus has none."""
    attributes: Mapping[str, str] | None = None
    """Other published facts about the utterance or its speaker, by their published names."""
    fault: Fault | None = None
    """Why the clip is unusable, if that is known without its audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file to download; it is unpacked if it is a zip or tar archive."""

    url: str
    md5: str | None
    """None if the publisher publishes none."""
    into: str = "."
    """Folder under the corpus root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Facts about a corpus. The file of a published corpus in pipeline/corpora/readers defines one, named CORPUS."""

    title: str
    layout: str
    """Example of its files below the root, for the message if a reader finds nothing."""
    licence: str
    """SPDX id if one exists."""
    source: str
    """Web page that describes the corpus, and takes requests for it if it is not free to download."""
    archives: Mapping[str, Archive] = field(default_factory=dict)
    """Name of an archive: its file. Empty if the corpus is not free to download."""
    language: str
    """ISO 639-1 code of clips without a language of their own."""
    read: Callable[..., Iterator[Clip]]
    """Function of the root that yields each utterance that the corpus names, in a fixed order; it opens no audio."""
    subsets: Sequence[str] = ()
    """Values that `read` accepts as its keyword `subset`: --reader NAME --subset SUBSET reads only that subset."""
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """Published label: unified emotion of pipeline/tables/emotions.py; None if it names no single emotion."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Published counts: `clips`, `speakers`, and the clips of a published label, an official split or a folder."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Published id of a file that is broken as published: its fault."""
    doubles: Sequence[str] = ()
    """Published ids of clips with the same samples as another clip; they stay, because the counts include them."""
    folds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of a published fold: the published ids of its test speakers."""
    headers_suffice: bool = False
    """Whether reading headers in place of samples suffices, because the published audio is known to be intact."""
    tags: Sequence[str] = ()
    """Tags of its transcripts that nobody speaks, beside those that pipeline/corpora/transcript.py knows."""
