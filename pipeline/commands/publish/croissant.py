"""Croissant metadata of the published folder: croissant.json, which describes the files and columns for programs.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.commands.publish import card
from pipeline.commands.publish.card import Published
from pipeline.commands.publish.published import CARD_FILE, CROISSANT_FILE, DATA, LAYOUT, Facts, schema

_SHARDS, _ROWS = "shards", "rows"
_TYPES = {"string": "sc:Text", "int32": "cr:Int32", "float": "cr:Float32", "double": "cr:Float64"}
_MEANINGS = {
    "id": "corpus name, a slash, the published utterance id",
    "corpus": "name of the corpus",
    "speaker": "corpus name, a slash, the published speaker id",
    "language": "ISO 639 code of the spoken language",
    "licence": "licence of the clip, an SPDX id if one exists",
    "emotion": "emotion of the clip",
    "emotion_votes": "share of the annotators' votes for each emotion",
    "text": "transcript in lower case",
    "audio": "16 kHz mono FLAC",
    "num_samples": "samples of the clip",
    "num_speech_tokens": "positions of the clip in the LLM's input",
    "num_text_tokens": "tokens of the transcript",
    "num_response_tokens": "tokens of the continuation, with its end token",
    "text_ids": "token ids of the transcript",
    "response_ids": "token ids of the continuation, with its end token",
    "continuation_key": "key of the prompt",
    "row_hash": "MD5 of the manifest's row",
    "top_ids": "the LLM's likeliest tokens at each position of the continuation",
    "top_logprobs": "their log-probabilities in nats",
    "response_pointers": "a withheld continuation; -1 - i stands for token i of the transcript",
    "withheld": "columns whose values are withheld",
    "packed_hash": "SHA-256 of the packed row",
    "response_hash": "SHA-256 of the clip and the continuation",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
        "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
        "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
        "source", "subField", "transform",
    )},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip


def write(folder: Path, facts: Facts, groups: list[Published], shards: Sequence[Path]) -> None:
    """Write croissant.json."""
    urls = sorted({group.terms.known.url for group in groups if group.terms.known})
    urls += [f"{CARD_FILE}#what-is-withheld"] if any(group.terms.refused for group in groups) else []
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": f"blsp-emo-{facts.kind}",
        "description": f"{card.title(facts)}. README.md says what is withheld and why.",
        "license": urls,
        "version": f"{LAYOUT}.0.0",
        "citeAs": "BLSP-Emo: Towards Empathetic Large Speech-Language Models, arXiv 2406.03872",
        "url": "https://arxiv.org/abs/2406.03872",
        "distribution": [*map(_file, shards), _file_set()],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": _ROWS,
                "name": _ROWS,
                "description": "Utterances with a continuation of their transcript.",
                "field": [_split(), *(_field(field) for field in schema(facts.has_signals))],
            }
        ],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / CROISSANT_FILE).write_text(text + "\n", encoding="utf-8")


def _file(shard: Path) -> Mapping[str, Any]:
    with shard.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "contentUrl": f"{DATA}/{shard.name}",
        "contentSize": f"{shard.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _file_set() -> Mapping[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": _SHARDS,
        "name": _SHARDS,
        "encodingFormat": "application/x-parquet",
        "includes": f"{DATA}/*.parquet",
    }


def _split() -> Mapping[str, Any]:
    source = {
        "fileSet": {"@id": _SHARDS},
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": "^(train|dev|test)-.+$"},
    }
    return _named("split", "train, dev or test") | {"dataType": "sc:Text", "source": source}


def _field(field: pa.Field) -> Mapping[str, Any]:
    named = _named(field.name, _MEANINGS[field.name])
    if field.name == "audio":
        return named | {"dataType": "sc:AudioObject", "source": _column("audio", "bytes")}
    value, depth = field.type, 0
    while pa.types.is_list(value):
        value, depth = value.value_type, depth + 1
    array = {"isArray": True, "arrayShape": ",".join(["-1"] * depth)} if depth else {}
    if pa.types.is_struct(value):
        subfields = [
            {
                "@type": "cr:Field",
                "@id": f"{_ROWS}/{field.name}/{subfield.name}",
                "name": subfield.name,
                "dataType": _TYPES[str(subfield.type)],
                "source": _column(field.name, subfield.name),
            }
            for subfield in value
        ]
        return named | array | {"subField": subfields}
    return named | array | {"dataType": _TYPES[str(value)], "source": _column(field.name)}


def _named(name: str, meaning: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{_ROWS}/{name}", "name": name, "description": meaning}


def _column(name: str, subfield: str | None = None) -> Mapping[str, Any]:
    transform = {} if subfield is None else {"transform": {"jsonPath": subfield}}
    return {"fileSet": {"@id": _SHARDS}, "extract": {"column": name}, **transform}
