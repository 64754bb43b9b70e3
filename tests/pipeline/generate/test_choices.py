from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.generate import choices
from pipeline.stage import UserError


def test_choices_made_at_once_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "choices.csv"

    def choose(first: int) -> None:
        for number in range(first, first + 20):
            choices.add(file, "signature", {number.to_bytes(16): 2})

    processes = [get_context("fork").Process(target=choose, args=(first,)) for first in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(choices.read(file, "signature")) == 40


@pytest.mark.parametrize("line", ["x,zz,1", "x,00,one", "x,00", "recipe,key,generation"])
def test_a_line_that_is_no_choice_is_told(tmp_path: Path, line: str) -> None:
    file = tmp_path / "choices.csv"
    file.write_text(f"recipe,key,generation\n{line}\n")
    with pytest.raises(UserError, match=rf"choices\.csv: line 2: expected recipe,key,generation, found {line}"):
        choices.read(file, "x")


def test_the_choices_of_another_signature_are_not_read_and_stay(tmp_path: Path) -> None:
    file = tmp_path / "choices.csv"
    assert choices.read(file, "one") == {}
    choices.add(file, "one", {b"a": 2})
    choices.add(file, "other", {b"a": 3})
    choices.add(file, "one", {b"a": 4, b"b": 2})
    assert choices.read(file, "one") == {b"a": 4, b"b": 2}
    assert choices.read(file, "other") == {b"a": 3}
