"""The choices of stage 2 on tiny models: each one trains, resumes and loads, and what cannot work is one line."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.prompts import Prompt, Prompter
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams
from tests.builders import batch_section, emotion_fit_section, model_config, semantic_fit_section
from train import saved_model
from train.commands.info import describe, read_info
from train.data.dataset import row_costs
from train.data.told_shell import ToldShell
from train.fit import run
from train.fit.data import Data, open_data
from train.fit.identity import differences, identify
from train.fit.params import EmotionFitParams, SemanticFitParams
from train.fit.preflight import plan_step
from train.fit.run import RunFolders
from train.fit.stage_model import build_model
from train.fit.told_prompt import ToldPrompt, read_told_prompt, training_shell
from train.inference import Answering, Clip
from train.model_config import load_config

EMOTIONS = ["sad", "happy"]
PROMPT = Prompt(system="S", text="Go on, {emotion}: ", speech="Go on: ")
VOTES = {"corpus/train-0": {"sad": 0.25, "happy": 0.25, "other": 0.5}, "corpus/train-1": {"other": 1.0}}
ATTENTION, WEIGHTED = {"pooling": "attention", "layers": "last"}, {"pooling": "mean", "layers": "weighted"}
BOTH = {"pooling": "attention", "layers": "weighted"}


def emotion(layout: str = "packed", **changes: Any) -> EmotionFitParams:
    batches = batch_section(layout=layout, max_positions=600)
    return EmotionFitParams.model_validate(emotion_fit_section(batches=batches, epochs=1.0, **changes))


@pytest.fixture(scope="module")
def told(tiny_models: ModelsParams) -> ToldPrompt:
    """The prompt of the teacher."""
    return ToldPrompt(PROMPT, tiny_models.llm)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModelsParams, packed_folder: Path) -> Path:
    """Rows of stage 2 as pack writes them, two of which have votes; the label of a row is its emotion."""
    speech = Prompter.load(Path(tiny_models.llm.source)).speech(PROMPT)
    shell = packed.PromptShell(before_speech=list(speech.before), before_text=None, after=list(speech.after))
    return repack(packed_folder, tmp_path_factory.mktemp("choices") / "packed", shell)


def repack(source: Path, folder: Path, shell: packed.PromptShell, **changes: Any) -> Path:
    """Copy packed rows with another shell; `changes` are those of the first train row."""
    with packed.Writer(folder, shell, shard_bytes=1) as writer:
        for split in ("train", "dev", "test"):
            rows = list(packed.load(source, split))
            for row in rows:
                votes = VOTES.get(row["id"])
                row["emotion_votes"] = votes and [{"emotion": e, "share": share} for e, share in votes.items()]
            if split == "train":
                rows[0] |= changes
            writer.write(split, rows)
    return folder


@pytest.fixture
def second(folders: RunFolders, tiny_models: ModelsParams, data: Path) -> RunFolders:
    """The folders of a run of stage 2; its stage-1 model is untrained."""
    config = model_config(tiny_models)
    saved_model.save(saved_model.build(config, torch.float32), config, folders.output)
    return replace(folders, data=data, init=folders.output, output=folders.output.with_name("emotion"))


def opened(settings: EmotionFitParams, second: RunFolders, models: ModelsParams, told: ToldPrompt | None) -> Data:
    _, config = build_model(settings, models, EMOTIONS, second.init)
    return open_data(second.data, settings, config, settings.runs_teacher, True, told)


def losses(folders: RunFolders) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folders.output / "losses.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.rglob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({"response_loss": "kl"}, {"kl", "emotion"}),
        ({"response_loss": "both", "head": BOTH}, {"ce", "kl", "emotion"}),
        ({"labels": "soft", "head": ATTENTION}, {"ce", "emotion"}),
        ({"encoder_learning_rate": 1e-3, "head": WEIGHTED}, {"ce", "emotion"}),
        ({"train_encoder": False, "head": BOTH}, {"ce", "emotion"}),
    ],
)
def test_each_choice_trains_and_is_saved(
    tiny_models: ModelsParams, second: RunFolders, told: ToldPrompt, layout: str, changes: Any, terms: set[str]
) -> None:
    settings = emotion(layout, **changes)
    run.fit(settings, tiny_models, EMOTIONS, second, False, told if settings.runs_teacher else None)
    assert set(losses(second)[1]) == {"step", "loss", "lr", *terms}
    assert {f"dev_{term}" for term in terms} | {"step", "dev_ua"} == set(losses(second)[0])
    saved, loaded = tensors(second.output), saved_model.load(second.output)
    for name, tensor in loaded.state_dict().items():
        if name.startswith("head"):
            assert torch.equal(saved[name], tensor)
    for name in ("query", "layer_logits"):
        assert hasattr(loaded.head, name) == (f"head.{name}" in saved)
        if hasattr(loaded.head, name):
            assert getattr(loaded.head, name).abs().max() > 0  # it started at 0
    assert asdict(loaded.head.shape) == settings.head.model_dump()
    assert (second.output / "encoder.safetensors").exists() == settings.train_encoder
    text = " ".join(describe(read_info(second.output, second.output / "no metrics", second.logs)).split())
    assert f"head.pooling {settings.head.pooling}, head.layers {settings.head.layers}" in text
    assert f"response_loss {settings.response_loss}" in text


def test_a_run_with_all_choices_resumes_exactly(
    tiny_models: ModelsParams, second: RunFolders, told: ToldPrompt, tmp_path: Path, killed_at: Any
) -> None:
    settings = emotion(response_loss="both", labels="soft", head=BOTH, encoder_learning_rate=1e-3)
    run.fit(settings, tiny_models, EMOTIONS, second, False, told)
    whole = replace(second, output=tmp_path / "whole")
    second.output.rename(whole.output)
    with killed_at(2):
        run.fit(settings, tiny_models, EMOTIONS, second, True, told)
    run.fit(settings, tiny_models, EMOTIONS, second, True, told)
    assert losses(second) == losses(whole)
    assert (second.output / "adapter.safetensors").read_bytes() == (whole.output / "adapter.safetensors").read_bytes()


def test_the_encoder_has_its_own_rate(tiny_models: ModelsParams, second: RunFolders, tmp_path: Path) -> None:
    outputs = []
    for name, rate in (("null", None), ("equal", 1e-2), ("small", 1e-9)):
        folders = replace(second, output=tmp_path / name)
        run.fit(emotion(encoder_learning_rate=rate), tiny_models, EMOTIONS, folders, False)
        outputs.append(tensors(folders.output))
    null, equal, small = outputs
    assert null.keys() == equal.keys() == small.keys()
    assert all(torch.equal(tensor, equal[name]) for name, tensor in null.items())
    started = saved_model.build(model_config(tiny_models), torch.float32).state_dict()
    moved = {name: float((tensor - started[name]).abs().max()) for name, tensor in small.items() if name in started}
    assert max(distance for name, distance in moved.items() if name.startswith("encoder")) < 1e-6
    assert max(distance for name, distance in moved.items() if name.startswith("adapter")) > 1e-3
    with pytest.raises(ValidationError, match="null with train_encoder: false, because the encoder is not trained"):
        emotion(train_encoder=False, encoder_learning_rate=1e-3)


def test_soft_labels_are_the_votes_for_the_classes_or_the_label(tiny_models: ModelsParams, second: RunFolders) -> None:
    rows = [0, 1, 2]
    settings = emotion(labels="soft")
    (batch,) = opened(settings, second, tiny_models, None).batches([rows])
    assert batch.emotion.tolist() == [0, 0, 1]
    assert batch.shares is not None
    assert batch.shares.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]
    (hard,) = opened(emotion(), second, tiny_models, None).batches([rows])
    assert hard.shares is None

    model, _ = build_model(settings, tiny_models, EMOTIONS, second.init)
    objective = run.make_objective(settings, model)
    outputs = model(batch)
    log_q = outputs.emotion.log_softmax(-1)
    expected = -(log_q[0].sum() / 2 + log_q[1, 0] + log_q[2, 1])
    torch.testing.assert_close(objective.sums(outputs, batch)["emotion"], expected)
    assert objective.counts(batch)["emotion"] == 3
    expected = -(log_q[0, 0] + log_q[1, 0] + log_q[2, 1])
    torch.testing.assert_close(objective.sums(outputs, hard)["emotion"], expected)
    unknown = replace(batch, emotion=torch.tensor([-1, 0, 1]))
    torch.testing.assert_close(objective.sums(outputs, unknown)["emotion"], -(log_q[1, 0] + log_q[2, 1]))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_teacher_reads_the_prompt_that_names_the_emotion(
    tiny_models: ModelsParams, second: RunFolders, told: ToldPrompt, layout: str
) -> None:
    data = opened(emotion(layout, response_loss="kl"), second, tiny_models, told)
    prompter = Prompter.load(Path(tiny_models.llm.source))
    shell = data.collate.shell
    assert isinstance(shell, ToldShell)
    numbers = [0, 3]
    rows = [data.train.rows[number] for number in numbers]
    assert [row["emotion"] for row in rows] == ["sad", "happy"]
    whole = [
        [*prompter.around(PROMPT, row["text_ids"], emotion=row["emotion"]).ids, *row["response_ids"]] for row in rows
    ]
    (batch,) = data.batches([numbers])
    teacher = batch.teacher
    assert teacher is not None
    shared = teacher.num_shared
    assert whole[0][:shared] == whole[1][:shared] != whole[0][: shared + 1]
    assert str(prompter.tokenizer.decode(whole[0][:shared])).endswith("Go on, ")
    if layout == "packed":
        assert teacher.token_ids[0].tolist() == [*whole[0], *whole[1][shared:]]
    else:
        assert [ids[mask].tolist() for ids, mask in zip(teacher.token_ids, teacher.attended, strict=True)] == whole
    for shares_start in (True, False):
        costs = row_costs(data.train.rows, shell, False, True, shares_start)[numbers, 2]
        assert costs.tolist() == [len(row) - shared * shares_start for row in whole]
    assert np.array_equal(data.sampler.costs[numbers, 2], [len(row) - shared for row in whole])


def test_the_prompt_of_the_teacher_is_part_of_the_run(
    tiny_models: ModelsParams, second: RunFolders, told: ToldPrompt
) -> None:
    settings = emotion(response_loss="kl")
    _, config = build_model(settings, tiny_models, EMOTIONS, second.init)
    other = replace(told, prompt=PROMPT.model_copy(update={"text": "Say more, {emotion}: "}))
    one, two = (
        identify(settings, config, second.data, second.init, torch.float32, True, data.collate.shell)
        for data in (opened(settings, second, tiny_models, each) for each in (told, other))
    )
    assert differences(one, two).startswith("prompts of the teacher ")
    assert "; " not in differences(one, two)


@pytest.mark.parametrize(
    ("changes", "row", "message"),
    [
        (
            {"text": "Go on: "},
            {},
            r"prompts\.emotion\.text: found no \{emotion\}, expected one: with the KL in fit\.emo",
        ),
        (
            {"speech": "Go: "},
            {},
            r"packed: found rows packed with another prompts\.emotion or models\.llm, expected th",
        ),
        (
            {},
            {"emotion": None},
            r"train-0: found no emotion, expected one .+ \(1 rows of train have none\); set "
            r"fit\.emotion\.response_loss to ce, or leave the corpus corpus out of split\.emotion$",
        ),
    ],
)
def test_a_teacher_that_cannot_be_told_is_one_line(
    second: RunFolders, told: ToldPrompt, tmp_path: Path, changes: Any, row: Any, message: str
) -> None:
    folder = repack(second.data, tmp_path / "packed", packed.load_shell(second.data), **row)
    told = replace(told, prompt=PROMPT.model_copy(update=changes))
    with pytest.raises(UserError, match=message):
        training_shell(folder, [packed.load(folder, "train")], told)


@pytest.mark.parametrize("head", [ATTENTION, WEIGHTED, BOTH])
def test_the_head_answers_as_it_was_trained(tiny_models: ModelsParams, second: RunFolders, head: Any) -> None:
    settings = emotion(head=head)
    run.fit(settings, tiny_models, EMOTIONS, second, False)
    model = saved_model.load(second.output)
    data = opened(settings, second, tiny_models, None)
    (batch,) = data.batches([[0, 3, 5]])
    clips = [Clip(data.train[number].features, data.train[number].num_frames) for number in (0, 3, 5)]
    answering = Answering(model, Prompter.load(Path(tiny_models.llm.source)), 1)
    with torch.no_grad():
        expected = model(batch).emotion.double().log_softmax(-1)
        found = torch.tensor(answering.emotion_scores(clips), dtype=torch.float64)
        assert answering.emotion_scores(answering.encode_speech(clips)) == found.tolist()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    config = load_config(second.output)
    untrained = saved_model.build(
        config.model_copy(update={"head_pooling": "mean", "head_layers": "last"}), torch.float32
    )
    assert untrained.head.shape != model.head.shape


def test_a_later_training_continues_the_head_or_says_what_differs(
    tiny_models: ModelsParams, second: RunFolders, tmp_path: Path
) -> None:
    run.fit(emotion(head=BOTH), tiny_models, EMOTIONS, second, False)
    later = replace(second, init=None, output=tmp_path / "later")
    still: dict[str, Any] = {"init": str(second.output), "learning_rate": 1e-9, "max_steps": 1}
    run.fit(emotion(head=BOTH, **still), tiny_models, EMOTIONS, later, False)
    before, after = tensors(second.output), tensors(later.output)
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before if name.startswith("head"))
    for head, name in (
        (ATTENTION, "layers: found weighted, expected last"),
        (WEIGHTED, "pooling: found attention, exp"),
    ):
        with pytest.raises(UserError, match=rf"fit\.emotion\.init: .+: fit\.emotion\.head\.{name}"):
            run.fit(emotion(head=head, **still), tiny_models, EMOTIONS, later, False)
    semantic = semantic_fit_section(init=str(second.output), encoder_states="cached")
    with pytest.raises(UserError, match=r"fit\.semantic\.init: .+: found an emotion head that reads all layers of the"):
        run.fit(SemanticFitParams.model_validate(semantic), tiny_models, EMOTIONS, later, False)


def test_a_model_of_an_earlier_version_has_the_published_head(second: RunFolders) -> None:
    assert second.init is not None
    before = saved_model.load(second.init).state_dict()
    file = second.init / "config.json"
    config = json.loads(file.read_text())
    assert (config.pop("head_pooling"), config.pop("head_layers")) == ("mean", "last")
    file.write_text(json.dumps(config))
    loaded = saved_model.load(second.init).state_dict()
    assert loaded.keys() == before.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())
    assert {name for name in loaded if name.startswith("head")} == {
        "head.classify.weight",
        "head.mean",
        "head.deviation",
    }


def test_the_prompt_of_the_teacher_is_read_only_if_there_is_one(tiny_models: ModelsParams, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("{}")
    assert read_told_prompt(file, "emotion", emotion()) is None
    semantic = SemanticFitParams.model_validate(semantic_fit_section())
    assert semantic.runs_teacher
    assert read_told_prompt(file, "semantic", semantic) is None
    sections = {"prompts": {"emotion": PROMPT.model_dump()}, "models": tiny_models.model_dump()}
    file.write_text(yaml.safe_dump(sections))
    for response_loss in ("kl", "both"):
        found = read_told_prompt(file, "emotion", emotion(response_loss=response_loss))
        assert found == ToldPrompt(PROMPT, tiny_models.llm)


def test_the_memory_of_a_step_counts_teacher_and_head(
    tiny_models: ModelsParams, second: RunFolders, told: ToldPrompt
) -> None:
    counted = []
    for settings in (emotion(), emotion(response_loss="both", head=BOTH, labels="soft")):
        model, config = build_model(settings, tiny_models, EMOTIONS, second.init)
        data = open_data(second.data, settings, config, settings.runs_teacher, True, told)
        batch = data.collate([data.train[number] for number in range(4)])
        facts = plan_step(model, partial(run.make_objective, settings), settings, batch, torch.device("cpu"))
        assert facts.trained_weights == sum(p.numel() for p in model.parameters() if p.requires_grad)
        counted.append(facts)
    published, chosen = counted
    own = sum(p.numel() for p in model.head.parameters())
    assert chosen.trained_weights - published.trained_weights == own - 2 * model.token_embeddings.embedding_dim
    assert chosen.flops > 1.2 * published.flops
    assert chosen.activations > published.activations
