"""Leave one session out on a made-up IEMOCAP tree, from its label files to the rows of each fold."""

from collections import Counter
from pathlib import Path

from evaluate.protocols.definition import load_protocol
from pipeline.corpora.readers.iemocap import CORPUS
from pipeline.tables import manifest, parquet
from tests.builders import utterance
from tests.fold_runs import run_fold

LABELS = ("neu", "hap", "exc", "sad", "ang", "fru", "xxx")
TESTED = ("neu", "hap", "exc", "sad", "ang")


def write_session(root: Path, number: int) -> None:
    """Write a dialogue of both speakers, in which each has every label."""
    name = f"Ses0{number}F_impro01"
    labelled = [(speaker, i, label) for speaker in "FM" for i, label in enumerate(LABELS)]
    lines = [
        f"[{start}.0 - {start}.9]\t{name}_{speaker}{i:03}\t{label}\t[2.5, 2.5, 2.5]\nC-E1:\tNeutral;\t()\n"
        for start, (speaker, i, label) in enumerate(labelled)
    ]
    index = root / f"Session{number}/dialog/EmoEvaluation/{name}.txt"
    index.parent.mkdir(parents=True)
    index.write_text("\n".join(lines))


def test_each_session_is_tested_once_and_excitement_is_happiness(tmp_path: Path) -> None:
    for number in range(1, 6):
        write_session(tmp_path, number)
    rows = [
        utterance(
            f"iemocap/{clip.utterance}", corpus="iemocap", speaker=f"iemocap/{clip.speaker}", text="words",
            dialogue=clip.dialogue, emotion=CORPUS.labels[clip.emotion or "xxx"],
        )
        for clip in CORPUS.read(tmp_path)
    ]  # fmt: skip
    assert len(rows) == 5 * 2 * len(LABELS)
    protocol = load_protocol("iemocap-loso-4")
    tested: Counter[str] = Counter()
    for number, fold in enumerate(protocol.folds or {}, start=1):
        train, test = run_fold(protocol, parquet.from_rows(rows, manifest.SCHEMA), fold, tmp_path)
        assert set(test["speaker"].to_pylist()) == {f"iemocap/Ses0{number}{speaker}" for speaker in "FM"}
        assert not any(f"Ses0{number}" in speaker for speaker in train["speaker"].to_pylist())
        assert Counter(test["emotion"].to_pylist()) == {"neutral": 2, "happy": 4, "sad": 2, "angry": 2}
        tested.update(test["id"].to_pylist())
    assert len(tested) == 5 * 2 * len(TESTED)
    assert set(tested.values()) == {1}
