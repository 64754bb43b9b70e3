"""A corpus as a table in CSV, TSV, JSONL or Parquet: each row is an utterance. See pipeline/corpora/mapping.py."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora import table_rows
from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.mapping import describe, find_fields, read_mapping
from pipeline.stage import UserError


def open_table(root: Path, table: Path | None, mapping: Path) -> Corpus:
    """Describe the corpus in a table; raises UserError if the table does not fit the mapping."""
    options = read_mapping(mapping)
    if table is None and options.table is None:
        raise UserError(f"{mapping}: table: missing; expected the table's name here, or --table")
    path = table or root / str(options.table)
    header = f"{path}: line 1" if path.suffix.lower() in (".csv", ".tsv") else str(path)
    fields = find_fields(options, table_rows.columns(path, options.encoding), header, mapping)

    def read(root: Path) -> Iterator[Clip]:
        found = False
        for record in table_rows.read(path, options.encoding):
            found = True
            yield fields.clip(record)
        if not found:
            raise UserError(f"{path}: found no rows; expected one for each clip")

    return describe(path.name, fields, str(path), read)
