"""The tables of marks and choices: judge writes them, score reads them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from evaluate.predictions import WRITTEN_SCHEMA
from evaluate.table_checks import check_once, first
from pipeline.stage import UserError
from pipeline.tables import parquet

_ASKED = (
    ("repeat", pa.int32()),  # from 1; each repeat has another seed
    ("seed", pa.int64()),  # null if the judge's decoding is greedy
    ("judge", pa.string()),  # model and revision of the judge, or a hash of its weights
    ("prompt", pa.string()),  # hash of all that the judge read
    ("reply", pa.string()),  # as the judge wrote it
)
MARKS_SCHEMA = pa.schema(
    [
        *WRITTEN_SCHEMA,
        *_ASKED,
        ("quality", pa.int32()),  # 0 to 10; null if the reply holds no marks
        ("empathy", pa.int32()),  # the same
    ]
)
"""The judge's marks of answers. In the marks of the exam, the corpus is "exam", and each item has its own speaker."""

PAIRS_SCHEMA = pa.schema(
    [
        *WRITTEN_SCHEMA,
        ("other", pa.string()),  # the system whose answer to the same clip is compared
        ("other_answer", pa.string()),
        ("is_first", pa.bool_()),  # whether `answer` was shown as A, and `other_answer` as B
        *_ASKED,
        ("choice", pa.string()),  # one of CHOICES; null if the reply holds no choice
    ]
)
"""The judge's choices between two answers; each two are shown in both orders."""
CHOICES = ("A", "B", "tie")
RANDOM_LABEL, TRUE_LABEL = "random_label", "true_label"
"""Systems of the stage judge: the LLM reads the transcript, and is told a random emotion of the run or the true one."""
EXAM = "exam"
"""The corpus of the rows of the judge's exam."""
WARM, COLD, EQUAL = "warm", "cold", "equal"
"""Systems of the exam: the better answer of a pair, the worse one, and an answer that is compared with itself."""
EXAM_MARKS, EXAM_PAIRS, MARKS, PAIRS = "exam_marks.parquet", "exam_pairs.parquet", "marks.parquet", "pairs.parquet"
"""The tables in the folder of the stage judge."""


def read_marks(path: Path) -> pa.Table:
    """Read the judge's marks; check that they are 0 to 10, or both missing. The table may be empty."""
    table = parquet.read(path, MARKS_SCHEMA, allow_empty=True)
    both = pc.equal(pc.is_null(table["quality"]), pc.is_null(table["empathy"]))
    for name in ("quality", "empathy"):
        in_range = pc.and_(pc.greater_equal(table[name], 0), pc.less_equal(table[name], 10))
        for row in first(table, pc.invert(pc.and_(both, pc.fill_null(in_range, True)))):
            raise UserError(f"{path}: {row['id']}: {name}: found {row[name]}, expected 0 to 10, or no mark at all")
    check_once(path, table, ["system", "id", "repeat"])
    return table


def read_pairs(path: Path) -> pa.Table:
    """Read the judge's choices; check that each is one of CHOICES or missing. The table may be empty."""
    table = parquet.read(path, PAIRS_SCHEMA, allow_empty=True)
    for row in first(table, pc.invert(pc.is_in(table["choice"], value_set=pa.array([*CHOICES, None], pa.string())))):
        raise UserError(f"{path}: {row['id']}: choice: found {row['choice']}, expected one of {', '.join(CHOICES)}")
    check_once(path, table, ["system", "id", "repeat", "is_first"])
    return table
