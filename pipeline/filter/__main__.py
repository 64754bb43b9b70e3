"""Filter: keep the continuations that are usable as targets. Drop the others, each with a reason and a score."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
import typer
from pydantic import Field, model_validator

from pipeline import params
from pipeline.filter import scores
from pipeline.params import Alignment, ParamsFile, Section
from pipeline.progress import track
from pipeline.prompts import Prompt
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import continuations, manifest, parquet
from pipeline.tables.continuations import LENGTH
from pipeline.weights.chat_template import has_thoughts

Row = Mapping[str, Any]
Share = Annotated[float, Field(ge=0, le=1)]

_READ = pa.schema(
    [manifest.SCHEMA.field(name) for name in ("id", "corpus", "text", "language", "emotion", "duration_s")]
)


class FilterParams(Section):
    """The section `filter.<kind>`; null means no limit. pipeline/filter/scores.py explains the scores."""

    min_duration_s: Annotated[float, Field(ge=0)]
    max_duration_s: Annotated[float, Field(le=30)]  # Whisper's window
    max_tokens: Annotated[int, Field(gt=0)]
    """Largest number of tokens in the transcript's prompt and the continuation together."""
    min_words: Annotated[int, Field(ge=1)]
    drop_truncated: bool
    """Drop continuations cut at generate.max_new_tokens.

    If they are kept, the model is trained on them without an end token.
    """
    drop_refusals: bool
    drop_model_talk: bool
    drop_sentence_talk: bool
    max_prompt_words: Annotated[int, Field(ge=0)] | None
    """Longest run of words that a continuation may share with the prompt around the transcript."""
    max_non_text: Share | None
    max_other_language: Share | None
    max_repetition: Share | None
    max_echo: Share | None
    min_agreement: Share | None
    """Lowest allowed probability that the LLM gives to the requested emotion (pipeline/generate/agreement.py).

    With k classes, chance is 1 / k.
    """

    @model_validator(mode="after")
    def _check_durations(self) -> Self:
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(f"min_duration_s below max_duration_s = {self.max_duration_s}")
        return self


@dataclass(frozen=True, slots=True)
class Rule:
    """A reason to drop a row: a score outside its limits."""

    reason: str
    score: Callable[[Row], float]
    lowest: float | None = None
    highest: float | None = None


def make_rules(settings: FilterParams) -> list[Rule]:
    """Return the rules in the order in which they apply; those without a limit are left out."""
    only_none = {True: 0.0, False: None}
    rules = [
        Rule("clip too short", lambda row: row["duration_s"], lowest=settings.min_duration_s),
        Rule("clip too long", lambda row: row["duration_s"], highest=settings.max_duration_s),
        Rule("empty", lambda row: len(row["continuation"]), lowest=1),
        Rule("thought", lambda row: has_thoughts(row["continuation"]), highest=0),
        Rule("truncated", lambda row: row["finish_reason"] == LENGTH, highest=only_none[settings.drop_truncated]),
        Rule("refusal", lambda row: scores.refusal(row["continuation"]), highest=only_none[settings.drop_refusals]),
        Rule(
            "model talk",
            lambda row: scores.model_talk(row["continuation"]),
            highest=only_none[settings.drop_model_talk],
        ),
        Rule(
            "sentence talk",
            lambda row: scores.sentence_talk(row["continuation"]),
            highest=only_none[settings.drop_sentence_talk],
        ),
        Rule(
            "prompt leak",
            lambda row: scores.prompt_leak(row["continuation"], row["prompt"]),
            highest=settings.max_prompt_words,
        ),
        Rule("no text", lambda row: scores.non_text(row["continuation"]), highest=settings.max_non_text),
        Rule("too few words", lambda row: len(scores.words(row["continuation"])), lowest=settings.min_words),
        Rule(
            "other language",
            lambda row: scores.other_language(row["continuation"], row["language"] or "en"),
            highest=settings.max_other_language,
        ),
        Rule("repetition", lambda row: scores.repetition(row["continuation"]), highest=settings.max_repetition),
        Rule("echo", lambda row: row["echo"], highest=settings.max_echo),
        Rule(
            "other emotion",
            lambda row: 1.0 if row["agreement"] is None else row["agreement"],
            lowest=settings.min_agreement,
        ),
        Rule("too many tokens", lambda row: row["num_tokens"], highest=settings.max_tokens),
    ]
    return [rule for rule in rules if rule.lowest is not None or rule.highest is not None]


def first_broken_rule(row: Row, rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the reason to drop a row, and the score outside its limit; both are None if the row is kept."""
    if row["finish_reason"] in continuations.NOT_GENERATED:
        return {"reason": row["finish_reason"], "score": None}
    for rule in rules:
        score = float(rule.score(row))
        if (rule.lowest is not None and score < rule.lowest) or (rule.highest is not None and score > rule.highest):
            return {"reason": rule.reason, "score": score}
    return {"reason": None, "score": None}


def apply_rules(
    utterances: Iterable[Row], answers: Iterator[Row], prompt: Prompt, rules: Sequence[Rule]
) -> Iterator[dict[str, Any]]:
    """Yield the row of `answers` for each utterance, with `echo`, `reason` and `score`; both are in the order of ids.

    Raises UserError if an utterance has no answer.
    """
    for utterance, (answer,) in parquet.joined(utterances, answers):
        if answer is None:
            raise UserError(f"{utterance['id']}: found no continuation, expected one; run generate on this manifest")
        row = {**utterance, **answer}
        row["echo"] = scores.echo(row["continuation"], row["text"] or "")
        row["prompt"] = f"{prompt.system}\n{prompt.text.replace('{emotion}', row['emotion'] or '')}"
        row["num_tokens"] = (row["num_prompt_tokens"] or 0) + len(row["token_ids"])
        yield row | first_broken_rule(row, rules)


class Counts:
    """The rows before and after the filter, by corpus and emotion, and the dropped rows by reason."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, int]]] = {}
        self.reasons: Counter[str] = Counter()
        self.before = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        cell = self.rows.setdefault(row["corpus"], {}).setdefault(row["emotion"] or "none", {"before": 0, "after": 0})
        cell["before"] += 1
        cell["after"] += row["reason"] is None
        self.before += 1
        if row["reason"] is not None:
            self.reasons[row["reason"]] += 1

    @property
    def after(self) -> int:
        """Number of rows that were kept."""
        return self.before - self.reasons.total()


def main(
    kind: Annotated[Alignment, typer.Option(help="Which prompt and limits: semantic (stage 1) or emotion (stage 2).")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="The utterances.")],
    continuations_file: Annotated[Path, typer.Option("--continuations", help="Their continuations.")],
    kept: Annotated[Path, typer.Option(help="Output: the table of the usable continuations.")],
    dropped: Annotated[Path, typer.Option(help="Output: the table of the others, with reasons and scores.")],
    metrics: Annotated[Path, typer.Option(help="Output: the JSON file of the counts.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Keep the continuations that are usable as targets, and write down why the others are not."""
    settings = params.load(params_file, f"filter.{kind}", FilterParams)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    total = parquet.num_rows(manifest_file)
    if settings.min_agreement is not None and parquet.is_null(continuations_file, "agreement"):
        raise UserError(
            f"filter.{kind}.min_agreement: {continuations_file} has no agreement scores; turn on generate.agreement, "
            "which scores emotional speech, or set this limit to null"
        )
    utterances = parquet.rows_by_id(manifest_file, _READ)
    answers = parquet.rows_by_id(continuations_file, continuations.SCHEMA, optional=continuations.SIGNALS_SCHEMA)
    signals = [field for field in continuations.SIGNALS_SCHEMA if field.name in parquet.columns(continuations_file)]
    counts = Counts()
    with (
        parquet.stream(kept, pa.schema([*continuations.KEPT_SCHEMA, *signals])) as usable,
        parquet.stream(dropped, continuations.DROPPED_SCHEMA) as unusable,
    ):
        rows = apply_rules(utterances, answers, prompt, make_rules(settings))
        for chunk in parquet.chunked(track(rows, f"filter {kind}", total)):
            for row in chunk:
                counts.add(row)
            usable.write(row for row in chunk if row["reason"] is None)
            unusable.write(row for row in chunk if row["reason"] is not None)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.reasons.most_common())
        if not counts.after:
            raise UserError(
                f"{continuations_file}: no usable row of {counts.before:,} ({reasons}); expected at least one"
            )
        usable.commit()
        unusable.commit()
    with parquet.whole(metrics) as partial:
        content = {"rows": counts.rows, "dropped": dict(sorted(counts.reasons.items()))}
        partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    line = f"filter {kind}: kept {counts.after:,} of {counts.before:,} rows"
    say(f"{line} ({reasons})" if reasons else line)


if __name__ == "__main__":
    run_stage(main)
