"""The report: what it claims, what it shows, and that it is one page on its own."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from evaluate.predictions import EXAMPLES_SCHEMA, OWN_ANSWERS_SCHEMA, OWN_SYSTEMS, RECOGNITION_SCHEMA, SYSTEMS
from evaluate.report import __main__ as report
from pipeline.leaks.__main__ import SCHEMA as LEAKS_SCHEMA
from pipeline.split.__main__ import EXCLUDED_SCHEMA
from pipeline.stage import UserError
from pipeline.tables import manifest, parquet
from pipeline.tables.continuations import DROPPED_SCHEMA, KEPT_SCHEMA
from tests.builders import emotion_scores, kl_scores, utterance, write_table

CLASSES = ["neutral", "sad"]
PARAMS = """
models:
  encoder: {source: tiny-encoder, revision: null, sha256: abc}
  llm: {source: tiny-llm, revision: main, sha256: null}
emotions: [neutral, sad]
prompts:
  semantic: {system: Be helpful., text: "Continue: ", speech: "Continue: "}
synthesise:
  acted: {seed: 1}
generate: {engine: vllm, generator: null}
score: {confidence: 0.95, protocols: []}
report: {title: "Words & voices"}
"""


def manifest_rows(corpus: str, emotions: list[str | None]) -> list[dict[str, Any]]:
    return [
        utterance(f"{corpus}/{i}", corpus=corpus, speaker=f"{corpus}/{i % 2}", duration_s=900.0)
        | {"text": "kids are talking", "emotion": emotion, "split": "test" if i < 4 else "train"}
        for i, emotion in enumerate(emotions)
    ]


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(1600) / 10), 16_000, format="FLAC")
    return buffer.getvalue()


def text_of(page: str) -> str:
    """The words of a page, without its style sheet."""
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def prepare(folder: Path) -> dict[str, Path]:
    (folder / "params.yaml").write_text(PARAMS)
    metrics = {"continuation_kl_libri": kl_scores(-0.01, 0.02), "emotion_acted": emotion_scores(head=0.9)}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    acted = manifest_rows("acted", ["neutral", "sad"] * 4)
    write_table(folder / "manifests" / "emotion.parquet", acted)
    write_table(folder / "manifests" / "semantic.parquet", manifest_rows("libri", [None] * 8))
    confusions = {"acted": {system.name: [[0, 2, 0], [0, 2, 0]] for system in SYSTEMS}}
    (folder / "confusions.json").write_text(json.dumps(confusions))
    predictions = folder / "predictions" / "emotion"
    answers = {"voice_answer": "<script>alert(1)</script>", "transcript_answer": "Yes.", "target": "Oh dear."}
    examples = [
        {key: row[key] for key in ("id", "corpus", "speaker", "emotion", "text")}
        | {"audio": flac(), "predicted": "sad", **answers}
        for row in acted[:4]
    ]
    write_table(predictions / "examples.parquet", examples, EXAMPLES_SCHEMA)
    for kind, terms in (("semantic", {"kl": 1.0}), ("emotion", {"ce": 1.0, "emotion": 0.5})):
        row = {"id": "x", "continuation": "Oh.", "token_ids": [1], "engine": "vllm 0.32.0"}
        kept = [{**row, "finish_reason": "stop", "echo": 0.0}] * 3
        kept += [{**row, "finish_reason": "length", "echo": 1.0}]
        dropped = [{**kept[0], "reason": reason} for reason in ("refusal", "too short", "refusal")]
        continuations = folder / "manifests" / "continuations"
        write_table(continuations / f"{kind}.kept.parquet", kept, KEPT_SCHEMA)
        write_table(continuations / f"{kind}.dropped.parquet", dropped, DROPPED_SCHEMA)
        (folder / "models" / kind).mkdir(parents=True)
        lines = [json.dumps({"step": step, "lr": 0.1, "loss": 1.0, **terms}) for step in (5, 10)]
        (folder / "models" / kind / "losses.jsonl").write_text("\n".join(lines))
    return {
        "metrics": folder / "metrics.json",
        "confusions": folder / "confusions.json",
        "predictions": folder / "predictions",
        "models_folder": folder / "models",
        "manifests": folder / "manifests",
        "output": folder / "report.html",
        "params_file": folder / "params.yaml",
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    paths = prepare(tmp_path_factory.mktemp("report"))
    report.main(**paths)
    return paths["output"].read_text()


def test_the_stage_names_the_page_it_wrote_and_writes_it_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = prepare(tmp_path)
    report.main(**paths)
    assert capsys.readouterr().out == f"report: {paths['output']}\n"
    first = paths["output"].read_bytes()
    report.main(**paths)
    assert paths["output"].read_bytes() == first


def test_the_page_needs_no_network_and_escapes_what_models_say(page: str) -> None:
    addresses = re.findall(r'(?:src|href|action)="([^"#][^"]{0,19})', page)
    assert len(addresses) == 4  # the four clips
    assert all(address.startswith("data:audio/flac;base") for address in addresses)
    assert not re.search(r"<script|@import|<link|url\((?!#)", page)
    assert "&lt;script&gt;alert(1)" in page
    assert "<h1>Words &amp; voices</h1>" in page


class Balance(HTMLParser):
    """Counts the open elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.regions: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.targets += [value[1:] for name, value in attrs if name == "href" and value]
        if dict(attrs).get("role") == "region":
            self.regions.append(dict(attrs).get("aria-label"))
            assert dict(attrs).get("tabindex") == "0"
        if tag == "svg":
            assert dict(attrs).get("role") == "img"
            assert len(dict(attrs).get("aria-label") or "") > 20
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_element_of_the_page_is_closed(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert {"main", "unmeasured", "recognition"} <= set(parser.targets) <= set(parser.ids)
    assert len(parser.regions) == len(set(parser.regions)) > 4
    assert all(parser.regions)


def test_figures_from_a_synthetic_corpus_are_marked_and_others_not(page: str, tmp_path: Path) -> None:
    assert "<b>Synthetic speech.</b>" in page
    assert 'acted <span class="tag">synthetic speech</span>' in page
    assert 'libri <span class="tag">' not in page
    paths = prepare(tmp_path)
    paths["params_file"].write_text(PARAMS.replace("synthesise:\n  acted: {seed: 1}", "synthesise: {}"))
    report.main(**paths)
    assert "ynthetic speech" not in paths["output"].read_text()


def test_continuations_of_another_model_are_marked(page: str, tmp_path: Path) -> None:
    assert "another model" not in page
    paths = prepare(tmp_path)
    generator = "{source: a-larger-llm, revision: null, sha256: null}"
    paths["params_file"].write_text(PARAMS.replace("generator: null", f"generator: {generator}"))
    report.main(**paths)
    assert "written by <b>another model, a-larger-llm</b>, in place of" in paths["output"].read_text()


def test_continuations_of_the_engine_echo_are_marked(page: str, tmp_path: Path) -> None:
    assert "engine echo" not in page
    assert "No language model wrote" not in page
    paths = prepare(tmp_path)
    paths["params_file"].write_text(PARAMS.replace("engine: vllm", "engine: echo"))
    report.main(**paths)
    echoed = paths["output"].read_text()
    assert "<b>No language model wrote the targets.</b> The training targets were made by the test engine" in echoed
    assert "written by <b>the engine echo</b>, which repeats the sentence." in echoed


def test_the_page_shows_data_continuations_prompts_and_parameters(page: str) -> None:
    text = text_of(page)
    for shown in (
        "test 4 1.00 2",
        "Stage 1, words 4 25.0 25.0 2 refusal, 1 too short",
        "vllm 0.32.0",
        "tiny-llm, revision main",
        "Be helpful.",
        "score: {confidence: 0.95, protocols: []}",
        "the clip emotion head 90.0 (80.0 to 100.0) 90.0 90.0 \N{EN DASH} 4",
        "the clip written answer 50.0 (40.0 to 60.0) 50.0 50.0 25.0 4",
        "2 of 2 test speakers also speak in the training rows",
    ):
        assert shown in text


def test_sentences_are_neutral_only_when_each_is_spoken_in_every_emotion() -> None:
    rows = manifest_rows("acted", ["neutral", "sad"])
    assert report.texts_are_neutral(parquet.from_rows(rows, manifest.SCHEMA))
    rows[0]["text"] = "what a sad day"
    assert not report.texts_are_neutral(parquet.from_rows(rows, manifest.SCHEMA))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "metrics.json: no such file; evaluate.score has not run"),
        ("[1]", r"metrics.json: expected nested JSON objects: test \(task and corpus\), then system, then metric"),
        ("{}", "metrics.json: found no keys, expected at least one key emotion_<corpus>"),
        ('{"kl": {}}', "metrics.json: found the keys kl, expected at least one key emotion_<corpus>"),
    ],
)
def test_unusable_metrics_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    paths["metrics"].unlink() if content is None else paths["metrics"].write_text(content)
    with pytest.raises(UserError, match=message):
        report.main(**paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "confusions.json: no such file; evaluate.score has not run"),
        ("[1]", "confusions.json: expected JSON counts by corpus and system"),
        ('{"acted": {"head": [[1, 2, 0]]}}', "confusions.json: acted: head: expected 2 rows of 3 counts; run score"),
        ('{"acted": {}}', "confusions.json: acted: head: expected 2 rows of 3 counts; run score"),
    ],
)
def test_unusable_confusions_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    paths["confusions"].unlink() if content is None else paths["confusions"].write_text(content)
    with pytest.raises(UserError, match=message):
        report.main(**paths)


@pytest.mark.parametrize(
    "missing",
    ["manifests/semantic.parquet", "manifests/continuations/emotion.kept.parquet", "models/emotion/losses.jsonl"],
)
def test_a_missing_input_is_named(missing: str, tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}: no such file"):
        report.main(**paths)


def add_answers(folder: Path) -> None:
    """Write what each system says of the clips of `prepare`, what was rejected, and what leaks."""
    predictions = folder / "predictions" / "emotion"
    who = [
        {"id": f"acted/{i}", "corpus": "acted", "speaker": f"acted/{i % 2}", "emotion": CLASSES[i % 2]}
        for i in range(4)
    ]
    plain = {"text": "kids are talking", "seen_words": True, "num_tokens": [3, 3], "candidates": [0, 1]}
    own = [
        {**row, **plain, "system": system, "logprobs": [-5.0, -9.0], "named": [False, False]}
        for row in who
        for system in OWN_SYSTEMS
    ]
    write_table(predictions / "own_answers.parquet", own, OWN_ANSWERS_SCHEMA)
    answered = [
        {**row, "system": system.name, "answer": f"{system.name} <b>", "predicted": "sad", "scores": [-0.1, -2.0]}
        for row in who
        for system in SYSTEMS
    ]
    write_table(predictions / "recognition.parquet", answered, RECOGNITION_SCHEMA)
    leak = {
        "kind": "sentence",
        "corpus": "acted",
        "value": "kids are talking",
        "seen_id": "acted/5",
        "test_id": "acted/0",
    }
    rows = {"train_rows": 4, "dev_rows": 0, "test_rows": 4, "allowed": "not in leaks.forbid"}
    write_table(folder / "manifests" / "leaks.parquet", [{**leak, **rows}], LEAKS_SCHEMA)
    gone = utterance("acted/9", corpus="acted") | {"reason": "emotion is no class"}
    write_table(folder / "manifests" / "excluded.parquet", [gone, gone], EXCLUDED_SCHEMA)
    summary = {"corpus": "acted", "rows": 8, "quarantined": {"silent": 3}, "coverage": {"clips": [11, 12], "x": [2, 2]}}
    (folder / "manifests" / "ingested").mkdir()
    (folder / "manifests" / "ingested" / "acted.json").write_text(json.dumps(summary))


def test_the_page_shows_rejected_clips_leaks_and_what_every_system_says_of_an_example(tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    report.main(**paths)
    before = text_of(paths["output"].read_text())
    for missing in ("Rejected clips usable", "shared values", "What every system says"):
        assert missing not in before
    assert "Whether test shares data with training : python -m pipeline.leaks" in before
    add_answers(tmp_path)
    report.main(**paths)
    text = text_of(paths["output"].read_text())
    assert (
        "acted synthetic speech 8 3: no sample is louder than -60 dB of full scale 2: emotion is no class clips: 11"
        in text
    )
    assert "acted sentence 1 not in leaks.forbid kids are talking: acted/5 and acted/0" in text
    assert "Whether test shares data" not in text
    assert text.count("What every system says of this clip") == 4
    assert "the clip emotion head sad \N{CHECK MARK} right head &lt;b&gt;" in text
    assert "the clip after stage 2 neutral or sad" in text  # less the mean, both are equally likely
    assert "Calibration of the emotion head" in text


@pytest.mark.parametrize("content", ["{}", "[", '{"corpus": "x", "rows": "many", "quarantined": {}, "coverage": {}}'])
def test_an_unusable_summary_of_a_corpus_is_refused(content: str, tmp_path: Path) -> None:
    paths = prepare(tmp_path)
    (tmp_path / "manifests" / "ingested").mkdir()
    (tmp_path / "manifests" / "ingested" / "acted.json").write_text(content)
    with pytest.raises(UserError, match=r"acted.json: expected the summary of a corpus, as ingest writes it"):
        report.main(**paths)


def test_a_section_that_has_nothing_to_show_is_neither_on_the_page_nor_in_the_contents(page: str) -> None:
    for absent in ("own", "empathy", "protocols"):
        assert f'id="{absent}"' not in page
        assert f'href="#{absent}"' not in page
    assert '<li><a href="#unmeasured">What was not measured</a></li>' in page
