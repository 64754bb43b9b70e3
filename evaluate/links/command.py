"""The command probe-links: say where the emotion is lost on its way through a speech LLM."""

import json
import re
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from evaluate.links.clips import Clips, read_clips, read_train, words_of
from evaluate.links.figures import SCHEMA, Figure, answer_figures, probe_figures
from evaluate.links.path import Link
from evaluate.links.plot import draw_corpus
from evaluate.links.statement import state
from evaluate.links.terminal import CHOSEN, describe
from evaluate.metrics import ScoreParams
from evaluate.output import write_text
from evaluate.probe.params import ProbeParams
from evaluate.respond.params import RespondParams
from pipeline import params
from pipeline.commands.options import Json, print_found
from pipeline.commands.text_tables import WIDTH
from pipeline.params import ParamsFile
from pipeline.progress import Task
from pipeline.prompts import Prompt, Prompter
from pipeline.tables import packed, parquet
from pipeline.weights.source import fetch
from train.model_config import load_config

if TYPE_CHECKING:
    from evaluate.links.probes import Probe


@dataclass(frozen=True, slots=True)
class Links:
    """What the command found."""

    model: str
    data: str
    train_clips: int
    statements: list[str]
    notes: list[str]
    """What was left out, or done otherwise than usual."""
    figures: list[Figure]

    @property
    def corpora(self) -> list[str]:
        """The names of the corpora of the test clips."""
        return list(dict.fromkeys(figure.corpus for figure in self.figures))


def notes_of(train: Clips, dev: Clips, test: Clips, no_words: int, predictions: Path | None) -> list[str]:
    """Return a line for each thing that the data or the options lack."""
    notes = []
    if not len(dev):
        if len(set(train.column("speaker"))) > 1:
            notes.append("dev has no labelled clips; the regularisation is chosen by leaving speakers out of train")
        else:
            by = "of a train with one speaker"
            notes.append(f"dev has no labelled clips; the regularisation is chosen by leaving clips out {by}")
    if len(set(test.column("speaker"))) == 1:
        notes.append("the test clips are of a single speaker, so the intervals are over clips and too narrow")
    if no_words:
        notes.append(f"{no_words:,} test clips without a transcript are left out")
    if predictions is None:
        notes.append("without --predictions, the emotion head and the answers of the model are left out")
    return notes


def probe_model(
    model_folder: Path, splits: tuple[Clips, Clips, Clips], params_file: Path, seed: int, output: Path
) -> "tuple[list[Link], list[Probe]]":
    """Run the model on the clips of train, dev and test, and fit the probe of each link."""
    prompt = params.load(params_file, "prompts.emotion", Prompt)
    settings = params.load(params_file, "respond", RespondParams)
    from evaluate.links.features import LinkReader, extract  # torch loads only after the parameters are checked
    from evaluate.links.probes import probe_link
    from train import saved_model
    from train.data.log_mel import LogMel
    from train.precision import answering_dtype, avoid_shape_plans, best_device

    avoid_shape_plans()
    config, device = load_config(model_folder), best_device()
    model = saved_model.load(model_folder, answering_dtype(settings.precision, device)).to(device)
    read = LinkReader(model, Prompter.load(fetch(config.models.llm)).speech(prompt))
    log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".means-", dir=output) as folder:
        links, file = read.links, extract(read, log_mel, splits, settings.batch_size, Path(folder) / "means")
        del model, read  # frees the memory for the probes
        probes = []
        with Task("probe-links", len(links), "probes") as task:
            for number in range(len(links)):
                probes.append(probe_link(np.array(file.of(number)), *splits, seed))
                task.advance()
    return links, probes


def main(
    model: Annotated[Path, typer.Argument(help="A model folder, such as models/emotion.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Packed data of emotional speech.")] = Path("data/packed/emotion"),
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("results/links"),
    predictions: Annotated[
        Path | None, typer.Option(help="Predictions of this model, such as results/predictions.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(min=2, help="Most train clips; by default probe.max_rows.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of train clips and permuted labels; by default probe.seed.")] = None,
    as_json: Json = False,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Say where the emotion is lost on its way through a speech LLM.

    \b
    probe-links models/emotion --predictions results/predictions

    A linear probe gets the mean state of each clip at each link: after each
    layer of the encoder, at the adapter's output, at the speech positions and
    at the last position after each layer of the LLM. The figures are
    unweighted accuracies on test clips, with intervals over speakers, and apart
    for clips whose words the train split has and for other clips. The control is
    the same probe, trained on labels that are permuted within speakers.
    --predictions adds what the model says: emotion head, likeliest label,
    prompted answer and own answers. docs/evaluation.md explains the figures.

    Writes links.parquet, links.json and links-CORPUS.svg.

    \b
    JSON: model; data; train_clips; statements; notes; figures (corpus, words,
    link, layer, ua, ua_low, ua_high, chance, control, choice_ua, strength,
    clips, speakers).
    """
    settings = params.load(params_file, "probe", ProbeParams)
    confidence = params.load(params_file, "score", ScoreParams).confidence
    seed = settings.seed if seed is None else seed
    emotions = load_config(model).emotions
    train = read_train(data, emotions, max_rows or settings.max_rows, seed)
    dev, test = read_clips(data, "dev", emotions, allow_empty=True), read_clips(data, "test", emotions)
    words = words_of(test, packed.load(data, "train"))
    answers = [] if predictions is None else answer_figures(predictions, test, words, emotions, confidence)
    links, probes = probe_model(model, (train, dev, test), params_file, seed, output)
    figures = [*probe_figures(links, probes, test, words, confidence), *answers]
    notes = notes_of(train, dev, test, words.count(None), predictions)
    found = Links(str(model), str(data), len(train), state(figures, confidence), notes, figures)
    write(found, output)
    print_found(found, lay_out_links(found), as_json)


def write(found: Links, output: Path) -> None:
    """Write the table, the same as JSON, and a plot for each corpus."""
    parquet.write(parquet.from_rows((asdict(figure) for figure in found.figures), SCHEMA), output / "links.parquet")
    write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n", output / "links.json")
    for corpus in found.corpora:
        file_name = re.sub(r"[^\w.-]", "_", f"links-{corpus}.svg")
        write_text(draw_corpus(found.figures, corpus), output / file_name)


def lay_out_links(found: Links) -> str:
    """Lay out the tables, then what they show, and what was left out."""
    tables = [describe(found.figures, corpus) for corpus in found.corpora]
    chosen = f"{CHOSEN}: the best layer on the clips that chose the regularisation, not on test clips"
    return "\n\n".join([*tables, chosen, *(textwrap.fill(line, WIDTH) for line in [*found.statements, *found.notes])])
