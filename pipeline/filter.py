"""Continuations that are usable as targets are kept; the others are dropped, each with its reason."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
import typer
from pydantic import Field, model_validator

from pipeline import continuations, manifest, params, tables
from pipeline.params import ParamsFile, Section
from pipeline.prompts import Kind, Prompt, Prompter
from pipeline.stage import UserError, run, say
from pipeline.weights import Weights, fetch

# What the official data_process/clean_noise_examples.py takes for a refusal, the first two in any case of letters.
REFUSALS = (r"(?i:as an ai language model)", r"(?i:i'm sorry, but i)", r"I'm not sure what you")


class FilterParams(Section):
    """The section `filter.<kind>`."""

    min_duration_s: Annotated[float, Field(ge=0)]
    max_duration_s: Annotated[float, Field(le=30)]  # Whisper's window
    max_tokens: Annotated[int, Field(gt=0)]
    """Tokens of the transcript's prompt and the continuation together."""
    drop_refusals: bool
    drop_echoes: bool

    @model_validator(mode="after")
    def _check_durations(self) -> Self:
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(f"min_duration_s below max_duration_s = {self.max_duration_s}")
        return self


def is_refusal(continuation: str) -> bool:
    """Tell whether an answer declines, in the words that the official cleaning looks for."""
    return any(re.search(pattern, continuation.replace("’", "'")) for pattern in REFUSALS)  # noqa: RUF001 (as LLMs write)


def is_echo(continuation: str, transcript: str) -> bool:
    """Tell whether an answer repeats: it holds the whole transcript, or is a part of it; only words count."""
    answer, said = _words(continuation), _words(transcript)
    return bool(answer and said) and (said in answer or answer in said)


def find_reason(row: dict[str, Any], num_tokens: int, settings: FilterParams) -> str | None:
    """Return why a row is no usable target, or None; `num_tokens` counts its prompt and continuation."""
    checks = {
        "too short": row["duration_s"] < settings.min_duration_s,
        "too long": row["duration_s"] > settings.max_duration_s,
        continuations.PROMPT_TOO_LONG: row["finish_reason"] == continuations.PROMPT_TOO_LONG,
        continuations.NO_TRANSCRIPT: row["finish_reason"] == continuations.NO_TRANSCRIPT,
        "empty": not row["continuation"],
        "refusal": settings.drop_refusals and is_refusal(row["continuation"]),
        "too many tokens": num_tokens > settings.max_tokens,
        "echo": settings.drop_echoes and row["echo"],
    }
    return next((reason for reason, applies in checks.items() if applies), None)


def judge(
    utterances: pa.Table, answers: pa.Table, prompt: Prompt, prompter: Prompter, settings: FilterParams
) -> list[dict[str, Any]]:
    """Return the rows of `answers` in the order of `utterances`, each with `echo` and the `reason` to drop it or None.

    Raises UserError naming an utterance that has no answer.
    """
    by_id = {row["id"]: row for row in answers.to_pylist()}
    rows = []
    for utterance in utterances.select(["id", "text", "emotion", "duration_s"]).to_pylist():
        if utterance["id"] not in by_id:
            raise UserError(f"{utterance['id']}: found no continuation, expected one; run generate on this manifest")
        row = utterance | by_id[utterance["id"]]
        row["echo"] = is_echo(row["continuation"], row["text"] or "")
        prompt_ids = prompter.text(prompt, row["text"] or "", emotion=row["emotion"]).ids
        row["reason"] = find_reason(row, len(prompt_ids) + len(row["token_ids"]), settings)
        rows.append({name: row[name] for name in continuations.DROPPED_SCHEMA.names})
    return rows


def main(
    kind: Annotated[Kind, typer.Option(help="Whose prompt and limits hold: those of stage 1 or of stage 2.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="Utterances.")],
    continuations_file: Annotated[Path, typer.Option("--continuations", help="Their continuations.")],
    kept: Annotated[Path, typer.Option(help="Where the usable continuations go.")],
    dropped: Annotated[Path, typer.Option(help="Where the others go, with a reason.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Keep the continuations that are usable as targets, and tell why the others are not."""
    settings = params.load(params_file, f"filter.{kind}", FilterParams)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    llm = params.load(params_file, "models.llm", Weights)
    utterances = manifest.read(manifest_file)
    answers = tables.read(continuations_file, continuations.SCHEMA)

    rows = judge(utterances, answers, prompt, Prompter.load(fetch(llm)), settings)
    usable = [row for row in rows if row["reason"] is None]
    unusable = [row for row in rows if row["reason"] is not None]
    reasons = Counter(row["reason"] for row in unusable)
    counts = ", ".join(f"{count:,} {_plural(reason, count)}" for reason, count in reasons.most_common())
    if not usable:
        raise UserError(f"{continuations_file}: no usable row of {len(rows):,} ({counts}); expected at least one")
    tables.write(tables.from_rows(usable, continuations.KEPT_SCHEMA), kept)
    tables.write(tables.from_rows(unusable, continuations.DROPPED_SCHEMA), dropped)
    line = f"filter {kind}: kept {len(usable):,} of {len(rows):,} rows"
    num_echoes = sum(row["echo"] for row in usable)
    say(line + (f" ({counts})" if counts else "") + f"; {num_echoes:,} {_plural('echo', num_echoes)} among the kept")


def _words(text: str) -> str:
    plain = re.sub(r"['’]", "", text.casefold())  # noqa: RUF001 (as LLMs write)
    return f" {' '.join(words)} " if (words := re.findall(r"[^\W_]+", plain)) else ""


def _plural(reason: str, count: int) -> str:
    return {"refusal": "refusals", "echo": "echoes"}.get(reason, reason) if count != 1 else reason


if __name__ == "__main__":
    run(main)
