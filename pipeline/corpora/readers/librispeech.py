"""LibriSpeech: audio books, `train-clean-100/SPK/CHAP/SPK-CHAP-NNNN.flac` and `SPK-CHAP.trans.txt`.

A subset is any folder whose name begins with train-, dev- or test-, its official split. A chapter is a dialogue; its
utterances are the turns. The reader lists folders and opens no audio, so that the whole corpus takes seconds.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.corpus import Archive, Clip, Corpus
from pipeline.corpora.files import find, names, read_text
from pipeline.corpora.genders import gender_at
from pipeline.tables.quarantine import Fault

URL = "https://www.openslr.org/resources/12"

SUBSETS = {  # utterances, and the MD5 from URL/md5sum.txt
    "dev-clean": (2_703, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": (2_864, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": (2_620, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": (2_939, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": (28_539, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": (104_014, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": (148_688, "d1a0fd59409feb2c614ce4d30c387708"),
}


def read(root: Path, subset: str | None = None) -> Iterator[Clip]:
    """Yield the utterances of all subsets or of one; they are in `root` or in its folder LibriSpeech."""
    base = next(iter(find(root, "LibriSpeech/")), root)
    path = base / "SPEAKERS.TXT"
    speakers = [[field.strip() for field in line.split("|")] for line in _lines(path) if line[0] != ";"]
    genders = {row[0]: gender_at(f"{path}: speaker {row[0]}", row[1]) for row in speakers if len(row) > 1}
    for pattern in [subset] if subset else ["dev-*", "test-*", "train-*"]:
        for chapter in find(base, f"{pattern}/*/*/"):
            yield from _read_chapter(chapter, chapter.relative_to(root).as_posix(), genders)


def _read_chapter(path: Path, folder: str, genders: dict[str, str | None]) -> Iterator[Clip]:
    """Yield the utterances of the transcript in its order, and then any other recordings."""
    subset, speaker, chapter = path.parts[-3:]
    dialogue = f"{speaker}-{chapter}"
    lines = [line.partition(" ") for line in _lines(path / f"{dialogue}.trans.txt")]
    recorded = {name.rpartition(".")[0] for name in names(path) if name.endswith((".flac", ".wav"))}
    unlisted = sorted(recorded.difference(utterance for utterance, _, _ in lines))
    for utterance, _, text in (*lines, *((utterance, "", "") for utterance in unlisted)):
        before, _, turn = utterance.rpartition("-")
        named = before == dialogue and turn.isdecimal()
        yield Clip(
            utterance=utterance,
            audio=f"{folder}/{utterance}.flac",
            text=text,
            speaker=speaker,
            gender=genders.get(speaker),
            dialogue=dialogue,
            turn=int(turn) if named else None,
            split=subset.partition("-")[0].lower(),
            fault=None if named else Fault("bad-name", "expected SPK-CHAP-NNNN"),
        )


def _lines(path: Path) -> list[str]:
    lines = read_text(path).split("\n") if path.is_file() else []
    return [line.strip() for line in lines if line.strip()]


CORPUS = Corpus(
    title="LibriSpeech",
    layout="train-clean-100/103/1240/103-1240-0000.flac and 103-1240.trans.txt, SPEAKERS.TXT",
    licence="CC-BY-4.0",
    source="https://www.openslr.org/12",
    archives={name: Archive(url=f"{URL}/{name}.tar.gz", md5=md5) for name, (_, md5) in SUBSETS.items()},
    language="en",
    read=read,
    subsets=tuple(SUBSETS),
    counts={"clips": 292_367, "speakers": 2_484} | {name: utterances for name, (utterances, _) in SUBSETS.items()},
    headers_suffice=True,
)
