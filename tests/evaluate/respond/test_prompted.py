"""Own answers with an emotion prompt: what stands before the clips, and that nothing else changes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluate import predictions
from evaluate.asking.finished import FinishedBatches
from evaluate.respond import __main__ as respond
from evaluate.respond import own_answers
from evaluate.respond.own_queries import Asker, Query
from evaluate.respond.params import RespondParams
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import change_params
from tests.evaluate.respond.test_own_answers import (
    EMOTIONS,
    PROMPT,
    SETTINGS,
    params_file,
    run,
    stage1,
    stage2,
    told,
)
from train import saved_model
from train.emotion_prompt import EmotionPrompt, before_speech, describe, load_prompt, save_prompt
from train.inference import Answering, Clip
from train.model import Speech, SpeechLLM

__all__ = ["params_file", "stage1", "stage2", "told"]  # fixtures
TOKENS = 3


@pytest.fixture
def prompt(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    """A prompt of random embeddings that was learnt from the words of one test row."""
    torch.manual_seed(7)
    config = describe(tiny_models.llm, EMOTIONS, TOKENS, ["text 5", "no clip says this"])
    save_prompt(EmotionPrompt(torch.randn(2, TOKENS, 32)), config, tmp_path / "prompt")
    return tmp_path / "prompt"


def embeddings(folder: Path, models: ModelsParams) -> Tensor:
    loaded = load_prompt(folder, models.llm, EMOTIONS)
    assert loaded is not None
    return loaded[0].embeddings


def plain_scores(model: SpeechLLM, content: Tensor, of_text: own_answers.Told) -> list[float]:
    """Score continuations after a content, each by one forward pass over the whole sequence."""
    shell = Prompter.load(Path(str(model.llm.name_or_path))).speech(Prompt.model_validate(PROMPT))
    found = []
    for answer in of_text.answers:
        before, after = (model.token_embeddings(torch.tensor(ids)) for ids in (shell.before, (*shell.after, *answer)))
        with torch.no_grad():
            logits = model.llm(inputs_embeds=torch.cat([before, content, after])[None]).logits[0]
        log_p = logits[-len(answer) - 1 : -1].log_softmax(-1)
        found.append(float(log_p[range(len(answer)), list(answer)].sum()))
    return found


def test_each_system_has_its_mixture_before_the_clip(
    packed_folder: Path, tmp_path: Path, tiny_models: ModelsParams, stage1: Path, stage2: Path, told: Path,
    params_file: Path, prompt: Path,
) -> None:  # fmt: skip
    table = run(packed_folder, tmp_path, prompt=prompt)
    assert set(table.system) == {*predictions.OWN_SYSTEMS, *predictions.OWN_PROMPTED}
    rows, answers = packed.load(packed_folder, "test"), own_answers.read_told(told, EMOTIONS, 0)
    first, second = saved_model.load(stage1), saved_model.load(stage2)
    asker = Asker(stage1, rows, {}, Prompt.model_validate(PROMPT), RespondParams.model_validate(SETTINGS),
                  FinishedBatches(tmp_path / "other", {}))  # fmt: skip
    e, by_id = embeddings(prompt, tiny_models), {row["id"]: number for number, row in enumerate(rows)}
    clips: list[Clip] = [asker._clip(Query("", clip=number)) for number in range(len(rows))]
    heads = [Answering(second, asker.prompter, 1).emotion_scores([clip])[0] for clip in clips]

    def content(number: int, weights: list[float]) -> Tensor:
        with torch.no_grad():
            clip = clips[number]
            speech = first.encode_speech(clip.features[None], torch.tensor([clip.num_frames])).embeddings[0]
        return torch.cat([weights[0] * e[0] + weights[1] * e[1], speech])

    checked = 0
    for row in table[table.system.str.contains("prompted")].itertuples():
        number = by_id[row.id]
        of_head = [[math.exp(score) for score in head] for head in heads]
        weights = {
            "prompted_head": of_head[number],
            "prompted_true": [float(emotion == row.emotion) for emotion in EMOTIONS],
            "prompted_even": [0.5, 0.5],
        }
        if row.system == "shuffled_prompted_head":
            others = [n for n, r in enumerate(rows) if r["speaker"] != row.speaker and r["emotion"] != row.emotion]
            expected = [plain_scores(first, content(n, of_head[n]), answers[row.text]) for n in others]
        else:
            expected = [plain_scores(first, content(number, weights[row.system]), answers[row.text])]
        assert any(row.logprobs == pytest.approx(each, abs=1e-4) for each in expected), row.system
        checked += 1
    assert checked == 8 * 4
    of_system = {name: np.stack(of.sort_values("id").logprobs) for name, of in table.groupby("system")}
    for name in ("prompted_head", "prompted_true", "stage1"):  # another mixture would be noticed above
        assert np.abs(of_system[name] - of_system["prompted_even"]).max() > 1e-3, name


def test_the_other_systems_do_not_change_and_the_text_path_keeps_its_bits(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path, prompt: Path
) -> None:
    change_params({"respond.batch_size": 64}, params_file)  # so that all rows of a kind are in one batch
    without = run(packed_folder, tmp_path)
    found = run(packed_folder, tmp_path, prompt=prompt)
    others = found[found.system.isin(predictions.OWN_SYSTEMS)].reset_index(drop=True)
    by_text = others.system == "transcript"
    exact = [a.tolist() == b.tolist() for a, b in zip(others.logprobs, without.logprobs, strict=True)]
    assert by_text.sum() == 8
    assert np.array(exact)[by_text].all()
    np.testing.assert_allclose(np.stack(others.logprobs), np.stack(without.logprobs), rtol=1e-5)


def test_the_sentences_of_the_prompt_count_as_seen(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, prompt: Path
) -> None:
    rows, settings = packed.load(packed_folder, "test"), RespondParams.model_validate(SETTINGS)
    finished = FinishedBatches(tmp_path / "measured", {})
    given: Any = (stage1, stage2, rows, told, [], None, Prompt.model_validate(PROMPT), settings, finished, prompt)
    tables = own_answers.measure(*given)
    finished.remove()
    seen = tables.scores.filter(tables.scores["seen_words"])
    assert set(seen["text"].to_pylist()) == {"text 5"}
    assert len(seen) == len(predictions.OWN_SYSTEMS) + len(predictions.OWN_PROMPTED)
    assert {"prompted_head", "told_head"} < set(tables.written["system"].to_pylist())


def test_one_emotion_alone_is_that_emotion_and_rows_of_a_batch_do_not_depend_on_each_other(
    tiny_models: ModelsParams, stage1: Path
) -> None:
    torch.manual_seed(3)
    prompt = EmotionPrompt(torch.randn(2, TOKENS, 32))
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]])
    mixed = prompt.mixed(weights)
    assert torch.equal(mixed[:2], prompt.embeddings[[1, 0]])
    torch.testing.assert_close(mixed[2], 0.25 * prompt.embeddings[0] + 0.75 * prompt.embeddings[1])
    model, prompter = saved_model.load(stage1), Prompter.load(Path(tiny_models.llm.source))
    answering = Answering(model, prompter, 4)
    clips = [Clip(torch.randn(80, frames), frames) for frames in (90, 300, 150)]
    answers = [[(40, 41, 0), (50, 51)]] * 3
    shells = [prompter.speech(Prompt.model_validate(PROMPT))] * 3
    with torch.no_grad():
        speech = answering.encode_speech(clips)
        given = before_speech([mixed[0], None, mixed[2]], speech)
        lengths = [int(valid.sum()) for valid in speech.valid]
        assert given.valid.sum(1).tolist() == [lengths[0] + TOKENS, lengths[1], lengths[2] + TOKENS]
        together = answering.score_and_write_some(shells, given, answers, [0, 1, 2])
        for row in range(3):
            one = Speech.of([given.embeddings[row][given.valid[row]]])
            alone = answering.score_and_write_some(shells[:1], one, answers[:1], [0])
            assert together[0][row] == pytest.approx(alone[0][0], abs=1e-4)
            assert together[1][row] == alone[1][0]


def test_a_folder_that_says_that_there_is_no_prompt_adds_no_system(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    save_prompt(None, None, tmp_path / "prompt")
    table = run(packed_folder, tmp_path, prompt=tmp_path / "prompt")
    assert set(table.system) == set(predictions.OWN_SYSTEMS)


def test_a_prompt_alone_is_one_line(packed_folder: Path, tmp_path: Path, params_file: Path, prompt: Path) -> None:
    with pytest.raises(UserError, match="--prompt: found it without --told, --stage1 and --stage1-data, expected all"):
        respond.main("emotion", packed_folder, tmp_path, tmp_path / "out", prompt=prompt, params_file=params_file)


def test_a_prompt_for_another_llm_or_other_emotions_is_refused(tiny_models: ModelsParams, prompt: Path) -> None:
    with pytest.raises(UserError, match=r"prompt: found an emotion prompt for sad, happy, expected one for sad, calm"):
        load_prompt(prompt, tiny_models.llm, ["sad", "calm"])
    with pytest.raises(UserError, match=r"prompt: found an emotion prompt for .+/llm, expected one for .+/encoder$"):
        load_prompt(prompt, tiny_models.encoder, EMOTIONS)


def test_a_damaged_prompt_is_one_line(tmp_path: Path, tiny_models: ModelsParams, prompt: Path) -> None:
    def load() -> Any:
        return load_prompt(prompt, tiny_models.llm, EMOTIONS)

    config = prompt / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"tokens": 3', '"tokens": 4'))
    with pytest.raises(UserError, match=r"found other tensors, expected embeddings of the shape \[2, 4\] \+ width"):
        load()
    config.write_text(whole.replace("tokens", "token"))
    with pytest.raises(UserError, match=r"config.json: found other content, expected the one that python -m train"):
        load()
    config.write_text(whole)
    (prompt / "prompt.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"prompt.safetensors: found .+, expected the embeddings of a prompt"):
        load()
    config.unlink()
    with pytest.raises(UserError, match=r"prompt: no emotion prompt there \(config.json is missing\); run python -m"):
        load()
