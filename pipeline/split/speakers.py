"""Assigns speakers to train, dev and test if no official split, list or parameter has assigned them.

A corpus with train but without dev gets dev speakers. A corpus without splits gets test and dev speakers. The order of
the speakers comes from a hash of the seed and the published speaker id. So it is the same on every machine, and under
every name of the corpus. All clips of a speaker go to one split, and so do all speakers of a dialogue. Fractions count
speakers; a fraction above 0 gives at least one speaker.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.stage import UserError
from pipeline.tables import manifest


def choose(
    table: pa.Table, corpus: str, published: Iterable[str], key: str, *, allow_missing: bool = False
) -> set[str]:
    """Return the speakers that the parameter `key` names for test.

    Raises UserError if the corpus has an official test split or lacks a speaker; with `allow_missing`, if it lacks all.
    """
    if "test" in table["split"].unique().to_pylist():
        raise UserError(f"{key}: {corpus} has an official test split; expected no speakers for it")
    speakers = set(table["speaker"].unique().to_pylist())
    named = {f"{corpus}/{speaker}" for speaker in published}
    unknown = sorted(named - speakers)
    if unknown and not (allow_missing and named & speakers):
        raise UserError(f"{key}: no speaker {unknown[0]}; expected some of {', '.join(sorted(speakers))}")
    return named & speakers


def assign_speakers(
    table: pa.Table, corpus: str, chosen: Collection[str], *, seed: int, dev_fraction: float, test_fraction: float
) -> pa.Table:
    """Assign splits to the rows of a corpus; the speakers in `chosen` go to test.

    If some rows of the corpus have a split, the rows without a split keep null. Raises UserError if train gets no
    speaker.
    """
    found = {split for split in table["split"].unique().to_pylist() if split}
    is_chosen = pc.is_in(table["speaker"], pa.array(sorted(chosen), pa.string()))
    is_free = pc.equal(table["split"], "train") if found else pc.is_null(table["split"])
    is_free = pc.and_(pc.fill_null(is_free, False), pc.invert(is_chosen))
    groups = _shuffled(_speaker_groups(table.filter(is_free)), seed)
    num_free = sum(map(len, groups))
    remaining = iter(groups)
    test = _take(remaining, 0 if found or chosen else _share(test_fraction, num_free))
    dev = _take(remaining, 0 if "dev" in found else _share(dev_fraction, num_free))
    train = [speaker for group in remaining for speaker in group]
    if groups and not train:
        raise UserError(
            f"split: {corpus}: no speaker is left for train: of {num_free} speakers, test takes {len(test)} and dev "
            f"{len(dev)}; speakers who share dialogues stay in one group, here {len(groups)} group(s)"
        )
    splits = ["test"] * len(test) + ["dev"] * len(dev) + ["train"] * len(train)
    positions = pc.index_in(table["speaker"], pa.array([*test, *dev, *train], pa.string())).combine_chunks()
    assigned = pa.array(splits, pa.string()).take(positions)
    return with_splits(table, pc.if_else(is_chosen, "test", pc.if_else(is_free, assigned, table["split"])))


def with_splits(table: pa.Table, splits: pa.Array) -> pa.Table:
    """Return the table with `splits` in the column split."""
    return table.set_column(manifest.SCHEMA.get_field_index("split"), manifest.SCHEMA.field("split"), splits)


def _speaker_groups(table: pa.Table) -> list[list[str]]:
    """Group the speakers so that all speakers of a dialogue are in one group; each group is sorted."""
    groups = {speaker: [speaker] for speaker in table["speaker"].unique().to_pylist()}
    meetings = table.filter(pc.is_valid(table["dialogue"])).group_by("dialogue", use_threads=False)
    for speakers in meetings.aggregate([("speaker", "distinct")])["speaker_distinct"].to_pylist():
        for one, other in itertools.pairwise(speakers):
            large, small = sorted((groups[one], groups[other]), key=len, reverse=True)
            if large is not small:  # a speaker changes the group at most log2(n) times
                large += small
                groups.update(dict.fromkeys(small, large))
    return [sorted(group) for group in {id(group): group for group in groups.values()}.values()]


def _shuffled(groups: Iterable[list[str]], seed: int) -> list[list[str]]:
    def key(group: list[str]) -> tuple[str, str]:
        published = group[0].partition("/")[2]
        return xxhash.xxh3_128_hexdigest(f"{seed}/{published}".encode()), group[0]

    return sorted(groups, key=key)


def _take(groups: Iterator[list[str]], num_speakers: int) -> list[str]:
    """Take whole groups until they have at least `num_speakers` speakers."""
    taken: list[str] = []
    while len(taken) < num_speakers and (group := next(groups, None)):
        taken += group
    return taken


def _share(fraction: float, num_speakers: int) -> int:
    return max(1, round(fraction * num_speakers)) if fraction > 0 else 0
