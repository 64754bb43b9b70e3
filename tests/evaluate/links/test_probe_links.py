"""The command on planted models: the emotion is put into the adapter's output, and removed after a layer."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
import yaml

from evaluate.links import command
from evaluate.links.clips import OTHER_WORDS, TRAINED_WORDS, permute_within_speakers, read_clips, words_of
from evaluate.links.figures import SCHEMA, Figure, answer_figures
from evaluate.links.path import LAST, SPEECH
from evaluate.links.probes import probe_link
from evaluate.metrics import score_recognition
from pipeline.stage import UserError
from pipeline.tables import packed, parquet
from pipeline.weights.source import ModelsParams
from tests.builders import recognised
from tests.evaluate.links.link_models import EMOTIONS, build, plant, tiny_config, write_clips
from train import saved_model

SPLITS = {"train": 6, "dev": 3, "test": 6}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("links") / "packed", SPLITS)


@pytest.fixture
def params_file(tmp_path: Path, root: Path) -> Path:
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["probe"]["max_rows"] = 40
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "params.yaml"


@pytest.fixture(params=["Llama", "Qwen2.5"])
def model(tmp_path: Path, tiny_models: ModelsParams, request: pytest.FixtureRequest) -> Path:
    config = tiny_config(tmp_path / "llm", tiny_models, getattr(request, "param", "Llama"), num_hidden_layers=3)
    saved_model.save(build(config), config, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Plant the emotion in each model that is loaded; `removed_after` is the layer that removes it."""
    settings: dict[str, int | None] = {"removed_after": None}
    load = saved_model.load
    monkeypatch.setattr(saved_model, "load", lambda *args: plant(load(*args), settings["removed_after"]))
    return settings


def run(model: Path, data: Path, output: Path, params_file: Path, **options: Any) -> command.Links:
    values: dict[str, Any] = {"predictions": None, "max_rows": None, "seed": None, "as_json": True, **options}
    command.main(model, data=data, output=output, params_file=params_file, **values)
    found = json.loads((output / "links.json").read_text())
    return command.Links(**found | {"figures": [Figure(**each) for each in found["figures"]]})


@pytest.mark.parametrize(
    ("removed_after", "said"),
    [
        (1, "the accuracy falls at: speech positions, layer 1."),
        (2, "the accuracy falls at: last position, layer 2."),
        (None, "no fall is shown"),
    ],
)
def test_the_sentence_names_the_link_that_loses_the_emotion(
    model: Path, data: Path, tmp_path: Path, params_file: Path, planted: dict[str, int | None],
    removed_after: int | None, said: str,
) -> None:  # fmt: skip
    planted["removed_after"] = removed_after
    found = run(model, data, tmp_path / "out", params_file)
    assert len(found.statements) == 2
    for sentence in found.statements:
        assert said in sentence
    by_link = {(one.link, one.layer, one.words): one for one in found.figures}
    for words in (TRAINED_WORDS, OTHER_WORDS):
        assert by_link["adapter output", None, words].ua == 1
        assert 0.2 < (by_link["encoder", 1, words].ua or 0) < 0.8
        assert by_link["encoder", 1, words].clips == 30
        assert by_link["encoder", 1, words].speakers == 6
    if removed_after is not None:
        of_llm = [one for one in found.figures if one.link in (SPEECH, LAST)]
        assert {one.ua for one in of_llm if (one.layer or 0) >= removed_after} == {0.5}
    controls = [one.control for one in found.figures if one.control is not None]
    assert len(controls) == 20
    assert all(0 <= control <= 1 for control in controls)


def test_the_files_hold_what_is_printed(
    model: Path, data: Path, tmp_path: Path, params_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(model, data, tmp_path / "out", params_file)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "links.json").read_text())
    table = parquet.read(tmp_path / "out" / "links.parquet", SCHEMA)
    assert table.to_pylist() == printed["figures"]
    svg = (tmp_path / "out" / "links-corpus.svg").read_text()
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"words of the training", "other words", "chance", "unweighted accuracy (%)"} <= set(texts)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"links.json", "links.parquet", "links-corpus.svg"}
    text = command.lay_out_links(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "without --predictions, the emotion head and the answers of the model are left out" in " ".join(text.split())
    again = tmp_path / "again"
    run(model, data, again, params_file)
    assert (again / "links.parquet").read_bytes() == (tmp_path / "out" / "links.parquet").read_bytes()
    assert (again / "links-corpus.svg").read_text() == svg


def test_only_the_spelling_of_words_may_differ_from_training(data: Path) -> None:
    test = read_clips(data, "test", EMOTIONS)
    words = words_of(test, packed.load(data, "train"))
    by_text = set(zip(test.column("text"), words, strict=True))
    assert by_text == {("Dogs are 1!", TRAINED_WORDS), ("cats are 5", OTHER_WORDS)}


def test_labels_are_permuted_within_speakers() -> None:
    speakers = ["a", "b"] * 50
    labels = np.array([0, 1] * 30 + [1, 1] * 10 + [0, 2] * 10)
    permuted = permute_within_speakers(labels, speakers, 1)
    for speaker in range(2):
        assert sorted(permuted[speaker::2]) == sorted(labels[speaker::2])
        assert (permuted[speaker::2] != labels[speaker::2]).sum() > 5
    assert not np.array_equal(permuted, permute_within_speakers(labels, speakers, 2))


def test_permuted_labels_are_at_chance(tmp_path: Path) -> None:
    data = write_clips(tmp_path / "packed", SPLITS, each=8)  # each speaker has all emotions equally often
    train, dev, test = (read_clips(data, split, EMOTIONS) for split in ("train", "dev", "test"))
    labels = np.concatenate([train.labels, dev.labels, test.labels])
    x = np.random.default_rng(0).standard_normal((len(labels), 4)) + 3 * labels[:, np.newaxis]
    probes = [probe_link(x, train, dev, test, seed) for seed in range(20)]
    assert (probes[0].predicted == test.labels).mean() > 0.95
    right = [(control == test.labels).mean() for probe in probes for control in probe.controls]
    assert len(right) == 100
    assert abs(np.mean(right) - 0.5) < 0.15  # three standard errors


def test_without_dev_train_speakers_choose(
    model: Path, tmp_path: Path, params_file: Path, planted: dict[str, int | None]
) -> None:
    folder = write_clips(tmp_path / "packed", {"train": 3, "test": 6})
    found = run(model, folder, tmp_path / "out", params_file)
    assert found.notes[0] == (
        "dev has no labelled clips; the regularisation is chosen by leaving speakers out of train"
    )
    assert next(one for one in found.figures if one.link == "adapter output").ua == 1


def test_single_speakers_are_told(
    model: Path, tmp_path: Path, params_file: Path, planted: dict[str, int | None]
) -> None:
    folder = write_clips(tmp_path / "packed", {"train": 1, "test": 1}, each=24)
    found = run(model, folder, tmp_path / "out", params_file)
    assert found.notes[:2] == [
        "dev has no labelled clips; the regularisation is chosen by leaving clips out of a train with one speaker",
        "the test clips are of a single speaker, so the intervals are over clips and too narrow",
    ]
    assert all("fewer than 6 speakers cannot show one" in sentence for sentence in found.statements)


@pytest.mark.parametrize(
    ("emotions", "expected"),
    [
        (["sad", "angry"], "found train rows of 1 class, expected at least 2"),
        (["calm", "angry"], "found no train rows with a label, expected some of calm, angry"),
    ],
)
def test_missing_labels_are_one_line(
    model: Path, data: Path, tmp_path: Path, params_file: Path, emotions: list[str], expected: str
) -> None:
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"emotions": emotions}))
    with pytest.raises(UserError, match=expected):
        run(model, data, tmp_path / "out", params_file)
    assert not (tmp_path / "out").exists()


def test_states_that_are_no_numbers_are_one_line(
    model: Path, data: Path, tmp_path: Path, params_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = saved_model.load

    def broken(*args: Any) -> Any:
        loaded = load(*args)
        torch.nn.init.constant_(loaded.adapter.down.weight, float("nan"))
        return loaded

    monkeypatch.setattr(saved_model, "load", broken)
    with pytest.raises(UserError, match=r"corpus/\w+-\d+-\d+: adapter output: found states that are no finite numbers"):
        run(model, data, tmp_path / "out", params_file)


def test_predictions_are_scored_on_the_same_clips(data: Path, tmp_path: Path) -> None:
    test = read_clips(data, "test", EMOTIONS)
    words = words_of(test, packed.load(data, "train"))
    names = ("id", "speaker", "emotion")
    clips = [dict(zip(names, each, strict=True)) for each in zip(*map(test.column, names), strict=True)]
    table = recognised(clips, ["sad", "happy", "sad"])
    parquet.write(table, tmp_path / "emotion" / "recognition.parquet")
    found = answer_figures(tmp_path, test, words, EMOTIONS, 0.95)
    assert [(one.words, one.link) for one in found[:3]] == [
        (TRAINED_WORDS, name) for name in ("emotion head", "likeliest label", "prompted answer")
    ]
    assert len(found) == 6
    ids = [clip["id"] for clip, its in zip(clips, words, strict=True) if its == OTHER_WORDS]
    of_others = table.filter(pc.is_in(table["id"], value_set=pa.array(ids)))
    expected = score_recognition(of_others, EMOTIONS, 0.95).metrics["emotion_corpus"]["head"]
    assert {"ua": found[3].ua, "ua_low": found[3].ua_low, "ua_high": found[3].ua_high} == {
        name: expected[name] for name in ("ua", "ua_low", "ua_high")
    }
    assert (found[3].clips, found[3].speakers) == (30, 6)
    lacking = table.filter(pc.not_equal(table["id"], ids[0]))
    parquet.write(lacking, tmp_path / "emotion" / "recognition.parquet")
    with pytest.raises(UserError, match=f"found no predictions for {ids[0]}, expected those of all test clips"):
        answer_figures(tmp_path, test, words, EMOTIONS, 0.95)
