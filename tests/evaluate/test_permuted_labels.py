"""With labels that are moved among the clips, every accuracy of every system is that of chance, and few p are small."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from evaluate import own_answers
from evaluate.claims import RECOGNITION_PAIRS, compare_own_answers, compare_recognition
from evaluate.counterfactuals import COUNTERFACTUAL, score_counterfactuals
from evaluate.counterfactuals import SYSTEMS as COUNTERFACTUAL_SYSTEMS
from evaluate.groups import FACTS_SCHEMA, score_groups
from evaluate.metrics import score_prompts, score_recognition
from evaluate.own_answers import OWN_ANSWERS, score_own_answers
from evaluate.predictions import OWN_SYSTEMS, PROMPTS_SCHEMA, SYSTEMS
from pipeline.tables import parquet
from tests.builders import CLASSES, recognition_table, utterance
from tests.evaluate.test_own_answers import acted, table_of

CONFIDENCE, ROUNDS = 0.95, 200
Found = Mapping[str, list[float]]
"""system or group -> its accuracy less chance in each round"""


def moved(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Move the label of each clip to another one, the same for all systems."""
    first = table.group_by("id", use_threads=False).aggregate([("emotion", "first")])
    labels = pa.array(rng.permutation(first["emotion_first"].to_pylist()).tolist())
    emotions = labels.take(pc.index_in(table["id"], value_set=first["id"].combine_chunks()).combine_chunks())
    return table.set_column(table.schema.get_field_index("emotion"), "emotion", emotions)


def check_chance(above_chance: Found, num_expected: int) -> None:
    assert len(above_chance) == num_expected
    for name, values in above_chance.items():
        assert len(values) == ROUNDS
        assert 0.005 < np.std(values) < 0.2, name
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(ROUNDS), name


def parsable(table: pa.Table) -> pa.Table:
    """Let each answer without a label name a class, so that no system is below chance."""
    named = table["predicted"].fill_null(CLASSES[0])
    return table.set_column(table.schema.get_field_index("predicted"), "predicted", named)


def own_table(rng: np.random.Generator) -> pa.Table:
    """Make up own answers of systems that prefer the true emotion, as some speakers do more than others."""
    rows = acted(num_speakers=8)
    return table_of(rows, lambda _, row: (rng.normal(0, 1, 4) + 2 * (np.array(CLASSES) == row["emotion"])).tolist())


def test_every_system_of_recognition_is_at_chance() -> None:
    """An answer without a label is always wrong."""
    rng, table = np.random.default_rng(0), recognition_table()
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        scores = score_recognition(moved(table, rng), CLASSES, CONFIDENCE).metrics["emotion_acted"]
        for system in SYSTEMS:
            of_system = scores[system.name]
            found[system.name].append(of_system["ua"] - scores["chance"]["ua"] * (1 - of_system["unparsable"]))
    check_chance(found, len(SYSTEMS))


def test_every_system_of_own_answers_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_answers, "PERMUTATIONS", 1)
    rng = np.random.default_rng(0)
    table = own_table(rng)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        scores = score_own_answers(moved(table, rng), CLASSES, CONFIDENCE).metrics[f"{OWN_ANSWERS}acted"]
        for system in OWN_SYSTEMS:
            for metric in ("ua", "ua_raw", "ua_unnamed"):
                chance = scores["chance"].get(metric, scores["chance"]["ua"])
                found[f"{system} {metric}"].append(scores[system][metric] - chance)
    check_chance(found, 3 * len(OWN_SYSTEMS))


def test_counterfactual_choices_are_at_chance_if_the_scores_are_noise() -> None:
    """Moved labels would not do: pairs of equal choices are never both right, whatever the labels are.

    The two clips of a pair have the same mean subtracted, whose noise makes equal choices likelier. So the share of
    changes is below chance for few speakers. It must not be above.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        table = table_of(acted(), lambda *_: rng.normal(0, 1, 4).tolist(), COUNTERFACTUAL_SYSTEMS)
        scores = score_counterfactuals(table, CLASSES, CONFIDENCE)[f"{COUNTERFACTUAL}acted"]
        for system in COUNTERFACTUAL_SYSTEMS:
            for metric in ("changes", "toward"):
                found[f"{system} {metric}"].append(scores[system][metric] - scores["chance"][metric])
    changes = {name: found.pop(name) for name in list(found) if name.endswith("changes")}
    assert [-0.03 < np.mean(values) < 0 for values in changes.values()] == [True] * len(COUNTERFACTUAL_SYSTEMS)
    check_chance(found, len(COUNTERFACTUAL_SYSTEMS))


def test_every_prompt_is_at_chance_also_the_one_that_dev_chooses() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"id": f"acted/{split}{i}", "corpus": "acted", "speaker": f"acted/{i % 4}", "emotion": CLASSES[i % 4]}
        | {"split": split, "prompt": f"{prompt}-0"}
        | {"scores": (rng.normal(0, 1, 4) + prompt * np.eye(4)[i % 4]).tolist()}
        for split in ("dev", "test")
        for i in range(40)
        for prompt in range(3)
    ]
    table = parquet.from_rows(rows, PROMPTS_SCHEMA)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        splits = [moved(table.filter(pc.field("split") == split), rng) for split in ("dev", "test")]
        scores = score_prompts(pa.concat_tables(splits), CLASSES, CONFIDENCE)["emotion_acted"]["logprob_prompts"]
        for metric in ("mean", "chosen"):
            found[metric].append(scores[metric] - 0.25)
    check_chance(found, 2)


def test_every_group_is_at_chance() -> None:
    rng, table = np.random.default_rng(0), parsable(recognition_table()).filter(pc.field("system") == "head")
    own = own_table(rng).filter(pc.field("system") == "voice")
    ids = [*table["id"].unique().to_pylist(), *own["id"].unique().to_pylist()]
    facts = parquet.from_rows(
        [
            utterance(key, gender=("female", "male")[place % 2], duration_s=float(place % 7))
            | {"speaker": f"{place % 5}"}
            for place, key in enumerate(ids)
        ],
        FACTS_SCHEMA,
    )
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        groups = score_groups(moved(table, rng), moved(own, rng), facts, {"1", "2"}, CLASSES, CONFIDENCE)
        for name, scores in groups.metrics.items():
            found[name].append(scores["voice" if OWN_ANSWERS in name else "head"]["ua"] - 0.25)
    check_chance(found, 2 * (2 + 3 + 2))


def test_few_comparisons_have_a_small_p() -> None:
    rng = np.random.default_rng(0)
    compared_systems = [name for pair in RECOGNITION_PAIRS for name in pair]
    recognised = parsable(recognition_table(speakers=8))
    recognised = recognised.filter(pc.is_in(recognised["system"], value_set=pa.array(compared_systems)))
    own = own_table(rng)
    p: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        compared = compare_recognition(moved(recognised, rng), CLASSES, CONFIDENCE)["claims_emotion_acted"]
        compared |= compare_own_answers(moved(own, rng), CLASSES, CONFIDENCE)[f"claims_{OWN_ANSWERS}acted"]
        for pair, score in compared.items():
            p[pair].append(score["p"])
    assert {"logprob_minus_transcript_logprob", "voice_minus_chance", "voice_minus_silence"} <= p.keys()
    for pair, values in p.items():
        assert np.mean(np.array(values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / ROUNDS), pair
        assert np.mean(values) > 0.4, pair
