"""Speakers dealt to train, dev and test: what no official part, list or name of a speaker settles.

Dev is dealt where a corpus has train but no dev, test and dev where it has no part at all. The order hashes the
seed and the published speaker id: the same on every machine, and the same for two names of one corpus. A speaker
goes to one part whole. Fractions are of speakers, at least one where above 0.
"""

from collections.abc import Collection, Iterable

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline import manifest
from pipeline.stage import UserError


def choose(table: pa.Table, corpus: str, published: Iterable[str], key: str, *, in_part: bool = False) -> set[str]:
    """Return the speakers that the parameter `key` names for the test part.

    Raises UserError when the corpus has a test part, or lacks a speaker; with `in_part` when it lacks them all.
    """
    if "test" in table["split"].unique().to_pylist():
        raise UserError(f"{key}: {corpus} has an official test part; expected no speakers for it")
    speakers = set(table["speaker"].unique().to_pylist())
    named = {f"{corpus}/{speaker}" for speaker in published}
    unknown = sorted(named - speakers)
    if unknown and not (in_part and named & speakers):
        raise UserError(f"{key}: no speaker {unknown[0]}; expected some of {', '.join(sorted(speakers))}")
    return named & speakers


def deal(
    table: pa.Table, corpus: str, chosen: Collection[str], *, seed: int, dev_fraction: float, test_fraction: float
) -> pa.Table:
    """Give parts to the rows of a corpus, test to the speakers in `chosen`.

    A row without a part, in a corpus that has them, stays without. Raises UserError where no speaker is left to
    train on.
    """
    found = {part for part in table["split"].unique().to_pylist() if part}
    is_chosen = pc.is_in(table["speaker"], pa.array(sorted(chosen), pa.string()))
    is_free = pc.equal(table["split"], "train") if found else pc.is_null(table["split"])
    is_free = pc.and_(pc.fill_null(is_free, False), pc.invert(is_chosen))
    free = _shuffled(table.filter(is_free)["speaker"].unique().to_pylist(), seed)
    num_test = 0 if found or chosen else _share(test_fraction, len(free))
    num_dev = 0 if "dev" in found else _share(dev_fraction, len(free))
    if free and num_test + num_dev >= len(free):
        raise UserError(
            f"split: {corpus}: expected speakers left for train, found {len(free)}, "
            f"of which test takes {num_test} and dev {num_dev}"
        )
    parts = ["test"] * num_test + ["dev"] * num_dev + ["train"] * (len(free) - num_test - num_dev)
    positions = pc.index_in(table["speaker"], pa.array(free, pa.string())).combine_chunks()
    dealt = pa.array(parts, pa.string()).take(positions)
    return with_parts(table, pc.if_else(is_chosen, "test", pc.if_else(is_free, dealt, table["split"])))


def with_parts(table: pa.Table, parts: pa.Array) -> pa.Table:
    """Put `parts` in the place of the column split."""
    return table.set_column(manifest.SCHEMA.get_field_index("split"), manifest.SCHEMA.field("split"), parts)


def _shuffled(speakers: Iterable[str], seed: int) -> list[str]:
    def key(speaker: str) -> tuple[str, str]:
        published = speaker.partition("/")[2]
        return xxhash.xxh3_128_hexdigest(f"{seed}/{published}".encode()), speaker

    return sorted(speakers, key=key)


def _share(fraction: float, num_speakers: int) -> int:
    return max(1, round(fraction * num_speakers)) if fraction > 0 else 0
