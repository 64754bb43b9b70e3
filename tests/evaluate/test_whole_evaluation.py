"""All of evaluate, from random tiny models to the report: each stage reads what the stages before it have written."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluate import own_answers
from evaluate.judge import __main__ as judge
from evaluate.metrics import Metrics
from evaluate.probe import __main__ as probe
from evaluate.report import __main__ as report
from evaluate.respond import __main__ as respond
from evaluate.score import __main__ as score
from evaluate.semantics import __main__ as semantics
from evaluate.transcribe import __main__ as transcribe
from evaluate.transcribe import transcriber
from evaluate.verdict.statement import state_claims
from evaluate.verdict.unmeasured import find_unmeasured
from pipeline.generate.engines.interface import Answer, Request
from pipeline.prompts import Prompter
from pipeline.tables import packed
from pipeline.tables.continuations import DROPPED_SCHEMA, KEPT_SCHEMA, STOP, TOLD_SCHEMA
from pipeline.weights.source import ModelsParams, Weights
from tests.builders import change_params, utterance, weights, write_table
from tests.conftest import ROOT
from tests.doubles import RecordingEngine, let_runs_start
from tests.evaluate.judge.test_judge import fair_taste, replies_of, section
from tests.evaluate.respond.test_own_answers import save_model, told_row
from train import emotion_prompt
from train.emotion_prompt import EmotionPrompt

OWN_PROTOCOL = """
name: ours-2
about: Two classes of two speakers.
reader: table
corpus: corpus
classes: [sad, happy]
folds: {one: [test-0], two: [test-1]}
headline: [ua]
source: ours
"""


def prepare(folder: Path, root: Path, data: Path, models: ModelsParams) -> Path:
    """Write parameters, models, manifests and continuations; return the parameter file."""
    (folder / "ours-2.yaml").write_text(OWN_PROTOCOL)
    for name in ("semantic", "emotion"):
        save_model(folder / "models" / name, models, stage1=name == "semantic")
        lines = [json.dumps({"step": step, "lr": 0.1, "loss": 1.0, "kl": 1.0, "ce": 1.0, "emotion": 0.5})
                 for step in (5, 10)]  # fmt: skip
        (folder / "models" / name / "losses.jsonl").write_text("\n".join(lines))
        write_table(folder / "manifests" / f"{name}.parquet", manifest_rows(data))
        continuations = folder / "manifests" / "continuations"
        kept = {"id": "x", "continuation": "Oh.", "token_ids": [1], "engine": "x", "finish_reason": STOP, "echo": 0.0}
        write_table(continuations / f"{name}.kept.parquet", [kept], KEPT_SCHEMA)
        write_table(continuations / f"{name}.dropped.parquet", [kept | {"reason": "refusal"}], DROPPED_SCHEMA)
    told = [told_row(f"text {number}", emotion) for number in range(8) for emotion in ("sad", "happy")]
    write_table(folder / "told.parquet", told, TOLD_SCHEMA)
    config = emotion_prompt.describe(models.llm, ["sad", "happy"], 2, ["no clip says this"])
    emotion_prompt.save_prompt(EmotionPrompt(torch.randn(2, 2, 32)), config, folder / "models" / "prompt")
    small = {"batch_size": 3, "max_new_tokens": 5}
    changes: dict[str, Any] = {
        "models": {"encoder": models.encoder.model_dump(), "llm": models.llm.model_dump()},
        "emotions": ["sad", "happy"],
        "ingest": {"corpus": {"reader": "table", "root": "r", "check": "samples"}},
        "processes": 1,
        "score.protocols": [str(folder / "ours-2.yaml")],
        "judge": section(Path(models.llm.source), repeats=1),
        **{f"respond.{name}": value for name, value in small.items()},
        **{f"semantics.{name}": value for name, value in small.items()},
    }
    return change_params(changes, root / "params.yaml", to=folder / "params.yaml")


def manifest_rows(data: Path) -> list[dict[str, Any]]:
    return [
        utterance(row["id"], split=split, gender="female", duration_s=row["num_samples"] / 16_000)
        | {name: row[name] for name in ("corpus", "speaker", "emotion", "text")}
        for split in ("train", "dev", "test")
        for row in packed.load(data, split)
    ]


def write_report(folder: Path, metrics: Path, output: Path) -> None:
    """Write the report of the stages that have run in a folder."""
    report.main(
        metrics=metrics,
        confusions=folder / "confusions.json",
        predictions=folder / "predictions",
        models_folder=folder / "models",
        manifests=folder / "manifests",
        output=output,
        params_file=folder / "params.yaml",
    )


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory,
    packed_folder: Path,
    tiny_models: ModelsParams,
    whisper_folder: Path,
) -> Path:
    """The folder in which all stages have run."""
    folder, data = tmp_path_factory.mktemp("whole"), packed_folder
    models = ModelsParams(encoder=Weights(**weights(whisper_folder)), llm=tiny_models.llm)
    file = prepare(folder, ROOT, data, models)
    found, stage1, stage2 = folder / "predictions", folder / "models" / "semantic", folder / "models" / "emotion"
    prompter = Prompter.load(Path(models.llm.source))
    reply = replies_of(fair_taste())

    def answer(request: Request, _count: int) -> Answer:
        return Answer(prompter.answer_ids(reply(request.transcript)), STOP, -1.0)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BLSP_STORE", str(folder / "store"))
        monkeypatch.setattr(own_answers, "PERMUTATIONS", 99)
        monkeypatch.setattr(transcriber, "MAX_TOKENS", 12)
        let_runs_start(monkeypatch, RecordingEngine(answer))
        probe.main(data, found / "probe", params_file=file)
        transcribe.main(data, data, found / "transcripts.parquet", params_file=file)
        respond.main("semantic", data, stage1, found / "semantic", params_file=file)
        told = {"told": folder / "told.parquet", "stage1": stage1, "stage1_data": data}
        told |= {"prompt": folder / "models" / "prompt"}
        respond.main("emotion", data, stage2, found / "emotion", **told, params_file=file)
        of_models = {name: found / "semantics" / f"{name}.parquet" for name in ("semantic", "emotion")}
        for name, output in of_models.items():
            semantics.main(
                data, folder / "models" / name, output, transcripts=found / "transcripts.parquet", params_file=file
            )
        own = found / "emotion" / "own_answers.parquet"
        written = found / "emotion" / "written.parquet"
        judge.main(folder / "told.parquet", own, found / "judge", written=written, params_file=file)
        score.main(
            divergence=found / "semantic" / "divergence.parquet",
            recognition=found / "emotion" / "recognition.parquet",
            metrics=folder / "metrics.json",
            confusions=folder / "confusions.json",
            plots=folder / "plots",
            models=folder / "models",
            probe=found / "probe" / "probe.parquet",
            dev_head=found / "emotion" / "dev_head.parquet",
            prompts=found / "emotion" / "prompts.parquet",
            own_answers=own,
            transcripts=found / "transcripts.parquet",
            semantics=list(of_models.values()),
            judge=found / "judge",
            manifests=folder / "manifests",
            params_file=file,
        )
        write_report(folder, folder / "metrics.json", folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def metrics(evaluated: Path) -> Metrics:
    found: Metrics = json.loads((evaluated / "metrics.json").read_text())
    return found


def test_every_stage_has_its_scores(metrics: Metrics) -> None:
    tests = {
        "continuation_kl_corpus", "emotion_corpus", "own_answers_corpus", "seen_words_own_answers_corpus", "ours-2",
        "transcripts_corpus", "repeat_semantic_corpus", "repeat_emotion_corpus", "instructions_semantic",
        "instructions_emotion", "text_alone_semantic", "text_alone_emotion", "judge_exam", "judge_corpus",
        "claims_emotion_corpus", "claims_continuation_kl_corpus", "claims_own_answers_corpus",
    }  # fmt: skip
    assert tests <= metrics.keys()
    recognised = metrics["emotion_corpus"]
    assert {"head", "logprob", "prompted", "probe", "shuffled_head", "logprob_prompts"} <= recognised.keys()
    assert "temperature" in recognised["head"]
    assert metrics["ours-2"]["protocol"]["rows"] == metrics["ours-2"]["head"]["n"] == 8
    assert metrics["ours-2"]["head"]["ua"] == recognised["head"]["ua"], "the protocol tests the same clips"
    assert metrics["judge_exam"]["exam"]["passed"] == 1
    assert {"head_minus_probe", "logprob_minus_transcript_logprob"} <= metrics["claims_emotion_corpus"].keys()
    own = metrics["claims_own_answers_corpus"]
    assert {"prompted_head_minus_told_head", "prompted_head_minus_shuffled_prompted_head"} <= own.keys()
    assert {"prompted_head", "voice"} <= metrics["judge_corpus"].keys()


def test_the_report_states_every_claim_that_these_clips_allow(metrics: Metrics, evaluated: Path) -> None:
    claims = state_claims(metrics, "95 %", 0.05)
    names = {"seen-words", "more-than-length", "prompted", "recognition", "hearing", "kept"}
    assert names <= {claim.name for claim in claims}
    page = re.sub(r"<style.*?</style>|<[^>]+>", " ", (evaluated / "report.html").read_text(), flags=re.DOTALL)
    words = " ".join(html.unescape(page).split())
    for claim in claims:
        assert claim.question in words
        for finding in claim.findings:
            assert " ".join(finding.sentence.split()) in words
    assert "ours-2" in words


def test_only_what_was_not_measured_is_said_to_be_so(metrics: Metrics) -> None:
    unmeasured = {each.what for each in find_unmeasured(metrics)}
    assert "Accuracy by gender and by duration" in unmeasured, "eight clips are too few"
    assert not unmeasured & {
        "Whether the voice chooses among the language model's own answers",
        "What the encoder holds before training",
        "Word errors of the whole Whisper",
        "Word errors when the model repeats what was said",
        "Whether instructions are followed for speech as for text",
        "Whether training left the answers to text as they were",
        "Empathy of the written answers",
        "A score that can be compared with published ones",
        "Calibration of the emotion head with a temperature",
        "How much recognition depends on the prompt",
    }


def test_a_run_without_an_emotion_prompt_has_a_report(evaluated: Path, metrics: Metrics, tmp_path: Path) -> None:
    without = {
        name: {system: scores for system, scores in table.items() if "prompted_" not in system}
        for name, table in metrics.items()
    }
    assert without["own_answers_corpus"].keys() < metrics["own_answers_corpus"].keys()
    (tmp_path / "metrics.json").write_text(json.dumps(without))
    write_report(evaluated, tmp_path / "metrics.json", tmp_path / "report.html")
    learnt = "With embeddings learnt from text"
    assert learnt in (evaluated / "report.html").read_text()
    assert learnt not in (tmp_path / "report.html").read_text()
