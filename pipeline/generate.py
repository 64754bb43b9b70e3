"""The backbone LLM answers each transcript of a manifest: the targets that the model of speech is to give."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from pipeline import continuations, engines, manifest, params, tables
from pipeline.engines import Answer, Engine, GenerateParams
from pipeline.params import ParamsFile
from pipeline.prompts import Kind, Prompt, Prompter
from pipeline.stage import UserError, run, say
from pipeline.weights import Weights, fetch


def make_prompts(utterances: pa.Table, prompt: Prompt, prompter: Prompter) -> list[tuple[int, ...]]:
    """Return the ids of the prompt of each utterance, none for one without a transcript.

    Raises UserError naming an utterance that lacks its emotion.
    """
    rows = utterances.select(["id", "text", "emotion"]).to_pylist()
    for row in rows:
        if row["emotion"] is None and "{emotion}" in prompt.text:
            raise UserError(f"{row['id']}: found no emotion, expected one for a prompt that names it")
    return [prompter.text(prompt, row["text"], emotion=row["emotion"]).ids if row["text"] else () for row in rows]


def answer(prompts: Sequence[tuple[int, ...]], engine: Engine, limit: int) -> list[Answer]:
    """Answer each prompt of at most `limit` tokens; equal prompts go to the engine once."""
    distinct = list(dict.fromkeys(prompt for prompt in prompts if 0 < len(prompt) <= limit))
    answers = dict(zip(distinct, engine.generate(distinct), strict=True))
    too_long, no_transcript = (
        Answer((), reason) for reason in (continuations.PROMPT_TOO_LONG, continuations.NO_TRANSCRIPT)
    )
    return [answers.get(prompt, too_long if prompt else no_transcript) for prompt in prompts]


def main(
    kind: Annotated[Kind, typer.Option(help="Which prompt: for stage 1 or for stage 2.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="Utterances to continue.")],
    output: Annotated[Path, typer.Option(help="Where the continuations go.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write a continuation for each utterance of a manifest."""
    settings = params.load(params_file, "generate", GenerateParams)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    llm = params.load(params_file, "models.llm", Weights)
    utterances = manifest.read(manifest_file)
    engines.prepare(settings)

    model = fetch(llm)
    prompter = Prompter.load(model)
    prompts = make_prompts(utterances, prompt, prompter)
    limit = settings.max_prompt_tokens
    if (shortest := min((len(prompt) for prompt in prompts if prompt), default=0)) > limit:
        raise UserError(f"generate.max_model_len: leaves {limit} tokens for a prompt, expected at least {shortest}")
    engine = engines.start(settings, model, prompter.end_id)
    answers = answer(prompts, engine, limit)

    rows = [
        {
            "id": utterance_id,
            "continuation": prompter.decode(answer.token_ids),
            "token_ids": answer.token_ids,
            "finish_reason": answer.finish_reason,
            "engine": engine.name,
        }
        for utterance_id, answer in zip(utterances["id"].to_pylist(), answers, strict=True)
    ]
    tables.write(tables.from_rows(rows, continuations.SCHEMA), output)
    say(f"generate {kind}: {_describe(prompts, answers)} ({engine.name})")


def _describe(prompts: Sequence[tuple[int, ...]], answers: Sequence[Answer]) -> str:
    reasons = [answer.finish_reason for answer in answers]
    line = f"{len(prompts):,} rows, {len(set(prompts)):,} distinct prompts, "
    line += f"{reasons.count(continuations.LENGTH):,} answers cut"
    if too_long := reasons.count(continuations.PROMPT_TOO_LONG):
        line += f", {too_long:,} left out, prompt too long"
    return line


if __name__ == "__main__":
    run(main)
