"""A Parquet file whose end is whole and whose pages are not is told in one line by every command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.commands import diff, sample, show
from pipeline.stage import UserError


@pytest.fixture
def manifests(tmp_path: Path, speak: Callable[..., Path], take_in: Callable[..., Any]) -> tuple[Path, Path]:
    """A whole manifest, and a copy with damaged pages."""
    for i in range(3):
        speak(tmp_path / "c" / f"{i}.wav")
    (tmp_path / "c" / "c.csv").write_text("audio,speaker,text\n" + "".join(f"{i}.wav,s,hello\n" for i in range(3)))
    take_in("table", tmp_path / "c", "table: c.csv\n")
    whole, damaged = tmp_path / "taken" / "x.parquet", tmp_path / "bad.parquet"
    content = bytearray(whole.read_bytes())
    group = pq.ParquetFile(whole).metadata.row_group(0)
    for column in (group.column(i) for i in range(group.num_columns)):
        if column.path_in_schema in ("text", "speaker", "duration_s"):
            start = min(offset for offset in (column.data_page_offset, column.dictionary_page_offset) if offset)
            content[start : start + 40] = b"\xff" * 40
    damaged.write_bytes(content)
    return whole, damaged


@pytest.mark.parametrize("run", ["sample", "where", "diff", "show"])
def test_every_command_names_the_damaged_file(manifests: tuple[Path, Path], run: str) -> None:
    whole, damaged = manifests
    commands: dict[str, Callable[[], object]] = {
        "sample": lambda: sample.draw(damaged, 2, 1, None),
        "where": lambda: sample.draw(damaged, 2, 1, "duration_s > 0"),
        "diff": lambda: diff.compare(whole, damaged, 5),
        "show": lambda: show.summarise(damaged),
    }
    with pytest.raises(UserError, match=r"bad\.parquet: not readable"):
        commands[run]()
