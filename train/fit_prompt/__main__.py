"""Learn an emotion prompt from text: a few embeddings for each emotion that act on the LLM as the emotion's name does.

The LLM is frozen, and no speech is needed (docs/emotion-prompt.md). It takes minutes, so a run that was killed starts
anew; it leaves nothing half written.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline import params
from pipeline.params import ParamsFile
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import run_stage, say
from pipeline.tables import parquet
from pipeline.tables.emotions import read_classes
from pipeline.weights.source import ModelsParams, fetch
from train.fit_prompt.params import FitPromptParams

DIGITS = 6
_SAID = {"none": "no embeddings", "right": "the told emotion's", "other": "another's", "even": "all evenly"}


def main(
    sentences: Annotated[Path, typer.Option(help="The sentences, written by the stage sentences.")],
    told: Annotated[Path, typer.Option(help="Their continuations, written by generate --sentences.")],
    output: Annotated[Path, typer.Option(help="Folder of the prompt to write.")],
    metrics: Annotated[Path, typer.Option(help="JSON file of the losses on dev to write.")],
    curve: Annotated[Path, typer.Option(help="CSV file of the losses on dev by step to write.")],
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Learn an emotion prompt from text."""
    settings = params.load(params_file, "fit_prompt", FitPromptParams | None)  # type: ignore[arg-type]
    models = params.load(params_file, "models", ModelsParams)
    emotions = read_classes(params_file)
    prompt = params.load(params_file, "prompts.emotion", Prompt)
    # torch loads only after the parameters are checked
    from train import emotion_prompt
    from train.fit_prompt.examples import read_examples
    from train.fit_prompt.learning import GIVEN, learn
    from train.fit_prompt.prompted_llm import PromptedLLM
    from train.fit_prompt.start import build_model, start_prompt

    if settings is None:
        _write({}, [], ("step", *GIVEN), metrics, curve)
        emotion_prompt.save_prompt(None, None, output)
        say("fit_prompt: fit_prompt is null in the parameters, so no prompt was learnt")
        return
    prompter = Prompter.load(fetch(models.llm))
    examples = read_examples(sentences, told, emotions, prompter)
    if examples.left_out:
        say(f"fit_prompt: left out {examples.left_out:,} sentences that lack a continuation for an emotion")
    model = build_model(models, emotions, settings)
    learnt = start_prompt(model, prompter, emotions, settings.tokens)
    llm = PromptedLLM(model, prompter, prompt, emotions)
    losses = learn(llm, learnt, examples.train, examples.dev, settings)
    last = losses[-1][1]
    numbers = {"dev_kl": _rounded(last.kl), "dev_top1": _rounded(last.top1)} | {
        f"dev_kl_{emotion}": _rounded(of) for emotion, of in zip(emotions, last.kl_by_emotion, strict=True)
    }
    lines = [[step, *_rounded(of.kl).values()] for step, of in losses]
    _write(numbers, lines, ("step", *GIVEN), metrics, curve)
    config = emotion_prompt.describe(models.llm, emotions, settings.tokens, examples.texts)
    emotion_prompt.save_prompt(learnt, config, output)
    said = ", ".join(f"{last.kl[name]:.3f} ({what})" for name, what in _SAID.items())
    say(f"fit_prompt: {len(examples.train):,} examples, {settings.steps} steps; dev KL {said}; prompt in {output}")


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, DIGITS) for name, value in values.items()}


def _write(
    numbers: dict[str, dict[str, float]],
    lines: Sequence[Sequence[float]],
    header: Sequence[str],
    metrics: Path,
    curve: Path,
) -> None:
    with parquet.whole(metrics) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + "\n")
    with parquet.whole(curve) as partial:
        partial.write_text("".join(",".join(map(str, line)) + "\n" for line in [header, *lines]))


if __name__ == "__main__":
    run_stage(main)
