"""The report tells a good model from models that only look like one, and says what is wrong with each.

Everything behind the model is the real code: what it is given, controls, pairs, scores, comparisons and sentences.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from evaluate import own_answers
from evaluate.metrics import Metrics
from evaluate.respond import __main__ as respond
from evaluate.score import __main__ as score
from evaluate.verdict.findings import CONTRADICTED, NOT_SHOWN, SHOWN, Finding
from evaluate.verdict.statement import state_claims
from pipeline.weights.source import ModelsParams
from tests.evaluate.traps import models
from tests.evaluate.traps.corpus import Folders, make
from tests.evaluate.traps.models import Good
from tests.evaluate.traps.stand_in import put_in_place

Evaluate = Callable[[type[Good]], Metrics]
LABEL, HEAD = 0, 1  # findings on recognition of a corpus
SILENCE, STAGE1, CASCADE = 0, 1, 2  # findings on rivals


def evaluate(folders: Folders, model: Good) -> Metrics:
    """Run respond on a stand-in, and score; return metrics.json."""
    root, output = folders.root, folders.root / type(model).__name__
    emotion, semantic = output / "emotion", output / "semantic"
    stage2, settings = root / "stage2", folders.params_file
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(own_answers, "PERMUTATIONS", 499)
        put_in_place(monkeypatch, model)
        respond.main("semantic", folders.data("semantic"), stage2, semantic, params_file=settings)
        own = {"told": folders.told, "stage1": root / "stage1", "stage1_data": folders.data("semantic")}
        respond.main("emotion", folders.data("emotion"), stage2, emotion, **own, params_file=settings)
        score.main(
            divergence=semantic / "divergence.parquet",
            recognition=emotion / "recognition.parquet",
            own_answers=emotion / "own_answers.parquet",
            metrics=output / "metrics.json",
            confusions=output / "confusions.json",
            plots=output / "plots",
            manifests=root / "manifests",
            params_file=settings,
        )
    found: Metrics = json.loads((output / "metrics.json").read_text())
    return found


def once_each(folders: Folders) -> Evaluate:
    """Return a function that evaluates a model at its first call."""
    known: dict[type[Good], Metrics] = {}

    def run(model: type[Good]) -> Metrics:
        if model not in known:
            known[model] = evaluate(folders, model())
        return known[model]

    return run


@pytest.fixture(scope="module")
def evaluate_clean(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModelsParams) -> Evaluate:
    """Evaluates a model whose training has no test speaker."""
    folders = make(tmp_path_factory.mktemp("clean"), tiny_models)
    return once_each(folders)


@pytest.fixture(scope="module")
def evaluate_shared(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModelsParams) -> Evaluate:
    """Evaluates a model whose training has half of the test speakers."""
    folders = make(tmp_path_factory.mktemp("shared"), tiny_models, num_shared=models.NUM_KNOWN)
    return once_each(folders)


def find(metrics: Metrics, claim: str, corpus: str, place: int) -> Finding:
    """Return a finding of a claim on a corpus; `place` is its number on this corpus."""
    (found,) = (each for each in state_claims(metrics, "95 %", 0.05) if each.name == claim)
    return [each for each in found.findings if each.corpus == corpus][place]


@dataclass(frozen=True, slots=True)
class Flip:
    """A finding that differs between the good model and a trap; `good` and `trap` are patterns of their sentences."""

    model: type[Good]
    claim: str
    corpus: str
    good: str
    trap: str
    states: tuple[str, str] = (SHOWN, NOT_SHOWN)
    place: int = 0


OF_CLIP, BETTER = "that of its emotion with an unweighted accuracy of ", "It is better than chance"
AT_CHANCE = "It is not clearly different from chance"

FLIPS = (
    Flip(models.AlwaysNeutral, "new-words", "acted", BETTER, AT_CHANCE),
    Flip(models.AlwaysNeutral, "recognition", "acted", BETTER, AT_CHANCE),
    Flip(models.AlwaysNeutral, "recognition", "acted", BETTER, AT_CHANCE, place=HEAD),
    Flip(models.InvalidAnswers, "recognition", "acted", "written answers, 0 % name none of the classes; .* is 9. %",
         "written answers, 100 % name none of the classes; their accuracy is 0 %", (SHOWN, SHOWN)),
    Flip(models.MemorisedTest, "new-words", "felt", "better than chance .*, the transcript .* and silence",
         "not clearly different from the transcript .* and silence .* another speaker's clip, .* suggests a data leak"),
    Flip(models.KnownSpeakers, "new-words", "acted", "also heard .* of new speakers 9. % .*%\\)\\.$",
         "also heard 6 test speakers.* accuracy is 9. % .* not shown that new voices are", (SHOWN, SHOWN)),
    Flip(models.KnownSpeakers, "recognition", "acted", "also heard .* of new speakers [78]. % .*%\\)\\.$",
         "also heard 6 test speakers.* accuracy is [78]. % .* not shown that new voices are", (SHOWN, SHOWN), HEAD),
    Flip(models.NoWords, "hearing", "read", "further .* by 2.470 nats .* training lowered the KL",
         "further .* by 0.000 nats .* training did not lower the KL"),
    Flip(models.NoEmotion, "new-words", "acted", BETTER, AT_CHANCE),
    Flip(models.NoEmotion, "more-than-length", "acted", "before stage 2, .* 96 % against",
         "before stage 2, .* 28 % against", place=STAGE1),
    Flip(models.NoEmotion, "recognition", "felt", "better than chance \\(p < 0.001\\)(,| and) the transcript",
         "not clearly different from the transcript"),
    Flip(models.TranscriptOnly, "new-words", "felt", "better than chance .*, the transcript .* and silence",
         "not clearly different from the transcript"),
    Flip(models.TranscriptOnly, "recognition", "felt", "better than chance \\(p < 0.001\\)(,| and) the transcript",
         "not clearly different from the transcript"),
    Flip(models.TranscriptOnly, "recognition", "felt", "better than chance \\(p < 0.001\\)(,| and) the transcript",
         "not clearly different from the transcript", place=HEAD),
    Flip(models.LengthOnly, "new-words", "acted", "Silence of the same length reaches 25 %.*and silence of",
         "Silence of the same length reaches 100 %.* not clearly different from silence of the same length"),
    Flip(models.LengthOnly, "recognition", "acted", "better than chance .*, the transcript .* and silence",
         "(not clearly different from|worse than) silence of the same length"),
    Flip(models.LengthOnly, "more-than-length", "acted", "Against silence .* 96 % against 25 %",
         "Against silence .* 96 % against 100 %", (SHOWN, CONTRADICTED)),
    Flip(models.ShortestAnswer, "new-words", "acted", BETTER, AT_CHANCE),
    Flip(models.ShortestAnswer, "more-than-length", "acted", "Against the cascade .* 96 % against",
         "Against the cascade .* 25 % against", (SHOWN, CONTRADICTED), CASCADE),
    Flip(models.HeadOnly, "new-words", "acted", BETTER, AT_CHANCE),
    Flip(models.HeadOnly, "more-than-length", "acted", "Against the cascade .* 96 % against",
         "Against the cascade .* 28 % against", (SHOWN, CONTRADICTED), CASCADE),
    Flip(models.OtherOrder, "new-words", "acted", BETTER, "worse than chance .* another order than in training",
         (SHOWN, CONTRADICTED)),
    Flip(models.OtherOrder, "recognition", "acted", BETTER, "worse than chance .* another order than in training",
         (SHOWN, CONTRADICTED), HEAD),
)  # fmt: skip


@pytest.mark.parametrize(
    "flip", FLIPS, ids=lambda flip: f"{flip.model.__name__}-{flip.claim}-{flip.corpus}{flip.place}"
)
def test_a_finding_tells_the_trap_from_the_good_model(
    flip: Flip, evaluate_clean: Evaluate, evaluate_shared: Evaluate
) -> None:
    run = evaluate_shared if flip.model is models.KnownSpeakers else evaluate_clean
    good, trap = (find(run(model), flip.claim, flip.corpus, flip.place) for model in (Good, flip.model))
    assert (good.state, trap.state) == flip.states
    for finding, own, other in ((good, flip.good, flip.trap), (trap, flip.trap, flip.good)):
        sentence = finding.sentence.replace("\N{NO-BREAK SPACE}", " ")
        assert re.search(own, sentence), sentence
        assert not re.search(other, sentence), sentence


def test_every_claim_on_the_good_model_is_shown_and_no_leak_is_suspected(evaluate_clean: Evaluate) -> None:
    claims = state_claims(evaluate_clean(Good), "95 %", 0.05)
    assert [claim.name for claim in claims] == ["new-words", "seen-words", "more-than-length", "recognition", "hearing"]
    for claim in claims:
        for finding in claim.findings:
            assert finding.state == SHOWN, finding.sentence
            for complaint in ("leak", "another order", "also heard", "Exchanging"):
                assert complaint not in finding.sentence


OWN = ("voice", "shuffled", "silence", "transcript")
RECOGNISED = ("head", "logprob", "prompted", "shuffled_head", "shuffled_logprob", "transcript_logprob")
TOLERANCE = 0.08
NUMBERS = (
    (Good, "acted", (0.96, 0, 0.25, 0.25), (0.81, 0.96, 0.96, 0.09, 0.01, 0.25)),
    (Good, "felt", (0.96, 0, 0.25, 0.62), (0.81, 0.98, 0.98, 0.05, 0, 0.62)),
    (models.AlwaysNeutral, "acted", (0.25, 0.25, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25, 0.25, 0.25)),
    (models.InvalidAnswers, "acted", (0.96, 0, 0.25, 0.25), (0.81, 0.96, 0, 0.09, 0.01, 0.25)),
    (models.MemorisedTest, "felt", (1, 1, 1, 1), (0.25, 0.62, 0.62, 0.25, 0.12, 0.62)),
    (models.KnownSpeakers, "acted", (0.62, 0.14, 0.25, 0.25), (0.56, 0.62, 0.62, 0.17, 0.14, 0.25)),
    (models.NoWords, "felt", (0.96, 0, 0.25, 0.62), (0.81, 0.98, 0.98, 0.05, 0, 0.62)),
    (models.NoEmotion, "acted", (0.25, 0.25, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25, 0.25, 0.25)),
    (models.TranscriptOnly, "felt", (0.62, 0.12, 0.25, 0.62), (0.62, 0.62, 0.62, 0.12, 0.12, 0.62)),
    (models.LengthOnly, "acted", (0.96, 0, 1, 0.25), (0.96, 0.96, 0.96, 0.01, 0.01, 0.25)),
    (models.ShortestAnswer, "acted", (0.25, 0.25, 0.25, 0.25), (0.81, 0.96, 0.96, 0.09, 0.01, 0.25)),
    (models.HeadOnly, "acted", (0.25, 0.25, 0.25, 0.25), (0.81, 0.25, 0.25, 0.09, 0.25, 0.25)),
    (models.OtherOrder, "acted", (0.01, 0.33, 0.25, 0.25), (0.08, 0.01, 0.01, 0.29, 0.33, 0.25)),
)  # fmt: skip


@pytest.mark.parametrize(("model", "corpus", "own", "recognised"), NUMBERS)
def test_the_numbers_behind_the_findings_are_those_of_the_model(
    model: type[Good],
    corpus: str,
    own: tuple[float, ...],
    recognised: tuple[float, ...],
    evaluate_clean: Evaluate,
    evaluate_shared: Evaluate,
) -> None:
    metrics = (evaluate_shared if model is models.KnownSpeakers else evaluate_clean)(model)
    expected = {
        f"own_answers_{corpus}": dict(zip(OWN, own, strict=True)),
        f"emotion_{corpus}": dict(zip(RECOGNISED, recognised, strict=True)),
    }
    for test, systems in expected.items():
        found = {system: metrics[test][system]["ua"] for system in systems}
        assert found == pytest.approx(systems, abs=TOLERANCE), test
    assert metrics[f"own_answers_{corpus}"]["told_true"]["ua"] > 0.9, "what the LLM does if it knows the emotion"


def test_known_speakers_and_new_ones_have_scores_of_their_own(evaluate_shared: Evaluate) -> None:
    metrics = evaluate_shared(models.KnownSpeakers)
    for test, system, known in (("own_answers_acted", "voice", 0.96), ("emotion_acted", "head", 0.81)):
        found = [metrics[f"speaker={group}/{test}"][system]["ua"] for group in ("trained", "new")]
        assert found == pytest.approx([known, 0.25], abs=TOLERANCE)


def test_every_trap_is_told_from_the_good_model() -> None:
    of_models = {each for each in vars(models).values() if isinstance(each, type) and issubclass(each, Good)}
    traps = of_models - {Good, models.Stage1}
    assert len(traps) == 11
    assert traps == {flip.model for flip in FLIPS} == {model for model, *_ in NUMBERS} - {Good}
