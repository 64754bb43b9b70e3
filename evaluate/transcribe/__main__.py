"""Transcribe: what Whisper, encoder and decoder, writes of the test clips, with its word errors.

It is the yardstick of what the model hears: the encoder is the same, and the decoder was trained for nothing else.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import PositiveInt

from evaluate.predictions import TRANSCRIPTS_SCHEMA
from pipeline import params
from pipeline.params import ParamsFile, Section
from pipeline.stage import run_stage, say
from pipeline.tables import packed, parquet
from pipeline.weights.source import Weights, digest_files, fetch, name_weights
from train import launch

if TYPE_CHECKING:
    from evaluate.asking.finished import FinishedBatches
    from evaluate.transcribe.transcriber import ChosenClip


class TranscribeParams(Section):
    """The settings of the transcription."""

    model: Weights | None
    """A whole Whisper, in the form of models.encoder; null for models.encoder itself."""
    clips: PositiveInt | None
    """The most test clips of each kind, balanced over the speakers; null: all."""
    seed: int
    """Of the choice of clips."""
    batch_size: PositiveInt
    """Clips that are transcribed at once; each is padded to 30 s."""


def main(
    semantic: Annotated[Path, typer.Option(help="Folder of the packed data of speech with transcripts.")],
    emotion: Annotated[Path, typer.Option(help="Folder of the packed data of emotional speech.")],
    output: Annotated[Path, typer.Option(help="Table of transcripts to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Transcribe the test clips with Whisper, and count the word errors."""
    settings = params.load(params_file, "transcribe", TranscribeParams)
    weights = settings.model or params.load(params_file, "models.encoder", Weights)
    folders = {"semantic": semantic, "emotion": emotion}
    rows = {kind: packed.load(folder, "test") for kind, folder in folders.items()}
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "evaluate.transcribe", sys.argv[1:]))
    from evaluate.asking.processes import ask_all, join  # torch loads only after the parameters are checked
    from evaluate.transcribe.transcriber import Transcriber, choose

    writes = join()
    whisper = fetch(weights)
    transcriber = Transcriber(whisper, rows)
    clips = choose(rows, settings.clips, settings.seed)
    if writes:
        transcriber.tell_languages(clips)
    finished = _finished_batches(output, name_weights(weights, whisper), folders, settings)
    texts = ask_all(
        "transcribe: clips",
        clips,
        settings.batch_size,
        transcriber.transcribe,
        "clips",
        lengths=[(clip.about["language"] or "", clip.about["num_samples"]) for clip in clips],
        finished=finished,
    )
    if writes:
        parquet.write(parquet.from_rows(counted(whisper, clips, texts), TRANSCRIPTS_SCHEMA), output)
        finished.remove()
        say(f"transcribe: {len(texts):,} test clips")


def counted(whisper: Path, clips: "list[ChosenClip]", texts: list[str]) -> list[dict[str, Any]]:
    """Return the rows of the table, with the word errors of the clips that have a transcript."""
    from evaluate.word_errors import SPELLINGS_FILE, Normaliser, count_errors

    normalise = Normaliser(whisper)
    if not normalise.has_spellings:
        say(f"transcribe: {whisper} has no {SPELLINGS_FILE}: British and American spellings count as different words")
    table = []
    for clip, written in zip(clips, texts, strict=True):
        row = {key: clip.about[key] for key in ("id", "corpus", "speaker", "language", "text")} | {"kind": clip.kind}
        counts: dict[str, int | None] = {"errors": None, "words": None}
        if row["text"] is not None:
            found = count_errors(*(normalise(text, row["language"]) for text in (row["text"], written)))
            counts = {"errors": found.errors, "words": found.words}
        table.append(row | {"heard": written} | counts)
    return table


def _finished_batches(
    output: Path, weights: str, folders: dict[str, Path], settings: TranscribeParams
) -> "FinishedBatches":
    import torch
    import transformers

    from evaluate.asking.finished import FinishedBatches
    from train.precision import best_device

    run = {
        "weights": weights,
        "data": [packed.fingerprint(folder) for folder in folders.values()],
        "settings": settings.model_dump(),
        "device": best_device().type,
        "code": digest_files(sorted(Path(__file__).parent.glob("*.py"))),
        "versions": [torch.__version__, transformers.__version__],
    }
    return FinishedBatches(output, run)


if __name__ == "__main__":
    run_stage(main)
