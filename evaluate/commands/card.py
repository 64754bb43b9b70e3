"""Write a model card: README.md with the front matter that the Hugging Face hub reads.

It tells what the model folder's own record and the metrics say. What they lack is said to be unknown.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from evaluate.metrics import CONTINUATION_KL, EMOTION, Metrics, ScoreParams
from evaluate.output import write_text
from evaluate.own_answers import NEW_WORDS, OWN_ANSWERS
from evaluate.verdict.statement import Claim, state_claims
from evaluate.verdict.systems import RECOGNITION_ROWS
from evaluate.verdict.unmeasured import Unmeasured, find_unmeasured
from evaluate.verdict.wording import SPACE, bounds, share, signed
from pipeline.params import Alignment, ParamsFile, load
from pipeline.stage import UserError, say
from pipeline.tables import parquet
from train.commands.info import ModelInfo, read_info
from train.fit.run_record import RUN_FILE, ExecutionRecord, RunRecord, SplitRecord, read

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
UNKNOWN = "unknown"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
KL_TEST = "KL of stage 1"
_STAGE_1 = ("hearing", "kept")
"""The claims on a model of stage 1."""
_COLUMNS = pa.schema([(name, pa.string()) for name in ("corpus", "split", "language", "licence")])


@dataclass(frozen=True, slots=True)
class Corpus:
    """The training data of one corpus in one stage of training."""

    stage: str
    name: str
    rows: int
    languages: str
    licences: str
    is_synthetic: bool
    """Whether the stage synthesise made it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A score with its interval."""

    test: str
    system: str
    value: str
    interval: str
    chance: str
    clips: int
    speakers: int


def corpora_of(stage: str, train: SplitRecord, manifest: Path, synthetic: Collection[str]) -> list[Corpus]:
    """Return the corpora of a training, with languages and licences of the manifest if it has all their rows."""
    found: dict[str, pa.Table] = {}
    if manifest.is_file():
        table = parquet.read(manifest, _COLUMNS)
        table = table.filter(pc.field("split") == "train")
        found = {name: table.filter(pc.field("corpus") == name) for name in train.corpora}
    corpora = []
    for name, rows in train.corpora.items():
        fits = name in found and found[name].num_rows >= rows
        languages, licences = (
            ", ".join(sorted(value or UNKNOWN for value in found[name][column].unique().to_pylist()))
            if fits
            else UNKNOWN
            for column in ("language", "licence")
        )
        corpora.append(Corpus(stage, name, rows, languages, licences, name in synthetic))
    return corpora


def trained_corpora(info: ModelInfo, folder: Path, manifests: Path, synthetic: Collection[str]) -> list[Corpus]:
    """Return the corpora of a model's training, and those of stage 1 if its model is beside this one."""
    if info.run is None:
        return []
    run = RunRecord.model_validate(info.run)
    runs = [("stage 1" if run.kind == "semantic" else "stage 2", run)]
    earlier = read(folder.parent / "semantic" / RUN_FILE, RunRecord)
    if earlier is not None and earlier.run == run.init:
        runs.insert(0, ("stage 1", earlier))
    return [
        corpus
        for stage, of_run in runs
        for corpus in corpora_of(stage, of_run.data.train, manifests / f"{of_run.kind}.parquet", synthetic)
    ]


def figures_of(metrics: Metrics) -> Iterator[Figure]:
    """Yield the scores that the card shows."""
    for name, scores in metrics.items():
        if name.startswith(EMOTION):
            for system in ("head", "logprob", "transcript_logprob"):
                given, read_by = RECOGNITION_ROWS[system]
                yield _accuracy(
                    f"recognition, {name.removeprefix(EMOTION)}", f"{read_by}, given {given}", scores, system
                )
        for prefix, words in ((OWN_ANSWERS, "own answers, all words"), (NEW_WORDS, "own answers, new words")):
            if name.startswith(prefix):
                for system in ("voice", "silence", "told_head"):
                    yield _accuracy(f"{words}, {name.removeprefix(prefix)}", system.replace("_", " "), scores, system)
        if name.startswith(CONTINUATION_KL):
            after = scores["after"]
            low, high = bounds(after, "kl")
            interval = "none" if low == -high else f"{low:.3f} to {high:.3f}"
            test = f"{KL_TEST}, nats per token, {name.removeprefix(CONTINUATION_KL)}"
            yield Figure(test, "the clip", signed(after["kl"]), interval, "", int(after["n"]), int(after["speakers"]))


def _accuracy(test: str, system: str, scores: dict[str, dict[str, float]], name: str) -> Figure:
    score, chance = scores[name], scores["chance"]["ua"]
    low, high = bounds(score, "ua")
    interval = "none" if low == -high else f"{share(low)} to {share(high)}"
    return Figure(
        f"{test}, unweighted accuracy in %", system, share(score["ua"]), interval, share(chance), int(score["n"]),
        int(score["speakers"]),
    )  # fmt: skip


def own_metrics(info: ModelInfo, path: Path) -> Metrics:
    """Return all metrics if they are known to be those of this model, as `python -m train info` finds it out."""
    if info.metrics is None:
        return {}
    found: Metrics = json.loads(path.read_bytes())
    return found


def claims_of(kind: Alignment, metrics: Metrics, confidence: float) -> list[Claim]:
    """Return what the run shows of a model of this kind."""
    claims = state_claims(metrics, f"{100 * confidence:g}{SPACE}%", 1 - confidence)
    return [claim for claim in claims if kind == "emotion" or claim.name in _STAGE_1]


def write_card(info: ModelInfo, corpora: list[Corpus], metrics: Metrics, confidence: float, licence: str) -> str:
    """Return the card as Markdown with its front matter."""
    from huggingface_hub import ModelCard, ModelCardData

    run = None if info.run is None else RunRecord.model_validate(info.run)
    bases = {name: weights["source"] for name, weights in info.config["models"].items()}
    languages = sorted({code for corpus in corpora for code in corpus.languages.split(", ")} - {UNKNOWN})
    unmeasured: list[Unmeasured] = find_unmeasured(metrics) if metrics else []
    data = ModelCardData(
        language=languages or None,
        license=licence,
        base_model=[source for source in bases.values() if HUB_ID.fullmatch(source) and not Path(source).exists()]
        or None,
        datasets=list(dict.fromkeys(corpus.name for corpus in corpora)) or None,
        metrics=["recall"] if info.kind == "emotion" and metrics else None,
        pipeline_tag="audio-text-to-text",
        tags=["speech", "blsp-emo"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=Path(info.folder).name,
        kind=info.kind,
        bases=bases,
        emotions=info.config["emotions"],
        run=run,
        execution=None if info.execution is None else ExecutionRecord.model_validate(info.execution),
        corpora=corpora,
        claims=claims_of(info.kind, metrics, confidence),
        figures=[
            figure
            for figure in figures_of(metrics)
            if info.kind == "emotion" or figure.test.startswith("KL of stage 1")
        ],
        coverage=f"{100 * confidence:g} %",
        unmeasured=unmeasured,
        licence=licence,
    )
    return str(card.content).rstrip() + "\n"


def main(
    folder: Annotated[Path, typer.Argument(help="A model folder, such as models/emotion.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Markdown file to write, outside the model folder.")],
    metrics: Annotated[Path, typer.Option(help="The metrics, told if dvc.lock says that they are of this model.")] = (
        Path("results/metrics.json")
    ),
    manifests: Annotated[Path, typer.Option(help="Manifests, for languages and licences.")] = Path("manifests"),
    logs: Annotated[Path, typer.Option(help="Folder of the logs of training.")] = Path("logs"),
    licence: Annotated[str, typer.Option("--license", help="Licence of the weights, as the hub names it.")] = UNKNOWN,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Write a model card in the format of the Hugging Face hub.

    It tells what the model's own record and the metrics say, and names what
    they lack. Put it into a copy of the model folder as README.md.
    """
    if output.resolve().is_relative_to(folder.resolve()):
        found = f"found {output} in the model folder, expected a file outside"
        raise UserError(f"--output: {found}: DVC and the metrics know the folder by the hash of its files")
    info = read_info(folder, metrics, logs)
    corpora = trained_corpora(info, folder, manifests, load(params_file, "synthesise", dict[str, Any]).keys())
    found_metrics = own_metrics(info, metrics)
    confidence = load(params_file, "score", ScoreParams).confidence
    write_text(write_card(info, corpora, found_metrics, confidence, licence), output)
    unknown = "" if found_metrics else f"; without scores: dvc.lock does not say that {metrics} is of this model"
    say(f"card: {output}{unknown}")
