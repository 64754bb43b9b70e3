import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.stage import UserError
from pipeline.tables import continuations, manifest, quarantine
from tests.builders import write_table


def rows_of(text: str, heading: str) -> list[tuple[str, ...]]:
    """The table under a heading, a row a tuple, without its head."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|")) for line in re.findall(r"^\|.*", section, re.M)
    ]
    return cells[2:]


def test_the_readme_explains_the_columns_of_the_code(root: Path) -> None:
    text = (root / "manifests" / "README.md").read_text()
    expected = [(column.name, str(column.type), column.meaning) for column in manifest.COLUMNS]
    assert rows_of(text, "Columns of a manifest") == expected


def test_the_readme_explains_the_columns_of_continuations(root: Path) -> None:
    found = [row[0] for row in rows_of((root / "manifests" / "README.md").read_text(), "Continuations")]
    assert found == [*continuations.SCHEMA.names, *continuations.SIGNALS_SCHEMA.names]


def test_the_readme_explains_the_reasons_of_the_quarantine(root: Path) -> None:
    found = rows_of((root / "manifests" / "README.md").read_text(), "Quarantine")
    assert found == list(quarantine.REASONS.items())


def test_an_empty_manifest_is_told(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", [])
    with pytest.raises(UserError, match=r"a\.parquet: no rows"):
        manifest.read(tmp_path / "a.parquet")


def test_columns_are_stated_once() -> None:
    assert len(set(manifest.SCHEMA.names)) == len(manifest.COLUMNS)
    assert manifest.SCHEMA.field("duration_s").type == pa.float64()
