from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from pipeline import params
from pipeline.stage import UserError


class PackParams(params.Section):
    rows_per_shard: Annotated[int, Field(ge=1)]
    fraction: float


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def test_a_section_or_one_inside_it_is_read(file: Path) -> None:
    file.write_text("pack: {rows_per_shard: 2, fraction: 1}\nfilter: {emotion: {rows_per_shard: 3, fraction: 0.5}}\n")
    assert params.load(file, "pack", PackParams) == PackParams(rows_per_shard=2, fraction=1.0)
    assert params.load(file, "filter.emotion", PackParams).rows_per_shard == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pack: {rows_per_shard: 0, fraction: 1}", "pack.rows_per_shard: expected greater than or equal to 1, found 0"),
        ("pack: {rows_per_shard: '2', fraction: 1}", "pack.rows_per_shard: expected a valid integer, found '2'"),
        ("pack: {rows_per_shards: 2, fraction: 1}", "rows_per_shards: unknown parameter, did you mean rows_per_shard?"),
        ("pack: {fraction: 1}", "pack.rows_per_shard: missing"),
        ("pack: {rows_per_shard: 0, fraction: a}", "found 0; pack.fraction: expected a valid number, found 'a'"),
        ("filter: {}", "section pack is missing"),
        ("pakc: {}", r"pakc: unknown section, did you mean pack\?"),
        ("pack: [", "not valid YAML"),
        ("", "expected sections, found NoneType"),
    ],
)
def test_mistakes_are_told_with_file_parameter_found_and_expected(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        params.load(file, "pack", PackParams)
    assert str(raised.value).startswith(str(file))


def test_a_missing_or_binary_file_is_told(file: Path) -> None:
    with pytest.raises(UserError, match="no such parameter file"):
        params.load(file, "pack", PackParams)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid YAML"):
        params.load(file, "pack", PackParams)
