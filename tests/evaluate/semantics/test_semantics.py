"""What the stage measures of a small random model is what its parts give by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from rapidfuzz.distance import Levenshtein

from evaluate.predictions import SEMANTICS_SCHEMA, SEMANTICS_TASKS, TRANSCRIPTS_SCHEMA, read_semantics
from evaluate.semantics import __main__ as semantics
from evaluate.semantics.embedder import Embedder
from evaluate.word_errors import Normaliser
from pipeline.audio.speech_tokens import num_mel_frames
from pipeline.prompts import Prompt, Prompter, PromptIds
from pipeline.stage import UserError
from pipeline.tables import packed, parquet
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import change_params
from tests.conftest import character_tokenizer
from train import saved_model
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.inference import Answering, Clip
from train.model.plora import SpeechMask

SETTINGS: dict[str, Any] = {
    "seed": 1, "system": "s", "repeat_prompt": "say: ", "repeat": 6, "answers": 8, "embedder": None, "instructions": 2,
    "text_prompts": 3, "batch_size": 3, "max_new_tokens": 6, "precision": "auto",
}  # fmt: skip


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"semantics": SETTINGS, "processes": 1}))
    return tmp_path / "params.yaml"


def run(packed_folder: Path, model_path: Path, params_file: Path, **options: Any) -> pd.DataFrame:
    output = params_file.parent / "out" / "emotion.parquet"
    semantics.main(data=packed_folder, model=model_path, output=output, params_file=params_file, **options)
    assert not list(output.parent.glob(".*"))
    table: pd.DataFrame = read_semantics(output).to_pandas()
    return table


def test_every_task_has_its_systems_on_the_clips_that_were_asked_for(
    packed_folder: Path, model_path: Path, params_file: Path
) -> None:
    table = run(packed_folder, model_path, params_file)
    counts = table.groupby(["task", "system"]).size().to_dict()
    assert counts == {
        ("repeat", "voice"): 6, ("repeat", "transcript"): 6, ("repeat", "shuffled"): 6, ("answers", "voice"): 8,
        ("answers", "shuffled"): 8, ("instructions", "voice"): 6, ("instructions", "transcript"): 6,
        ("text_alone", "transcript"): 3,
    }  # fmt: skip
    assert set(table.model) == {"emotion"}
    assert table[table.task == "repeat"].groupby("speaker").id.nunique().tolist() == [3, 3]
    assert set(SEMANTICS_TASKS) - set(table.task) == {"answers_cosine"}
    assert table[table.task != "text_alone"].prompt.notna().all()
    assert table[table.task == "repeat"].prompt.nunique() == 1


def test_the_values_are_those_of_each_clip_by_itself(
    packed_folder: Path, model_path: Path, params_file: Path, tiny_models: ModelsParams
) -> None:
    table = run(packed_folder, model_path, params_file)
    whisper, prompter = fetch(tiny_models.encoder), Prompter.load(fetch(tiny_models.llm))
    normalise, log_mel = Normaliser(whisper), LogMel(whisper, False)
    answering = Answering(saved_model.load(model_path), prompter, max_new_tokens=6)
    rows, shell = packed.load(packed_folder, "test"), packed.load_shell(packed_folder)
    prompt = Prompt(system="s", text="say: ", speech="say: ")
    written: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows):
        samples = decode(rows, row, number)
        clip = Clip(log_mel(samples), num_mel_frames(len(samples)))
        around = tuple(shell.before_speech), tuple(shell.after)
        with torch.no_grad():
            written["repeat voice", row["id"]] = answering.write([prompter.speech(prompt)], [clip])[0]
            written["repeat transcript", row["id"]] = answering.write([prompter.text(prompt, row["text"])], None)[0]
            written["answers voice", row["id"]] = answering.write([PromptIds(around[0], (), around[1])], [clip])[0]
            text = PromptIds(around[0], tuple(row["text_ids"]), around[1])
            written["answers transcript", row["id"]] = answering.write([text], None)[0]
    texts = {row["id"]: row["text"] for row in rows}
    found: Any
    for found in table[table.system.isin(["voice", "transcript"])].itertuples():
        if found.task in ("repeat", "answers"):
            assert found.answer == written[f"{found.task} {found.system}", found.id]
    for found in table[table.task == "repeat"].itertuples():
        said, answer = normalise(texts[found.id], None).split(), normalise(found.answer, None).split()
        assert found.value == Levenshtein.distance(said, answer)
        assert found.weight == len(said)
    for found in table[table.task == "answers"].itertuples():
        expected = Counter(normalise(written["answers transcript", found.id], None).split())
        words = Counter(normalise(found.answer, None).split())
        total = expected.total() + words.total()
        assert found.value == pytest.approx(2 * (expected & words).total() / total if total else 1)


def test_the_wrong_clip_is_another_speakers_with_other_words(
    packed_folder: Path, model_path: Path, params_file: Path
) -> None:
    table = run(packed_folder, model_path, params_file)
    for task in ("repeat", "answers"):
        of_task = table[table.task == task]
        own = of_task[of_task.system == "voice"]
        for row in of_task[of_task.system == "shuffled"].itertuples():
            assert row.answer in set(own[own.speaker != row.speaker].answer)
        shuffled = of_task[of_task.system == "shuffled"].set_index("id").answer
        assert (shuffled != own.set_index("id").answer).any()


def test_whispers_transcripts_are_a_control_on_the_same_clips(
    packed_folder: Path, model_path: Path, params_file: Path, tmp_path: Path
) -> None:
    about: dict[str, Any] = {"corpus": "corpus", "speaker": "s", "kind": "semantic", "language": None}
    about |= {"text": "t", "heard": "text one"}
    rows = [about | {"id": f"corpus/test-{i}", "errors": i, "words": 2} for i in range(7)]
    rows.append(about | {"id": "corpus/test-7", "text": None, "errors": None, "words": None})
    parquet.write(parquet.from_rows(rows, TRANSCRIPTS_SCHEMA), tmp_path / "transcripts.parquet")
    table = run(packed_folder, model_path, params_file, transcripts=tmp_path / "transcripts.parquet")
    found = table[table.system == "whisper"]
    chosen = set(table[table.task == "repeat"].id)
    assert set(found.id) == chosen - {"corpus/test-7"}
    assert found.value.tolist() == [int(name[-1]) for name in found.id]
    assert (found.weight == 2).all()
    assert set(found.answer) == {"text one"}


def test_text_alone_is_that_of_the_llm_bit_for_bit_and_a_leak_of_plora_shows(
    packed_folder: Path, model_path: Path, params_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_params({"semantics.repeat": 0, "semantics.answers": 0, "semantics.instructions": 0}, params_file)
    table = run(packed_folder, model_path, params_file)
    assert table.task.tolist() == ["text_alone"] * 3
    assert table.value.tolist() == [0, 0, 0]
    monkeypatch.setattr(SpeechMask, "zero_elsewhere", lambda _mask, _module, _args, output: output)
    leaking = run(packed_folder, model_path, params_file)
    assert (leaking.value > 1e-4).all()


def test_plora_that_acts_everywhere_still_leaves_text_alone(
    packed_folder: Path, model_path: Path, params_file: Path
) -> None:
    changes = {"repeat": 0, "answers": 0, "instructions": 0}
    change_params({f"semantics.{name}": value for name, value in changes.items()}, params_file)
    config = json.loads((model_path / "config.json").read_text())
    (model_path / "config.json").write_text(json.dumps(config | {"plora_positions": "all"}))
    assert run(packed_folder, model_path, params_file).value.tolist() == [0, 0, 0]


def test_nothing_to_do_is_an_empty_table(packed_folder: Path, model_path: Path, params_file: Path) -> None:
    for name in ("repeat", "answers", "instructions", "text_prompts"):
        change_params({f"semantics.{name}": 0}, params_file)
    assert run(packed_folder, model_path, params_file).empty


@pytest.fixture
def embedder_folder(tmp_path: Path) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(tmp_path / "embedder")
    config = BertConfig(
        vocab_size=258, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
    )
    BertModel(config).save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def test_the_cosine_of_a_text_does_not_depend_on_the_length_of_others(embedder_folder: Path) -> None:
    embedder = Embedder(embedder_folder)
    first, second = ["a dog", "a very long text about cats", "x"], ["the cat", "a dog", "x y z"]
    together = embedder.cosines(first, second)
    alone = [embedder.cosines([a], [b])[0] for a, b in zip(first, second, strict=True)]
    assert together == pytest.approx(alone, abs=1e-6)
    assert embedder.cosines(first[:2], first[:2]) == pytest.approx([1, 1])
    assert together[0] < 0.9999


def test_an_embedder_adds_the_cosine_of_the_same_answers(
    packed_folder: Path, model_path: Path, params_file: Path, embedder_folder: Path
) -> None:
    source = {"source": str(embedder_folder), "revision": None, "sha256": None}
    change_params({"semantics.embedder": source, "semantics.repeat": 0, "semantics.instructions": 0}, params_file)
    table = run(packed_folder, model_path, params_file)
    f1, cosine = (table[table.task == task].set_index(["system", "id"]) for task in ("answers", "answers_cosine"))
    assert (f1.answer == cosine.answer).all()
    assert cosine.value.between(-1.000001, 1.000001).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sing"}, "libri/a: task: found sing, expected one of repeat, answers"),
        ({"system": "whisper", "task": "answers"}, "answers: system: found whisper, expected one of voice, shuffled"),
        ({"value": float("nan")}, "repeat: found the value nan of the weight 1.0, expected finite numbers"),
        ({"weight": None}, "found the value 1.0 of the weight None"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"id": "libri/a", "corpus": "libri", "speaker": "s", "model": "emotion"}
    row |= {"task": "repeat", "system": "voice"}
    row |= {"prompt": None, "answer": "a"}
    values: dict[str, Any] = {"value": 1.0, "weight": 1.0}
    parquet.write(parquet.from_rows([row | values | change], SEMANTICS_SCHEMA), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        read_semantics(tmp_path / "t.parquet")
