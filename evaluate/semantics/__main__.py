"""Semantics: whether a trained model keeps the words that it hears, and the abilities of its LLM.

The model repeats test clips, answers them, and answers spoken questions in a given form. The LLM alone gets the same as
text. On text alone, the logits of the model should be those of the LLM, bit for bit.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluate.predictions import SEMANTICS_SCHEMA, read_transcripts
from evaluate.semantics.params import SemanticsParams
from pipeline import params
from pipeline.params import ParamsFile
from pipeline.stage import run_stage, say
from pipeline.tables import packed, parquet
from pipeline.weights.source import digest_files, fetch
from train import launch

if TYPE_CHECKING:
    from evaluate.semantics.respondent import Respondent
    from evaluate.word_errors import WordErrors


def main(
    data: Annotated[Path, typer.Option(help="Folder of the packed data of speech with transcripts.")],
    model: Annotated[Path, typer.Option(help="Model folder, of stage 1 or stage 2.")],
    output: Annotated[Path, typer.Option(help="Table of answers to write.")],
    transcripts: Annotated[Path | None, typer.Option(help="Whisper's transcripts, written by transcribe.")] = None,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Measure whether a model keeps the words that it hears, and what its LLM can do."""
    settings = params.load(params_file, "semantics", SemanticsParams)
    packed.load(data, "test")
    whisper = {} if transcripts is None else _read_whisper(transcripts)
    if (count := launch.num_processes(params_file)) > 1:
        raise typer.Exit(launch.run(count, "evaluate.semantics", sys.argv[1:]))
    from evaluate.asking.finished import FinishedBatches, describe_run  # torch loads only after the checks
    from evaluate.asking.processes import join
    from evaluate.semantics.respondent import Respondent
    from train.precision import answering_dtype, avoid_shape_plans, best_device

    avoid_shape_plans()
    writes, device = join(), best_device()
    code = digest_files(sorted(Path(__file__).parent.glob("*")))
    asked = {"semantics": settings.model_dump(), "code of semantics": code}
    run = describe_run(model, data, asked, device, answering_dtype(settings.precision, device))
    finished = FinishedBatches(output, run)
    respondent = Respondent(model, data, settings, finished)
    rows = respondent.repeat(whisper) + respondent.answers(_cosine(settings)) + respondent.instructions()
    if writes:
        rows += _text_alone(respondent)
        parquet.write(parquet.from_rows(rows, SEMANTICS_SCHEMA), output)
        finished.remove()
        say(f"semantics: {model.name}: {len(rows):,} rows")


def _read_whisper(transcripts: Path) -> "dict[str, tuple[str, WordErrors]]":
    """Return what Whisper hears in the clips with a transcript, and its word errors, by their ids."""
    from evaluate.word_errors import WordErrors

    rows = (row for row in read_transcripts(transcripts).to_pylist() if row["words"] is not None)
    return {row["id"]: (row["heard"], WordErrors(row["errors"], row["words"])) for row in rows}


def _cosine(settings: SemanticsParams) -> Any:
    """Return the function that compares answers by the sentence embedder, if there is one."""
    if settings.embedder is None:
        return None
    from evaluate.semantics.embedder import Embedder

    return Embedder(fetch(settings.embedder)).cosines


def _text_alone(respondent: "Respondent") -> list[dict[str, Any]]:
    """Compare the logits of text prompts with those of the LLM, loaded once more."""
    from evaluate.semantics.text_alone import largest_difference, last_logits
    from pipeline.weights.llm import load_llm

    prompts = respondent.text_prompts()
    if not prompts:
        return []
    llm = respondent.answering.model.llm
    ours, (device, dtype) = last_logits(llm, list(prompts.values())), (llm.device, llm.dtype)
    respondent.answering.model.cpu()  # so that one LLM is on the device
    alone = load_llm(respondent.llm_folder, dtype)
    alone.to(device)  # type: ignore[arg-type]
    own = last_logits(alone, list(prompts.values()))
    differences = [largest_difference(*pair) for pair in zip(ours, own, strict=True)]
    return respondent.text_alone(dict(zip(prompts, differences, strict=True)))


if __name__ == "__main__":
    run_stage(main)
