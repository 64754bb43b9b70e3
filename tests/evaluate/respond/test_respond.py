"""Predictions of small random models: complete, paired and the same as asking row by row."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evaluate import predictions
from evaluate.asking.shuffled_clips import wrong_clips
from evaluate.metrics import score_divergence, score_recognition
from evaluate.respond import __main__ as respond
from evaluate.respond.recognition_prompts import option_orders
from pipeline.audio.speech_tokens import num_speech_tokens
from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import write_transcripts
from tests.evaluate.respond.runs import run
from train import saved_model
from train.data.dataset import Collator, Examples
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.losses import response_kl
from train.model.inputs import sequences
from train.model_config import load_config

EMOTIONS = ["sad", "happy"]
PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


def test_every_test_row_with_a_continuation_is_measured_under_every_condition(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    respond.main(
        kind="semantic", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file
    )
    table = predictions.read_divergence(tmp_path / "out" / "divergence.parquet").to_pandas()
    assert len(table) == 3 * 7  # one of the eight test rows has no continuation
    assert (table.kl > 0).all()
    assert set(table.num_tokens) == {3}
    by_condition = table.pivot(index="id", columns="condition", values="kl")
    assert (by_condition["after"] != by_condition["before"]).all()
    assert (by_condition["after"] != by_condition["shuffled"]).all()


def test_the_kl_is_that_of_each_row_and_model_by_itself(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    found = run("semantic", packed_folder, model_path, tmp_path / "out", params_file)["divergence.parquet"].to_pandas()
    by_condition = found.pivot(index="id", columns="condition", values="kl")
    agree = found.pivot(index="id", columns="condition", values="num_agree")
    rows = packed.load(packed_folder, "test")
    rows = rows.select(np.flatnonzero(rows.column("num_response_tokens").to_numpy()))
    config = load_config(model_path)
    examples = Examples(rows, LogMel(fetch(config.models.encoder), config.pad_to_30s), EMOTIONS)
    about = pa.table(
        {name: rows.column(name) for name in ("id", "corpus", "speaker", "text", "num_samples")}
    ).to_pylist()
    wrong = dict(wrong_clips(about, ("speaker", "text"), 1, similar="num_samples"))
    collate = Collator(packed.load_shell(packed_folder), with_teacher=True)
    trained = saved_model.load(model_path)
    models = {"before": saved_model.build(config, torch.float32), "after": trained, "shuffled": trained}
    for number, row in enumerate(about):
        for condition, model in models.items():
            other = examples[wrong[number] if condition == "shuffled" else number]
            given = replace(examples[number], features=other.features, num_frames=other.num_frames)
            with torch.no_grad():
                outputs = model(collate([given]))
                expected = response_kl(outputs.student, outputs.teacher, model.output_head, 1.0).mean().item()
                likeliest = [model.llm.lm_head(states).argmax(-1) for states in (outputs.student, outputs.teacher)]
            assert by_condition[condition][row["id"]] == pytest.approx(expected, abs=1e-5)
            assert agree[condition][row["id"]] == (likeliest[0] == likeliest[1]).sum().item()
    assert 0 < agree.to_numpy().sum() < 3 * agree.size


def test_every_test_row_is_answered_by_every_system(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    respond.main(kind="emotion", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file)
    table = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS).to_pandas()
    systems = {system.name for system in predictions.SYSTEMS} | {"silence_logprob"}
    assert len(table) == 8 * len(systems)
    assert set(table.system) == systems
    head = table[table.system == "head"].scores
    assert all(torch.tensor(scores).exp().sum() == pytest.approx(1.0) for scores in head)
    dev = predictions.read_recognition(tmp_path / "out" / "dev_head.parquet", EMOTIONS, [predictions.DEV_HEAD])
    assert dev["id"].to_pylist() == packed.load(packed_folder, "dev").column("id").to_pylist()
    examples = predictions.read_examples(tmp_path / "out" / "examples.parquet").to_pandas()
    assert len(examples) == 4
    assert sorted(examples.emotion) == ["happy", "happy", "sad", "sad"]


def test_baselines_get_silence_and_what_whisper_hears(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, tiny_models: ModelsParams
) -> None:
    rows = list(packed.load(packed_folder, "test"))
    whisper_texts = [f"it hears {number // 2}" for number in range(len(rows))]
    transcripts = write_transcripts(tmp_path / "heard.parquet", rows, whisper_texts)
    out = tmp_path / "out"
    respond.main("emotion", packed_folder, model_path, out, transcripts=transcripts, params_file=params_file)
    table = predictions.read_recognition(out / "recognition.parquet", EMOTIONS).to_pandas()
    by_system = {name: of.set_index("id") for name, of in table.groupby("system")}
    prompter, prompt = Prompter.load(fetch(tiny_models.llm)), Prompt.model_validate(PROMPT)
    answering = Answering(saved_model.load(model_path), prompter, max_new_tokens=5)
    log_mel = LogMel(fetch(tiny_models.encoder), load_config(model_path).pad_to_30s)
    for row, text in zip(rows, whisper_texts, strict=True):
        num_frames = 16 * row["num_speech_tokens"]
        silence = Clip(log_mel(np.zeros(num_frames * 160, np.float32)), num_frames)
        with torch.no_grad():
            after_silence = answering.label_scores([prompter.speech(prompt)], [silence], EMOTIONS)[0]
            scores, written = answering.score_and_write([prompter.text(prompt, text)], None, EMOTIONS)
        assert by_system["silence_logprob"].scores[row["id"]] == pytest.approx(after_silence, abs=1e-4)
        assert by_system["heard_logprob"].scores[row["id"]] == pytest.approx(scores[0], abs=1e-4)
        assert by_system["heard_prompted"].answer[row["id"]] == written[0]
    wrong = np.stack(by_system["heard_logprob"].scores) - np.stack(by_system["transcript_logprob"].scores)
    assert np.abs(wrong).max() > 1e-3  # so the corpus' transcript in place of Whisper's is noticed above


def test_transcripts_of_some_clips_are_told_and_their_systems_are_left_out(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(packed.load(packed_folder, "test"))
    transcripts = write_transcripts(tmp_path / "heard.parquet", rows[1:], ["yes"] * 7)
    out = tmp_path / "out"
    respond.main("emotion", packed_folder, model_path, out, transcripts=transcripts, params_file=params_file)
    assert "found no transcript of 1 of 8 test clips, expected one of each (transcribe.clips: null)" in (
        capsys.readouterr().out
    )
    systems = predictions.read_recognition(out / "recognition.parquet", EMOTIONS)["system"].unique().to_pylist()
    assert not [system for system in systems if system.startswith("heard")]
    with pytest.raises(UserError, match="--transcripts: found it with --kind semantic, expected --kind emotion"):
        respond.main("semantic", packed_folder, model_path, out, transcripts=transcripts, params_file=params_file)


def test_labels_are_scored_under_every_prompt_on_test_and_dev_rows(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, tiny_models: ModelsParams
) -> None:
    run("emotion", packed_folder, model_path, tmp_path / "out", params_file)
    table = predictions.read_prompts(tmp_path / "out" / "prompts.parquet", EMOTIONS).to_pandas()
    assert len(table) == (8 + 4) * 4
    prompter, config = Prompter.load(fetch(tiny_models.llm)), load_config(model_path)
    answering = Answering(saved_model.load(model_path), prompter, max_new_tokens=1)
    listed = {"0-0": PROMPT["speech"], "0-1": PROMPT["speech"]}
    listed |= {"1-0": "Which of sad or happy? ", "1-1": "Which of happy or sad? "}
    log_mel = LogMel(fetch(config.models.encoder), config.pad_to_30s)
    for split in ("test", "dev"):
        examples = Examples(packed.load(packed_folder, split), log_mel, EMOTIONS)
        for number, row in enumerate(packed.load(packed_folder, split)):
            clip = Clip(examples[number].features, examples[number].num_frames)
            of_row = table[(table.id == row["id"]) & (table.split == split)].set_index("prompt").scores
            for name, text in listed.items():
                prompt = prompter.speech(Prompt(system=PROMPT["system"], text="", speech=text))
                with torch.no_grad():
                    expected = answering.label_scores([prompt], [clip], EMOTIONS)[0]
                assert of_row[name] == pytest.approx(expected, abs=1e-4)
    one, other = (np.stack(table[table.prompt == name].scores) for name in ("1-0", "1-1"))
    assert np.abs(one - other).max() > 5e-4  # so an order that is not used is noticed above
    logprob = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS).to_pandas()
    logprob = logprob[logprob.system == "logprob"].set_index("id").scores
    published = table[(table.prompt == "0-0") & (table.split == "test")].set_index("id").scores
    assert all(logprob[key].tolist() == published[key].tolist() for key in logprob.index)


def test_orders_of_options_differ_and_are_drawn_by_the_seed() -> None:
    orders = option_orders(["a", "b", "c", "d"], 5, seed=1)
    assert orders[0] == ("a", "b", "c", "d")
    assert len(set(orders)) == 5
    assert {frozenset(order) for order in orders} == {frozenset("abcd")}
    assert option_orders(["a", "b", "c", "d"], 5, seed=1) == orders != option_orders(["a", "b", "c", "d"], 5, seed=2)
    assert option_orders(["a", "b"], 3, seed=1) == [("a", "b"), ("b", "a")]


def test_answers_and_scores_do_not_depend_on_the_rest_of_the_batch(model_path: Path, tiny_models: ModelsParams) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    answering = Answering(saved_model.load(model_path), prompter, max_new_tokens=6)
    clips = [Clip(torch.randn(80, frames), frames) for frames in (90, 300, 150)]
    prompts = [prompter.speech(Prompt.model_validate(PROMPT))] * 3
    with torch.no_grad():
        together, scores = answering.write(prompts, clips), answering.label_scores(prompts, clips, EMOTIONS)
        for i, clip in enumerate(clips):
            assert answering.write(prompts[:1], [clip]) == [together[i]]
            alone = answering.label_scores(prompts[:1], [clip], EMOTIONS)[0]
            assert alone == pytest.approx(scores[i], abs=1e-4)


def test_what_is_written_is_no_speech_for_plora(model_path: Path, tiny_models: ModelsParams) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    model = saved_model.load(model_path)
    answering, clip = Answering(model, prompter, max_new_tokens=12), Clip(torch.randn(80, 300), 300)
    prompt = prompter.speech(Prompt.model_validate(PROMPT))
    asked = sequences(prompt.before, [[None] * num_speech_tokens(300)], prompt.after, [[]])
    with torch.no_grad():
        with model.speech_mask.applied(asked.speech):
            output = model.llm(inputs_embeds=model.embed(asked, answering.encode_speech([clip])), use_cache=True)
        ids: list[int] = []
        while len(ids) < 12 and (token := int(output.logits[0, -1].argmax())) != prompter.end_id:
            ids.append(token)
            step = {"input_ids": torch.tensor([[token]]), "use_cache": True}
            with model.speech_mask.applied(torch.ones(1, 1, dtype=torch.bool)):
                adapted = model.llm(past_key_values=copy.deepcopy(output.past_key_values), **step)
            output = model.llm(past_key_values=output.past_key_values, **step)
            assert (adapted.logits - output.logits).abs().max() > 1e-3
        assert answering.write([prompt], [clip]) == [prompter.decode(ids)]
    assert ids


@pytest.mark.parametrize("pad_to_30s", [False, True])
def test_the_head_scores_a_clip_as_it_does_in_training(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, pad_to_30s: bool
) -> None:
    config_file = model_path / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"pad_to_30s": pad_to_30s}))
    respond.main(kind="emotion", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file)
    table = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS).to_pandas()
    config, model = load_config(model_path), saved_model.load(model_path)
    dev = predictions.read_recognition(tmp_path / "out" / "dev_head.parquet", EMOTIONS, [predictions.DEV_HEAD])
    found = {"test": table[table.system == "head"].scores.tolist(), "dev": dev["scores"].to_pylist()}
    for split, scores in found.items():
        rows = packed.load(packed_folder, split)
        examples = Examples(rows, LogMel(fetch(config.models.encoder), pad_to_30s), EMOTIONS)
        batch = Collator(packed.load_shell(packed_folder), with_teacher=False)([examples[i] for i in range(len(rows))])
        with torch.no_grad():
            expected = model(batch).emotion.log_softmax(-1).tolist()
        assert scores == [pytest.approx(of_row, abs=1e-4) for of_row in expected]


@pytest.mark.parametrize("emotions", [["sad"], EMOTIONS])
def test_one_test_speaker_or_one_emotion_is_scored_without_the_control(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path, emotions: list[str], capsys: Any
) -> None:
    folder = tmp_path / "packed"
    rows = [row | {"speaker": "corpus/1"} for row in packed.load(packed_folder, "test") if row["emotion"] in emotions]
    with packed.Writer(folder, packed.load_shell(packed_folder), shard_bytes=1 << 20) as writer:
        writer.write("test", rows)
        writer.open("dev")
    for kind in ("emotion", "semantic"):
        respond.main(kind=kind, data=folder, model=model_path, output=tmp_path / "out", params_file=params_file)
    told = capsys.readouterr().out
    assert f"respond: emotion: found no wrong clip for {len(rows)} of {len(rows)} test clips" in told
    assert "corpus/test-0" in told

    recognised = predictions.read_recognition(tmp_path / "out" / "recognition.parquet", EMOTIONS)
    scores = score_recognition(recognised, EMOTIONS, 0.95).metrics["emotion_corpus"]
    assert "shuffled_head" not in scores
    assert (scores["head"]["n"], scores["chance"]["ua"]) == (len(rows), 1 / len(emotions))
    dev = predictions.read_recognition(
        tmp_path / "out" / "dev_head.parquet", EMOTIONS, [predictions.DEV_HEAD], allow_empty=True
    )
    assert dev.num_rows == 0
    divergences = predictions.read_divergence(tmp_path / "out" / "divergence.parquet")
    assert set(score_divergence(divergences, 0.95)["continuation_kl_corpus"]) == {"transcript", "before", "after"}


def test_a_missing_model_is_one_line(packed_folder: Path, params_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained model there"):
        respond.main(
            kind="semantic", data=packed_folder, model=tmp_path, output=tmp_path / "out", params_file=params_file
        )


def spoil(model_path: Path, name: str) -> None:
    """Make a weight of the trained model not a number."""
    file = model_path / "adapter.safetensors"
    state = load_file(file)
    state[name].view(-1)[0] = torch.nan
    save_file(state, file)


def test_a_score_that_is_not_a_number_stops_with_the_ids_of_the_batch(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    spoil(model_path, "head.classify.weight")
    message = "respond: head: found scores .+ expected finite ones: corpus/test-5, corpus/test-6, corpus/test-7$"
    with pytest.raises(UserError, match=message):
        respond.main(
            kind="emotion", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file
        )
    assert not (tmp_path / "out" / "recognition.parquet").exists()


def test_a_kl_that_is_not_a_number_stops_with_the_id(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    spoil(model_path, "adapter.norm.weight")
    with pytest.raises(UserError, match="respond: corpus/test-5: after: found the KL nan, expected a finite number"):
        respond.main(
            kind="semantic", data=packed_folder, model=model_path, output=tmp_path / "out", params_file=params_file
        )
    assert not (tmp_path / "out" / "divergence.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["semantic", "emotion"])
def test_two_processes_give_the_predictions_of_one(
    tmp_path: Path, model_path: Path, packed_folder: Path, params_file: Path, kind: str
) -> None:
    settings = yaml.safe_load(params_file.read_text())
    for count in (1, 2):
        params_file.write_text(yaml.safe_dump(settings | {"processes": count}))
        command = [sys.executable, "-m", "evaluate.respond", "--kind", kind, "--data", str(packed_folder)]
        command += ["--model", str(model_path), "--output", str(tmp_path / f"{count}"), "--params", str(params_file)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.count("respond: ") == 1
    one, two = ({file.name: pq.read_table(file) for file in (tmp_path / f"{n}").iterdir()} for n in (1, 2))
    assert one.keys() == two.keys()
    assert all(two[name].equals(table) for name, table in one.items())
