"""Every protocol of the software is consistent with the readers; a user's own file works by its path."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluate.protocols.definition import FOLDER, Protocol, find_fold, load_protocol, load_protocols, names
from pipeline.corpora import registry
from pipeline.stage import UserError

OWN: dict[str, Any] = {
    "name": "own-2",
    "about": "A test of our own.",
    "reader": "table",
    "corpus": "calls",
    "classes": ["sad", "angry"],
    "folds": {"first": ["a"], "second": ["b", "c"]},
    "headline": ["ua"],
    "counts": {"sad": 2, "angry": 1},
    "source": "ours",
}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "own-2.yaml"
    path.write_text(yaml.safe_dump(OWN | changes))
    return str(path)


def test_there_are_the_protocols_of_the_field() -> None:
    wanted = {"iemocap-loso-4", "iemocap-s5-5", "meld-test-5", "meld-test-7", "cremad-actor-6", "ravdess-actor-8"}
    assert set(names()) >= wanted | {"ravdess-zeroshot-5", "emodb-zeroshot", "tess-zeroshot", "esd-test-5"}


@pytest.mark.parametrize("name", names())
def test_a_protocol_has_a_reader_and_classes_that_the_reader_has(name: str) -> None:
    protocol = load_protocol(name)
    corpus = registry.load(protocol.reader)
    assert name.startswith(protocol.reader)
    assert set(protocol.classes) <= set(corpus.labels.values())
    last = name.rpartition("-")[2]
    assert last in (str(len(protocol.classes)), "zeroshot")
    assert protocol.zero_shot == ("zeroshot" in name)


@pytest.mark.parametrize("name", names())
def test_the_folds_are_those_of_the_reader_or_all_its_speakers(name: str) -> None:
    protocol = load_protocol(name)
    corpus = registry.load(protocol.reader)
    folds = protocol.folds or {}
    if protocol.folds is None:
        assert {"train", "dev", "test"} <= corpus.counts.keys()
    elif corpus.folds:
        known = {fold: list(speakers) for fold, speakers in corpus.folds.items()}
        everyone = sorted(speaker for speakers in known.values() for speaker in speakers)
        assert all(
            known.get(fold) == speakers or (fold, sorted(speakers)) == ("all", everyone)
            for fold, speakers in folds.items()
        )
    elif "speakers" in corpus.counts:
        assert sum(map(len, folds.values())) == corpus.counts["speakers"]


@pytest.mark.parametrize("name", names())
def test_counts_over_all_speakers_are_the_published_counts_of_the_corpus(name: str) -> None:
    protocol = load_protocol(name)
    corpus = registry.load(protocol.reader)
    if (
        protocol.counts is None
        or protocol.folds is None
        or sum(map(len, protocol.folds.values())) != corpus.counts["speakers"]
    ):
        return
    published: Counter[str | None] = Counter()
    for label in corpus.counts.keys() & corpus.labels.keys():
        published[corpus.labels[label]] += corpus.counts[label]
    if protocol.reader == "ravdess":  # counted by its own labels
        published = Counter({corpus.labels[label]: corpus.counts.get(label, 0) for label in corpus.labels})
    assert protocol.counts == {emotion: published[emotion] for emotion in protocol.classes}


def test_the_sums_are_the_numbers_that_papers_name() -> None:
    expected = {
        "iemocap-loso-4": 5531, "iemocap-s5-4": 1241, "meld-test-7": 2610, "cremad-actor-6": 7442,
        "ravdess-actor-8": 1440, "ravdess-zeroshot-5": 864, "esd-test-5": 3000,
    }  # fmt: skip
    assert {name: load_protocol(name).rows_expected for name in expected} == expected


def test_every_published_figure_names_its_source() -> None:
    figures = [figure for name in names() for figure in load_protocol(name).published]
    assert len(figures) > 10
    assert all(
        "Table" in figure.source or "leaderboard" in figure.source or "table" in figure.source for figure in figures
    )


def test_the_files_are_in_the_package() -> None:
    assert FOLDER.name == "protocols"
    assert (FOLDER / "__init__.py").is_file()  # a wheel takes all files of its packages
    assert len(names()) >= 15


def test_an_own_file_works_by_its_path(tmp_path: Path) -> None:
    protocol = load_protocol(write(tmp_path))
    assert protocol == Protocol.model_validate(OWN)
    assert (protocol.rows_expected, protocol.test_rows) == (3, "2 folds, 3 speakers")
    assert [find_fold(protocol, fold) for fold in ("first", "2")] == ["first", "second"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other-2"}, r"own-2.yaml: protocol.name: found other-2; expected own-2, the name of the file"),
        ({"name": "Own 2"}, r"protocol.name: expected .*pattern"),
        ({"classes": ["sad", "rage"], "counts": None}, r"protocol.classes: found rage; expected some of neutral"),
        ({"classes": ["sad", "angry", "sad"]}, r"protocol.classes: found sad twice; expected it once"),
        ({"classes": ["sad"]}, r"protocol.classes: expected .*at least 2"),
        ({"folds": {"first": ["a"], "second": ["a"]}}, r"protocol.folds: found a twice; expected it once"),
        ({"folds": {}}, r"protocol.folds: found none; expected at least one, or null for the official test split"),
        ({"folds": {"first": [1]}}, r"protocol.folds.first.0: expected a valid string, found 1"),
        ({"counts": {"sad": 2}}, r"protocol.counts: found sad; expected each of sad, angry, or null"),
        ({"corpus": None}, r"protocol.corpus: found None; expected a name with the readers table"),
        ({"reader": "meld"}, r"protocol.corpus: found calls; .* table and hub, else null"),
        ({"headline": ["accuracy"]}, r"protocol.headline.0: expected 'ua', 'wa', 'macro_f1' or 'weighted_f1'"),
        ({"fold": {}}, r"protocol.fold: unknown parameter, did you mean folds\?"),
        ({"published": [{"system": "x", "metric": "ua", "percent": 50}]}, r"protocol.published.0.source: missing"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_protocol(write(tmp_path, **changes))


def test_names_that_do_not_exist_or_come_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"protocol iemocap: no such file; expected a path to a .yaml file, or one of aesdd"
    ):
        load_protocol("iemocap")
    with pytest.raises(UserError, match=r"no such file"):
        load_protocol("../protocols/iemocap-loso-4")
    with pytest.raises(UserError, match=r"protocol own-2: found 2 times, expected once"):
        load_protocols([write(tmp_path), write(tmp_path)])
    with pytest.raises(UserError, match=r"own-2: no fold third; expected first, second or a number from 1 to 2"):
        find_fold(load_protocol(write(tmp_path)), "third")
    with pytest.raises(UserError, match=r"own-2: no fold 3; expected"):
        find_fold(load_protocol(write(tmp_path)), "3")
