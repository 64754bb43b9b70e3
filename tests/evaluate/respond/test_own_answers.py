"""Own answers of small random models: what each system is given, and log-probabilities as of a plain forward pass."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from evaluate import predictions
from evaluate.asking.finished import FinishedBatches
from evaluate.respond import __main__ as respond
from evaluate.respond import own_answers
from evaluate.respond.own_queries import Asker, Query
from evaluate.respond.params import RespondParams
from evaluate.respond.silence import silent_frames
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.tables.continuations import LENGTH, NO_TRANSCRIPT, STOP, TOLD_SCHEMA
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import model_config, write_table, write_transcripts
from train import saved_model
from train.inference import Answering, Clip
from train.model import SpeechLLM
from train.model.plora import lora_config
from train.model_config import load_config
from train.side_by_side import Answer

EMOTIONS = ["sad", "happy"]
PROMPT = {"system": "s", "text": "say it {emotion}: ", "speech": "hear: "}
SETTINGS = {"seed": 1, "batch_size": 3, "max_new_tokens": 5, "examples": 4, "precision": "auto"}
SETTINGS |= {"recognition_wordings": [], "option_orders": 1, "written": 3}


def save_model(folder: Path, models: ModelsParams, *, everywhere: bool = False, stage1: bool = False) -> Path:
    """Save a random model; the weights of stage 1 are others than those of stage 2."""
    config = model_config(models, plora=not stage1, plora_positions="all" if everywhere else "speech")
    model = saved_model.build(config, torch.float32)
    if not stage1:
        model.add_plora(lora_config(2, 2, 0.0, "all-linear"), everywhere=everywhere)
    torch.manual_seed(int(stage1))
    for module in (model.adapter, model.head, model.llm):
        for parameter in module.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    saved_model.save(model, config, folder)
    return folder


@pytest.fixture
def stage1(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    return save_model(tmp_path / "stage1", tiny_models, stage1=True)


@pytest.fixture
def stage2(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    return save_model(tmp_path / "stage2", tiny_models)


def told_row(text: str, emotion: str, **changes: Any) -> dict[str, Any]:
    ids = [30 + len(text) % 7, 31, 40 + EMOTIONS.index(emotion)]
    made = {"continuation": f"{text} and on", "token_ids": ids, "finish_reason": STOP, "engine": "x", "end_id": 0}
    return {"text": text, "emotion": emotion, "key": None, "logprob": -1.0, "generation": 1} | made | changes


def write_told(path: Path, *rows: dict[str, Any]) -> Path:
    return write_table(path, rows, TOLD_SCHEMA)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Continuations of the eight test transcripts: of text 1 equal ones, of text 2 one that names an emotion."""
    rows = [told_row(f"text {i}", emotion) for i in range(8) for emotion in EMOTIONS]
    rows[3] |= {"token_ids": rows[2]["token_ids"]}
    rows[4] |= {"continuation": "so sad", "token_ids": [50] * 6, "finish_reason": LENGTH, "end_id": None}
    return write_told(tmp_path / "told.parquet", *rows)


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    prompts = dict.fromkeys(("semantic", "emotion", "recognition"), PROMPT)
    prompts["recognition"] = PROMPT | {"text": "say: "}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"respond": SETTINGS, "prompts": prompts}))
    return tmp_path / "params.yaml"


def logits_alone(model: SpeechLLM, prompt: PromptIds, answer: Sequence[int], clip: Clip | None) -> torch.Tensor:
    """Return the logits of the answer's tokens and of the next one, by a plain forward pass over all positions."""
    before = model.token_embeddings(torch.tensor([prompt.before]))
    after = model.token_embeddings(torch.tensor([[*prompt.after, *answer]]))
    content = model.token_embeddings(torch.tensor([prompt.content], dtype=torch.long))
    if clip is not None:
        content = model.encode_speech(clip.features[None], torch.tensor([clip.num_frames])).embeddings
    whole = torch.cat([before, content, after], dim=1)
    mask = torch.zeros(whole.shape[:2], dtype=torch.bool)
    if clip is not None:
        mask[:, before.shape[1] : before.shape[1] + content.shape[1]] = True
        mask |= model.speech_mask.everywhere
    with model.speech_mask.applied(mask):
        logits: torch.Tensor = model.llm(inputs_embeds=whole).logits[0]
    return logits[-len(answer) - 1 :]


def alone(model: SpeechLLM, prompt: PromptIds, answer: Sequence[int], clip: Clip | None = None) -> float:
    """Score one answer by itself."""
    log_p = logits_alone(model, prompt, answer, clip).log_softmax(-1)
    return float(log_p[range(len(answer)), list(answer)].sum())


@pytest.mark.parametrize("everywhere", [False, True])
def test_scores_in_batches_are_those_of_a_plain_forward_pass(
    tmp_path: Path, tiny_models: ModelsParams, everywhere: bool
) -> None:
    model = saved_model.load(save_model(tmp_path / "model", tiny_models, everywhere=everywhere))
    prompter, prompt = Prompter.load(fetch(tiny_models.llm)), Prompt.model_validate(PROMPT)
    clips = [Clip(torch.randn(80, frames), frames) for frames in (90, 300, 150)]
    shells = [prompter.speech(prompt), prompter.around(prompt, (), emotion="sad"), prompter.speech(prompt)]
    answers: list[list[Answer]] = [[(40, 41, 0), (50,), (40, 41, 0)], [(60, 61), (62, 63, 64, 65, 66)], [(70, 71)]]
    answering = Answering(model, prompter, 1)
    with torch.no_grad():
        expected = [
            [alone(model, shell, answer, clip) for answer in of]
            for shell, of, clip in zip(shells, answers, clips, strict=True)
        ]
        found = answering.answer_scores(shells, clips, answers)
        assert found == [pytest.approx(of, abs=1e-4) for of in expected]
        assert found[0][0] == found[0][2]
        texts = [prompter.text(prompt, text, emotion="sad") for text in ("dogs", "kids are talking")]
        found = answering.answer_scores(texts, None, [answers[1]] * 2)
        assert found == [pytest.approx([alone(model, text, a) for a in answers[1]], abs=1e-4) for text in texts]
    assert len({round(score, 2) for of in expected for score in of}) == 5


def test_silence_has_as_many_speech_embeddings_as_the_clip() -> None:
    most = num_speech_tokens(num_mel_frames(30 * 16_000))
    assert [num_speech_tokens(silent_frames(count)) for count in range(1, most + 1)] == list(range(1, most + 1))


def run(data: Path, folder: Path, **changes: Any) -> Any:
    """Run the stage and read its own answers."""
    given: dict[str, Any] = {
        "kind": "emotion", "data": data, "model": folder / "stage2", "output": folder / "out",
        "told": folder / "told.parquet", "stage1": folder / "stage1", "stage1_data": data,
        "params_file": folder / "params.yaml",
    }  # fmt: skip
    respond.main(**(given | changes))
    return predictions.read_own_answers(folder / "out" / "own_answers.parquet", EMOTIONS).to_pandas()


def measure(data: Path, folder: Path, trained: Sequence[Path] = ()) -> Any:
    """Measure own answers without the rest of the stage."""
    rows, settings = packed.load(data, "test"), RespondParams.model_validate(SETTINGS)
    seen = [packed.load(path, "train") for path in trained]
    files = (folder / "stage1", folder / "stage2", rows, folder / "told.parquet", seen)
    finished = FinishedBatches(folder / "measured", {})
    tables = own_answers.measure(*files, None, Prompt.model_validate(PROMPT), settings, finished)
    finished.remove()
    return tables.scores.to_pandas()


def test_each_system_gives_its_own_model_its_own_input(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    whisper_texts = {
        row["id"]: f"it hears {number // 2}" for number, row in enumerate(packed.load(packed_folder, "test"))
    }
    file = write_transcripts(
        tmp_path / "heard.parquet", list(packed.load(packed_folder, "test")), list(whisper_texts.values())
    )
    table = run(packed_folder, tmp_path, transcripts=file)
    assert len(table) == 8 * len([*predictions.OWN_SYSTEMS, *predictions.OWN_BASELINES])
    assert table.seen_words.all()  # the train rows have the texts 0 to 11
    rows, answers = packed.load(packed_folder, "test"), own_answers.read_told(told, EMOTIONS, 0)
    models = {1: saved_model.load(stage1), 2: saved_model.load(stage2)}
    settings, prompt = RespondParams.model_validate(SETTINGS), Prompt.model_validate(PROMPT)
    asker = Asker(stage2, rows, {}, prompt, settings, FinishedBatches(tmp_path / "other", {}))
    by_id = {row["id"]: row for row in rows}
    num_named = 0
    for row in table.itertuples():
        number = list(by_id).index(row.id)
        clip: Clip | None = asker._clip(Query("", clip=number))
        shell, model = (
            asker.prompter.speech(prompt),
            models[1 if "told" in row.system or row.system == "stage1" else 2],
        )
        if row.system == "shuffled":
            # speakers and emotions alternate, so that the clips of another speaker and emotion are two
            others = [n for n, r in enumerate(rows) if r["speaker"] != row.speaker and r["emotion"] != row.emotion]
            expected = [scores(model, shell, answers[row.text], asker._clip(Query("", clip=n))) for n in others]
            assert any(row.logprobs == pytest.approx(each, abs=1e-4) for each in expected)
            continue
        if row.system == "silence":
            num_frames = 16 * by_id[row.id]["num_speech_tokens"]
            clip = Clip(asker.log_mel(np.zeros(num_frames * 160, np.float32)), num_frames)
        if "told" in row.system:
            assert clip is not None
            with torch.no_grad():
                head = models[2].head(Answering(models[2], asker.prompter, 1).encode_speech([clip]).pooled()).argmax()
            emotion = row.emotion if row.system == "told_true" else EMOTIONS[int(head)]
            num_named += emotion != row.emotion
            shell = asker.prompter.around(prompt, (), emotion=emotion)
        if row.system in ("transcript", "heard", "heard_told_head"):
            text = row.text if row.system == "transcript" else whisper_texts[row.id]
            shell, clip = PromptIds(shell.before, asker.prompter.content_ids(text), shell.after), None
        assert row.logprobs == pytest.approx(scores(model, shell, answers[row.text], clip), abs=1e-4), row.system
    assert num_named > 0
    means = table.groupby("system").logprobs.agg(lambda scores: np.abs(np.stack(scores)).mean())
    assert abs(means["heard"] - means["transcript"]) > 1e-3  # so the other text is noticed above


def test_answers_are_written_as_the_model_generates_them(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    rows = list(packed.load(packed_folder, "test"))
    file = write_transcripts(tmp_path / "heard.parquet", rows, ["it hears"] * len(rows))
    settings = yaml.safe_load(params_file.read_text())
    settings["respond"]["written"] = 4
    params_file.write_text(yaml.safe_dump(settings))
    run(packed_folder, tmp_path, transcripts=file)
    written = predictions.read_own_written(tmp_path / "out" / "written.parquet", EMOTIONS).to_pandas()
    assert written.groupby(["system", "emotion"]).size().to_dict() == {
        (system, emotion): 2 for system in set(own_answers.WRITTEN_SYSTEMS) - {"prompted_head"} for emotion in EMOTIONS
    }
    assert written.groupby("id").size().tolist() == [4] * 4
    prompt, prompter = Prompt.model_validate(PROMPT), Prompter.load(fetch(load_config(stage2).models.llm))
    asker = Asker(stage2, packed.load(packed_folder, "test"), {}, prompt, RespondParams.model_validate(SETTINGS),
                  FinishedBatches(tmp_path / "other", {}))  # fmt: skip
    models = {1: saved_model.load(stage1), 2: saved_model.load(stage2)}
    by_id, num_long = {row["id"]: number for number, row in enumerate(rows)}, 0
    for row in written.itertuples():
        clip: Clip | None = asker._clip(Query("", clip=by_id[row.id]))
        model, shell = models[1 if "told" in row.system else 2], prompter.speech(prompt)
        if "told" in row.system:
            assert clip is not None
            with torch.no_grad():
                head = models[2].head(Answering(models[2], prompter, 1).encode_speech([clip]).pooled()).argmax()
            shell = prompter.around(prompt, (), emotion=EMOTIONS[int(head)])
        if row.system in ("transcript", "heard_told_head"):
            text = row.text if row.system == "transcript" else "it hears"
            shell, clip = PromptIds(shell.before, prompter.content_ids(text), shell.after), None
        tokens = generated(model, shell, clip, prompter.end_ids, 6)  # a continuation has 6 tokens and no end token
        assert row.answer == prompter.answer(tokens), row.system
        num_long += len(tokens) == 6
        ids = own_answers.read_told(told, EMOTIONS, 0)[row.text].answers
        assert list(row.continuations) == [prompter.decode([i for i in answer if i != 0]) for answer in ids]
    assert num_long > 0
    of_voice = {*written[written.system == "voice"].answer}
    assert len(of_voice) > 1  # so another row's answer is noticed above
    assert not of_voice & {*written[written.system == "told_head"].answer}


def generated(model: SpeechLLM, prompt: PromptIds, clip: Clip | None, ends: Sequence[int], count: int) -> list[int]:
    """Choose the likeliest token again and again, each time by a plain forward pass."""
    tokens: list[int] = []
    while len(tokens) < count:
        with torch.no_grad():
            likeliest = int(logits_alone(model, prompt, tokens, clip)[-1].argmax())
        if likeliest in ends:
            break
        tokens.append(likeliest)
    return tokens


def test_without_clips_to_write_the_table_is_empty(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    settings = yaml.safe_load(params_file.read_text())
    settings["respond"]["written"] = 0
    params_file.write_text(yaml.safe_dump(settings))
    run(packed_folder, tmp_path)
    assert predictions.read_own_written(tmp_path / "out" / "written.parquet", EMOTIONS).num_rows == 0


def scores(model: SpeechLLM, prompt: PromptIds, told: own_answers.Told, clip: Clip | None) -> list[float]:
    with torch.no_grad():
        return [alone(model, prompt, answer, clip) for answer in told.answers]


def test_equal_continuations_are_one_candidate_and_words_for_emotions_are_noted(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    table = measure(packed_folder, tmp_path)
    by_text = {row.text: row for row in table[table.system == "voice"].itertuples()}
    assert [list(by_text[f"text {i}"].candidates) for i in range(3)] == [[0, 1], [0, 0], [0, 1]]
    assert [list(by_text[f"text {i}"].named) for i in range(3)] == [[False] * 2, [False] * 2, [True, False]]
    assert [list(by_text[f"text {i}"].num_tokens) for i in range(3)] == [[4, 4], [4, 4], [6, 4]]
    for row in table.itertuples():
        assert (row.logprobs[0] == row.logprobs[1]) == (row.text == "text 1")


def test_words_are_seen_if_a_train_row_of_either_stage_has_them(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    shell = packed.load_shell(packed_folder)
    folders = []
    for name, numbers in (("a", [1]), ("b", [3, 5])):
        folders.append(tmp_path / name)
        with packed.Writer(folders[-1], shell, shard_bytes=1) as writer:
            writer.write("train", packed.load(packed_folder, "train").select(numbers))
    table = measure(packed_folder, tmp_path, folders)
    assert sorted(table[table.seen_words].text.unique()) == ["text 1", "text 3", "text 5"]


def test_a_shuffled_clip_has_the_same_words_if_possible() -> None:
    said = [("a", "sad", "yes"), ("b", "happy", "yes"), ("b", "happy", "no"), ("a", "sad", "no"), ("a", "happy", "oh")]
    rows = [
        {"id": str(i), "corpus": "c", "speaker": speaker, "emotion": emotion, "text": text}
        for i, (speaker, emotion, text) in enumerate(said)
    ]
    rows.append({"id": "5", "corpus": "d", "speaker": "z", "emotion": "happy", "text": "yes"})
    for seed in range(10):
        found = own_answers.shuffled(rows, seed)
        assert {n: found[n] for n in range(4)} == {0: 1, 1: 0, 2: 3, 3: 2}
        assert found.get(4) is None  # no other speaker is sad
        assert found[5] in (0, 3)  # of another corpus


def test_a_transcript_without_all_continuations_is_left_out_and_told(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, params_file: Path, capsys: Any
) -> None:
    rows = [told_row(f"text {i}", emotion) for i in range(4) for emotion in EMOTIONS]
    rows[1] |= {"finish_reason": NO_TRANSCRIPT, "token_ids": []}
    write_told(tmp_path / "told.parquet", *rows[:-1])
    table = measure(packed_folder, tmp_path)
    assert sorted(table.text.unique()) == ["text 1", "text 2"]
    left_out = "respond: own answers: 6 of 8 test clips have no continuation for each emotion; they are left out"
    assert left_out in capsys.readouterr().out
    write_told(tmp_path / "told.parquet")
    assert len(measure(packed_folder, tmp_path)) == 0


def test_without_told_continuations_no_own_answers_are_scored(
    packed_folder: Path, tmp_path: Path, stage2: Path, params_file: Path
) -> None:
    respond.main("emotion", packed_folder, stage2, tmp_path / "out", params_file=params_file)
    written = {file.stem for file in (tmp_path / "out").iterdir()}
    assert written == {"recognition", "examples", "dev_head", "prompts"}


@pytest.mark.parametrize("changes", [{"stage1": None}, {"told": None}, {"stage1_data": None}, {"kind": "semantic"}])
def test_options_of_own_answers_come_together(
    packed_folder: Path, tmp_path: Path, params_file: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="--told, --stage1, --stage1-data: found some of them, expected all with"):
        run(packed_folder, tmp_path, **changes)


def test_continuations_for_other_emotions_are_refused(tmp_path: Path) -> None:
    write_told(tmp_path / "told.parquet", told_row("yes", "sad"))
    with pytest.raises(UserError, match="found continuations for sad; expected the classes of the model: sad, happy"):
        own_answers.read_told(tmp_path / "told.parquet", EMOTIONS, 0)


def test_a_stage_1_model_of_another_llm_is_refused(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    config = stage1 / "config.json"
    config.write_text(config.read_text().replace("/llm", "/another"))
    with pytest.raises(UserError, match=r"stage1: found a model of the LLM .+/another, expected .+/llm$"):
        measure(packed_folder, tmp_path)


@pytest.mark.slow
def test_two_processes_give_the_own_answers_of_one(
    packed_folder: Path, tmp_path: Path, stage1: Path, stage2: Path, told: Path, params_file: Path
) -> None:
    settings = yaml.safe_load(params_file.read_text())
    for count in (1, 2):
        params_file.write_text(yaml.safe_dump(settings | {"processes": count}))
        options = {"kind": "emotion", "data": packed_folder, "model": stage2, "output": tmp_path / f"{count}"}
        options |= {"told": told, "stage1": stage1, "stage1-data": packed_folder, "params": params_file}
        command = [sys.executable, "-m", "evaluate.respond", *(f"--{name}={value}" for name, value in options.items())]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.count("own answers scored after") == 1
    one, two = (pq.read_table(tmp_path / f"{count}" / "own_answers.parquet") for count in (1, 2))
    assert one.num_rows == 8 * len(predictions.OWN_SYSTEMS)
    assert two.equals(one)
