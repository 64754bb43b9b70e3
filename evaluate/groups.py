"""Accuracies of groups of test clips: of one gender, of one third of the durations of a corpus, or of known speakers.

The key of a test is GROUP/TEST, such as gender=female/emotion_<corpus> or duration=short/own_answers_<corpus>. The
groups speaker=trained and speaker=new are made only if a test speaker of the corpus also speaks in a train split.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evaluate.metrics import Metrics, score_recognition
from evaluate.own_answers import OWN_ANSWERS, less_mean, score_accuracy, select_clips
from evaluate.predictions import OWN_ANSWERS_SCHEMA
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet

MIN_CLIPS = 10
"""A group of fewer clips has no scores."""
FACTS_SCHEMA = pa.schema(
    [manifest.SCHEMA.field(name) for name in ("id", "speaker", "gender", "duration_s", "emotion_votes")]
)
"""The columns of the manifest that say in which group a clip is; score also reads the votes."""
_SPEAKERS_SCHEMA = pa.schema([manifest.SCHEMA.field(name) for name in ("speaker", "split")])
TRAINED, NEW = "speaker=trained", "speaker=new"
_KEPT = ("ua", "ua_low", "ua_high", "n", "speakers")
_THIRDS = pa.array(["short", "medium", "long"])


@dataclass(frozen=True, slots=True)
class Groups:
    """The scores of groups, and the names of the tests of groups that are too small."""

    metrics: Metrics = field(default_factory=dict)
    too_small: list[str] = field(default_factory=list)


def read_trained_speakers(manifests: Path) -> set[str]:
    """Return the speakers of the train splits of both stages of training."""
    tables = (parquet.read(manifests / f"{kind}.parquet", _SPEAKERS_SCHEMA) for kind in ("semantic", "emotion"))
    return {
        speaker
        for table in tables
        for speaker in table.filter(pc.field("split") == "train")["speaker"].unique().to_pylist()
    }


def score_groups(
    recognised: pa.Table,
    own: pa.Table | None,
    facts: pa.Table,
    trained: Collection[str],
    emotions: Sequence[str],
    confidence: float,
) -> Groups:
    """Score the unweighted accuracy of all systems of recognition, and of the voice in own answers, in each group.

    `trained` are the speakers of training.
    """
    found = Groups()
    for corpus in sorted(recognised["corpus"].unique().to_pylist()):
        rows = recognised.filter(pc.field("corpus") == corpus)
        for group, ids in _ids_by_group(rows["id"].unique(), facts, trained).items():
            of_group = rows.filter(pc.is_in(rows["id"], value_set=ids))
            scores = score_recognition(of_group, emotions, confidence).metrics[f"emotion_{corpus}"]
            systems = {
                system: {name: value for name, value in of.items() if name in _KEPT} for system, of in scores.items()
            }
            _note(found, f"{group}/emotion_{corpus}", len(ids), systems)
    of_voice = OWN_ANSWERS_SCHEMA.empty_table() if own is None else own.filter(pc.field("system") == "voice")
    for corpus in sorted(of_voice["corpus"].unique().to_pylist()):
        rows = of_voice.filter(pc.field("corpus") == corpus).sort_by("id")
        clips = less_mean(select_clips(rows, "voice", emotions))[0]
        for group, ids in _ids_by_group(rows["id"], facts, trained).items():
            of_group = clips.where(pc.is_in(rows["id"], value_set=ids).to_numpy())
            sizes = {"n": len(ids), "speakers": len(set(of_group.speakers))}
            systems = {"voice": score_accuracy("ua", of_group, confidence) | sizes}
            _note(found, f"{group}/{OWN_ANSWERS}{corpus}", len(ids), systems)
    return found


def _note(found: Groups, test: str, num_clips: int, systems: dict[str, dict[str, float]]) -> None:
    if num_clips < MIN_CLIPS:
        found.too_small.append(test)
    else:
        found.metrics[test] = systems


def _ids_by_group(ids: pa.ChunkedArray | pa.Array, facts: pa.Table, trained: Collection[str]) -> dict[str, pa.Array]:
    """Return the ids of each group; a clip of unknown gender is in no group of gender."""
    places = pc.index_in(ids, value_set=facts["id"].combine_chunks())
    if missing := ids.filter(pc.is_null(places)).to_pylist():
        raise UserError(
            f"manifests: emotion.parquet: found no row of the test clip {missing[0]}, expected every test clip"
        )
    of_clips = facts.take(places)
    durations = of_clips["duration_s"].to_numpy()
    third = np.searchsorted(np.quantile(durations, [1 / 3, 2 / 3]), durations)
    names = {"gender": of_clips["gender"], "duration": _THIRDS.take(pa.array(third))}
    found = {
        f"{kind}={name}": of_clips["id"].filter(pc.equal(column, name)).combine_chunks()
        for kind, column in names.items()
        for name in sorted(value for value in column.unique().to_pylist() if value is not None)
    }
    is_trained = pc.is_in(of_clips["speaker"], value_set=pa.array(trained, pa.string()))
    if pc.any(is_trained).as_py():
        for name, is_in in ((TRAINED, is_trained), (NEW, pc.invert(is_trained))):
            found[name] = of_clips["id"].filter(is_in).combine_chunks()
    return {name: members for name, members in found.items() if len(members)}
