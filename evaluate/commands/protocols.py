"""List the protocols of evaluation, show one, or print the parameters with which a run follows it.

python -m evaluate protocols
python -m evaluate protocols show iemocap-loso-4
python -m evaluate protocols show iemocap-loso-4 --fold 1
python -m evaluate protocols show iemocap-loso-4 --fold 1 --recipe recipes/paper.yaml > runs/fold-1.yaml
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml

from evaluate.protocols.definition import (
    Protocol,
    check_folded,
    choose_corpus,
    corpora_of,
    find_fold,
    load_protocol,
    load_protocols,
    names,
)
from pipeline.commands.options import Json
from pipeline.commands.text_tables import lay_out, lay_out_record
from pipeline.corpora.params import CorpusParams
from pipeline.params import load, load_yaml
from pipeline.stage import UserError, say


def fold_params(protocol: Protocol, fold: str, corpus: str, score_as: str) -> dict[str, Any]:
    """Return the parameters of a run of one fold: sections of params.yaml with only the keys that the protocol sets.

    `corpus` is the name of the corpus under `ingest`; `score_as` is the name or the path of the protocol.
    """
    values: dict[str, Any] = {"emotions": protocol.classes}
    if protocol.recognition_prompt:
        values["prompts"] = {"recognition": protocol.recognition_prompt}
    if protocol.folds is not None:
        values["split"] = {"test_speakers": {corpus: protocol.folds[find_fold(protocol, fold)]}}
    return values | {"score": {"protocols": [score_as]}}


def with_fold(params_file: Path, protocol: Protocol, fold: str, score_as: str) -> dict[str, Any]:
    """Return all parameters of a file, changed so that a run with them tests one fold.

    Raises UserError if the corpus of the protocol is not in the file, or not in stage 2 of training.
    """
    ingested = load(params_file, "ingest", dict[str, CorpusParams])
    readers = {name: corpus.reader for name, corpus in ingested.items()}
    corpus = choose_corpus(protocol, corpora_of(protocol, readers), f"under ingest in {params_file}")
    if corpus not in load(params_file, "split.emotion", list[str]):
        raise UserError(f"{params_file}: split.emotion: found no {corpus}, expected it for {protocol.name}")
    values: dict[str, Any] = load_yaml(params_file, yaml.SafeLoader)
    for key in ("test_speakers", "folds", "lists"):
        values["split"][key].pop(corpus, None)
    return _merged(values, fold_params(protocol, fold, corpus, score_as))


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(values[key], new) for key, new in changes.items() if isinstance(new, dict) and key in values}
    return values | changes | both


def main(
    action: Annotated[Literal["list", "show", "folds"], typer.Argument(help="folds: only the names.")] = "list",
    protocol: Annotated[str | None, typer.Argument(help="Name of a protocol, or path of its file.")] = None,
    as_json: Json = False,
    fold: Annotated[str | None, typer.Option(help="Print the parameters of this fold, by name or number.")] = None,
    params_file: Annotated[
        Path | None, typer.Option("--recipe", help="With --fold: print this parameter file for the fold.")
    ] = None,
) -> None:
    """List the protocols, show one, or print the parameters of a run that follows it."""
    if params_file is not None and fold is None:
        raise UserError(f"--recipe: found {params_file} without --fold, expected a fold")
    if action == "list":
        known = load_protocols(names())
        rows = [("protocol", "corpus", "classes", "rows", "test rows", "source"), *map(_row, known)]
        say(json.dumps([each.model_dump() for each in known], indent=2) if as_json else lay_out(rows))
        return
    if protocol is None:
        raise UserError(f"protocols {action}: found no protocol, expected one of {', '.join(names())}, or a path")
    found = load_protocol(protocol)
    if action == "folds":
        check_folded(found)
        say("\n".join(found.folds or {}))
    elif fold is None:
        say(found.model_dump_json(indent=2) if as_json else _describe(found))
    else:
        find_fold(found, fold)
        score_as = protocol if protocol in names() else str(Path(protocol).resolve())
        if params_file is None:
            values = fold_params(found, fold, found.corpus or found.reader, score_as)
        else:
            values = with_fold(params_file, found, fold, score_as)
        say(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120).rstrip())


def _row(protocol: Protocol) -> tuple[str, ...]:
    rows = f"{protocol.rows_expected:,}" if protocol.rows_expected else ""
    corpus = protocol.corpus or protocol.reader
    return protocol.name, corpus, str(len(protocol.classes)), rows, protocol.test_rows, protocol.source


def _describe(protocol: Protocol) -> str:
    counts = protocol.counts or {}
    rows = f", {protocol.rows_expected:,} rows" if counts else ""
    facts = {
        "about": protocol.about,
        "corpus": protocol.corpus or f"of the reader {protocol.reader}",
        "classes": ", ".join(f"{name} {counts[name]:,}" if counts else name for name in protocol.classes),
        "test rows": protocol.test_rows + rows,
    }
    facts |= {f"fold {name}": ", ".join(speakers) for name, speakers in (protocol.folds or {}).items()}
    facts |= {"headline": ", ".join(protocol.headline), "source": protocol.source}
    facts |= {"note": protocol.note} if protocol.note else {}
    for number, result in enumerate(protocol.published, start=1):
        note = f" ({result.note})" if result.note else ""
        facts[f"result {number}"] = f"{result.system}: {result.metric} {result.percent:g} %, {result.source}{note}"
    return lay_out_record(protocol.name, facts)
