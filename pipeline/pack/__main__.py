"""Pack the clips and token ids that training and evaluation read.

The train split contains the rows whose continuation the filter kept. The dev and test splits contain every row of the
manifest, so that emotion recognition is always tested on the same clips, whatever the filter drops. In dev and test, a
row without a usable continuation has an empty one. The KL divergence is computed only for rows with a continuation.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from pydantic import Field

from pipeline import params
from pipeline.audio import mono_16k, recordings
from pipeline.corpora.params import read_roots
from pipeline.params import Alignment, ParamsFile, Section
from pipeline.progress import track
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError, run_stage, say
from pipeline.tables import continuations, manifest, packed, parquet
from pipeline.weights.source import Weights, fetch


class PackParams(Section):
    """The section `pack`."""

    rows_per_shard: Annotated[int, Field(ge=1)]
    """A shard is one file; 10,000 clips of 10 s are about 2 GB."""


def rows(
    utterances: pa.Table,
    kept: pa.Table,
    signals: pa.Table | None,
    split: str,
    corpora: dict[str, Path],
    prompter: Prompter,
) -> Iterator[dict[str, Any]]:
    """Yield the packed rows of a split, and read their clips one by one; `signals` belong to the rows of `kept`."""
    responses = {row["id"]: (row, number) for number, row in enumerate(kept.to_pylist())}
    for row in utterances.to_pylist():
        response, number = responses.get(row["id"], (None, 0))
        if row["split"] != split or (response is None and split == "train"):
            continue
        samples = _samples(row, corpora)
        yield {
            "id": row["id"],
            "corpus": row["corpus"],
            "speaker": row["speaker"],
            "emotion": row["emotion"],
            "text": row["text"] or "",
            "audio": {"bytes": mono_16k.encode_flac(samples), "path": None},
            "num_samples": len(samples),
            "text_ids": list(prompter.content_ids(row["text"] or "")),
            "response_ids": [] if response is None else _response_ids(response, prompter.end_id),
            **({} if signals is None or response is None else signals.slice(number, 1).to_pylist()[0]),
        }


def _response_ids(response: dict[str, Any], end_id: int) -> list[int]:
    """Return the continuation's ids, with the end token only if the LLM ended the continuation itself."""
    return [*response["token_ids"], *([end_id] if response["finish_reason"] == continuations.STOP else [])]


def _samples(row: dict[str, Any], corpora: dict[str, Path]) -> Any:
    path = corpora[row["corpus"]] / row["audio"]
    try:
        return recordings.read(path, row["start_s"], row["duration_s"])
    except recordings.UnreadableAudio as error:
        raise UserError(f"{path}: {error}; ingest {row['corpus']} again, with --check samples") from None


def prompt_shell(prompt: Prompt, prompter: Prompter, kind: str) -> packed.PromptShell:
    """Return the prompt ids that all rows of a kind share."""
    speech = prompter.speech(prompt)
    text = prompter.text(prompt, "") if kind == "semantic" else None
    return packed.PromptShell(
        before_speech=list(speech.before),
        before_text=None if text is None else list(text.before),
        after=list(speech.after),
    )


def main(
    kind: Annotated[Alignment, typer.Option(help="Which alignment the rows are for: semantic or emotion.")],
    manifest_file: Annotated[Path, typer.Option("--manifest", help="The manifest of this alignment.")],
    continuations_file: Annotated[Path, typer.Option("--continuations", help="The kept continuations.")],
    output: Annotated[Path, typer.Option(help="The packed folder to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Pack the clips and token ids that training and evaluation read."""
    settings = params.load(params_file, "pack", PackParams)
    corpora = read_roots(params_file)
    prompt = params.load(params_file, f"prompts.{kind}", Prompt)
    llm = params.load(params_file, "models.llm", Weights)
    utterances = manifest.read(manifest_file)
    kept = parquet.read(continuations_file, continuations.SCHEMA)
    signals = continuations.read_signals(continuations_file, kept["id"]) if kind == "semantic" else None
    missing = set(utterances["corpus"].to_pylist()) - set(corpora)
    if missing:
        raise UserError(f"{manifest_file}: corpus {min(missing)} is not listed under ingest in {params_file}")
    prompter = Prompter.load(fetch(llm))
    schema = packed.SCHEMA if signals is None else packed.SCHEMA_WITH_SIGNALS
    with packed.Writer(output, prompt_shell(prompt, prompter, kind), settings.rows_per_shard, schema) as writer:
        counts = {
            split: writer.write(
                split,
                track(rows(utterances, kept, signals, split, corpora, prompter), f"pack {kind}: {split}", unit="clips"),
            )
            for split in manifest.SPLITS
        }
    if counts["train"] == 0:
        raise UserError(f"{continuations_file}: no continuation of a train row of {manifest_file} was kept")
    say(f"pack: {kind}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items()) + " rows")


if __name__ == "__main__":
    run_stage(main)
