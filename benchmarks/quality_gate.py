"""Count what the quality gate drops of 500 real continuations: python -m benchmarks.quality_gate DIR

DIR contains LibriSpeech-text/*.tsv (id, transcript) and MELD's CSV files in MELD/. The LLM of params.yaml continues 250
sentences of LibriSpeech with the prompt of stage 1, and 250 utterances of MELD, 50 of each emotion, with the prompt of
stage 2. It does not repeat answers that are in the store. The output shows the number of rows by the first rule that
drops them, for the limits that params.yaml names for a small and for a large LLM, and three examples of each rule. It
also shows how often agreement finds the emotion of the prompt.
"""

import csv
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from benchmarks.results_file import recorded
from pipeline.corpora.transcript import normalise
from pipeline.filter import __main__ as filter
from pipeline.filter.__main__ import FilterParams
from pipeline.generate import __main__ as generate
from pipeline.generate import agreement, run
from pipeline.generate.store import KEY
from pipeline.params import Alignment
from pipeline.tables import continuations, manifest, parquet

PER_KIND, SEED, EXAMPLES, SHOWN = 250, 7, 3, 150
EMOTIONS = {"neutral": "neutral", "joy": "happy", "sadness": "sad", "anger": "angry", "surprise": "surprise"}
MIN_WORDS = 3  # of an utterance
BASE: dict[str, Any] = {
    "min_duration_s": 0.5, "max_duration_s": 30.0, "max_tokens": 256, "drop_truncated": False, "drop_refusals": True,
    "drop_model_talk": True, "drop_sentence_talk": True, "max_prompt_words": 3, "max_non_text": 0.3,
    "max_other_language": 0.9, "min_agreement": None,
}  # fmt: skip
LIMITS = {
    "small": BASE | {"min_words": 1, "max_repetition": 0.5, "max_echo": None},
    "7B": BASE | {"min_words": 2, "max_repetition": 0.3, "max_echo": 0.8},
}


def librispeech(folder: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Draw random sentences."""
    lines = [line.split("\t") for file in sorted(folder.glob("*.tsv")) for line in file.read_text().splitlines()]
    return [_row("librispeech", key, text, None) for key, text in draw.sample(lines, PER_KIND)]


def meld(folder: Path, draw: random.Random) -> list[dict[str, Any]]:
    """Draw random utterances, equally many of each emotion."""
    found: dict[str, list[dict[str, Any]]] = {emotion: [] for emotion in EMOTIONS.values()}
    for file in sorted(folder.glob("*.csv")):
        for row in csv.DictReader(file.read_text(encoding="utf-8", errors="replace").splitlines()):
            emotion = EMOTIONS.get(row["Emotion"])
            if emotion and len(normalise(row["Utterance"]).split()) >= MIN_WORDS:
                key = f"{file.stem}{row['Dialogue_ID']}-{row['Utterance_ID']}"
                found[emotion].append(_row("meld", key, row["Utterance"], emotion))
    return [row for rows in found.values() for row in draw.sample(rows, PER_KIND // len(found))]


def _row(corpus: str, key: str, text: str, emotion: str | None) -> dict[str, Any]:
    empty = dict.fromkeys(manifest.SCHEMA.names)
    facts = {"id": f"{corpus}/{key}", "corpus": corpus, "text": normalise(text), "emotion": emotion}
    return {**empty, **facts, "language": "en", "duration_s": 5.0}  # a made-up duration


def answer(kind: Alignment, rows: list[dict[str, Any]], folder: Path, params_file: Path) -> tuple[pa.Table, pa.Table]:
    """Run generate; return the manifest and the continuations, ordered by id."""
    manifest_file, output = folder / f"{kind}.parquet", folder / f"{kind}.continuations.parquet"
    parquet.write(parquet.from_rows(sorted(rows, key=lambda row: str(row["id"])), manifest.SCHEMA), manifest_file)
    generate.main(kind, manifest_file, output, folder / "choices.csv", params_file)
    return manifest.read(manifest_file), parquet.read(output, continuations.SCHEMA)


def show_drops(
    kind: Alignment, utterances: pa.Table, answers: pa.Table, params_file: Path
) -> dict[str, dict[str, int]]:
    """Print and return the number of rows by the first rule that drops them; print examples for a large LLM."""
    opened = run.open_run(kind, params_file)
    found = {}
    for size, limits in LIMITS.items():
        rules = filter.make_rules(FilterParams.model_validate(limits))
        both = utterances.sort_by("id").to_pylist(), iter(answers.to_pylist())
        rows = list(filter.apply_rules(*both, opened.prompt, rules))
        counts = Counter(row["reason"] or "kept" for row in rows)
        print(f"{kind}, limits of a {size} LLM: " + ", ".join(f"{n} {reason}" for reason, n in counts.most_common()))
        found[size] = dict(counts.most_common())
    draw = random.Random(SEED)
    for reason in sorted(set(counts) - {"kept"}):
        dropped = [row for row in rows if row["reason"] == reason]
        for row in draw.sample(dropped, min(EXAMPLES, len(dropped))):
            said, answered = row["text"][:SHOWN], row["continuation"][:SHOWN].replace("\n", " ")
            print(f"  {reason} ({row['score']:.2f}): {row['emotion'] or ''} {said!r} -> {answered!r}")
    return found


def show_agreement(utterances: pa.Table, answers: pa.Table, params_file: Path) -> dict[str, Any]:
    """Print how often the likeliest class is the emotion of the prompt, by plain and by calibrated log-probability.

    Return these shares of the rows, and the number of rows of each likeliest class.
    """
    opened = run.open_run("emotion", params_file)
    assert opened.settings.agreement is not None
    store = agreement.open_scores(opened, opened.settings.agreement)
    classes = sorted(opened.classes)
    asked = agreement.questions(utterances, answers, classes, store)
    keys = pa.array([question.key for row in asked for question in row], KEY)
    logprobs = store.read(keys, {}, ["logprob"])["logprob"].to_numpy().reshape(len(asked), len(classes))
    own = np.array([classes.index(emotion) for emotion in utterances["emotion"].to_pylist()])
    # each emotion has the same number of rows, so the mean over all rows is the mean of the emotions' means
    figures: dict[str, Any] = {}
    for name, scores in (("as it is", logprobs), ("calibrated", logprobs - logprobs.mean(0))):
        found = scores.argmax(1)
        right = float(np.mean(found == own))
        counts = {classes[i]: int((found == i).sum()) for i in range(len(classes))}
        print(f"agreement, log-probability {name}: right in {100 * right:.1f} %, found {counts}")
        figures[name] = {"right_share": right, "num_rows_by_class": counts}
    shares = answers["agreement"].to_numpy()
    below = float(np.mean(shares < 1 / len(classes)))
    print(f"agreement below 1 / {len(classes)}: {100 * below:.0f} %")
    return figures | {"below_chance_share": below}


def measure(root: Path, figures: dict[str, Any]) -> None:
    """Print all results and put them into `figures`, as shares or numbers of rows."""
    draw = random.Random(SEED)
    rows: dict[Alignment, list[dict[str, Any]]] = {
        "semantic": librispeech(root / "LibriSpeech-text", draw),
        "emotion": meld(root / "MELD", draw),
    }
    sections = yaml.safe_load(Path("params.yaml").read_text())
    sections["emotions"] = list(EMOTIONS.values())
    sections["filter"]["emotion"]["min_agreement"] = 0.0  # without a limit, generate computes no agreement
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params_file = folder / "params.yaml"
        params_file.write_text(yaml.safe_dump(sections, sort_keys=False))
        for kind in rows:
            utterances, answers = answer(kind, rows[kind], folder, params_file)
            num_cut = answers["finish_reason"].to_pylist().count("length")
            print(f"{kind}: {num_cut} answers cut")
            counts = show_drops(kind, utterances, answers, params_file)
            figures[kind] = {"num_rows": len(answers), "num_cut": num_cut, "num_rows_by_reason": counts}
        figures["agreement"] = show_agreement(utterances, answers, params_file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.quality_gate DIR")
    with recorded("quality_gate") as figures:
        measure(Path(sys.argv[1]), figures)
