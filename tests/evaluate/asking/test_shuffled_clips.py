"""The choice of wrong clips: who speaks them, how long they are, and how fast they are found."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evaluate.asking.shuffled_clips import tell_missing, wrong_clips


def clips(*rows: tuple[str, str], corpus: str = "c", lengths: Sequence[int] = ()) -> list[dict[str, Any]]:
    return [
        {"id": f"{corpus}/{i}", "corpus": corpus, "speaker": speaker, "emotion": emotion}
        | {"num_samples": lengths[i] if lengths else 1}
        for i, (speaker, emotion) in enumerate(rows)
    ]


def test_a_wrong_clip_differs_in_speaker_and_emotion() -> None:
    rows = clips(("a", "sad"), ("a", "happy"), ("b", "sad"), ("b", "happy"))
    for seed in range(5):
        assert wrong_clips(rows, ("speaker", "emotion"), seed) == [(0, 3), (1, 2), (2, 1), (3, 0)]


def test_a_wrong_clip_comes_from_the_same_corpus_if_possible() -> None:
    rows = [*clips(("a", "sad"), ("b", "sad")), *clips(("x", "happy"), ("y", "sad"), corpus="d")]
    chosen = {tuple(wrong_clips(rows, ("speaker", "emotion"), seed)) for seed in range(20)}
    assert chosen == {((0, 2), (1, 2), (2, 3), (3, 2))}


def test_one_of_the_clips_of_the_most_similar_length_is_drawn() -> None:
    rows = clips(*((f"{i}", "sad") for i in range(5)), lengths=[10, 11, 30, 31, 12])
    chosen = {
        tuple(clip for _, clip in wrong_clips(rows, ("speaker",), seed, similar="num_samples")) for seed in range(9)
    }
    assert chosen == {(1, 0, 3, 2, 1), (1, 4, 3, 2, 1)}


def test_rows_without_a_wrong_clip_are_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = clips(("a", "sad"), ("a", "happy"), ("b", "sad"))
    pairs = wrong_clips(rows, ("speaker", "emotion"), 1)
    assert pairs == [(1, 2), (2, 1)]
    tell_missing("emotion", rows, pairs, "another speaker")
    assert capsys.readouterr().out == (
        "respond: emotion: found no wrong clip for 1 of 3 test clips, expected another speaker; "
        "these clips are not in this control: c/0\n"
    )
    tell_missing("emotion", clips(*[("a", "sad")] * 12), [], "another speaker")
    assert capsys.readouterr().out.endswith("c/8, c/9 and 2 more\n")


def searched(rows: list[dict[str, Any]], differ: Sequence[str], seed: int, similar: str | None) -> list[Any]:
    """Find the wrong clips by a look at every row for every row."""
    generator, pairs = np.random.Generator(np.random.PCG64(seed)), []
    for number, row in enumerate(rows):
        may = [i for i, other in enumerate(rows) if all(other[name] != row[name] for name in differ)]
        may = [i for i in may if rows[i]["corpus"] == row["corpus"]] or may
        if similar is not None and may:
            nearest = min(abs(rows[i][similar] - row[similar]) for i in may)
            may = [i for i in may if abs(rows[i][similar] - row[similar]) == nearest]
        if may:
            pairs.append((number, may[generator.integers(len(may))]))
    return pairs


@pytest.mark.parametrize("differ", [("speaker", "emotion"), ("speaker",)])
@pytest.mark.parametrize("similar", [None, "num_samples"])
def test_wrong_clips_are_those_of_a_search_through_all_rows(differ: Sequence[str], similar: str | None) -> None:
    generator, num_lacking = np.random.default_rng(0), 0
    for seed in range(200):
        limits = generator.integers(1, 6, 3).tolist()
        drawn = [[int(generator.integers(limit)) for limit in (2, *limits)] for _ in range(generator.integers(25))]
        rows = [dict(zip(("corpus", "speaker", "emotion", "num_samples"), row, strict=True)) for row in drawn]
        found = wrong_clips(rows, differ, seed, similar=similar)
        assert found == searched(rows, differ, seed, similar)
        num_lacking += len(rows) - len(found)
    assert num_lacking > 0


def test_wrong_clips_of_ten_thousand_rows_are_found_in_two_seconds() -> None:
    """LibriSpeech's two test splits have 5,559 clips of 73 speakers. Time does not grow with the square."""
    times = []
    for count in (10_000, 100_000):
        rows = clips(*((f"{i % 73}", f"text {i}") for i in range(count)), lengths=range(count))
        started = time.perf_counter()
        assert len(wrong_clips(rows, ("speaker", "emotion"), 1, similar="num_samples")) == count
        times.append(time.perf_counter() - started)
    assert times[0] < 2
    assert times[1] < 40 * times[0]  # 100 if time grew with the square
