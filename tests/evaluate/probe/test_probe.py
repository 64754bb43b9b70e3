"""The probe: the states of each layer as Hugging Face computes them, and a layer chosen without the test speakers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from evaluate.predictions import RECOGNITION_SCHEMA
from evaluate.probe import __main__ as probe
from evaluate.probe import classifier, features
from pipeline.stage import UserError
from pipeline.tables import packed, parquet
from pipeline.weights.encoder import load_encoder
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import write_packed
from train.data.dataset import decode
from train.data.log_mel import LogMel
from train.model.encoder import SpeechEncoder


def test_the_means_are_those_of_hugging_faces_states(packed_folder: Path, tiny_models: ModelsParams) -> None:
    folder, rows = fetch(tiny_models.encoder), packed.load(packed_folder, "test")
    whisper = load_encoder(folder).eval()
    log_mel = LogMel(folder, True)
    found = features.layer_means(SpeechEncoder(whisper, True), log_mel, rows, np.array([5, 0, 3]), range(3))
    for mean, place in zip(found, (5, 0, 3), strict=True):
        clip = decode(rows, rows[place], place)
        with torch.no_grad():
            states = whisper(log_mel(clip)[None], output_hidden_states=True).hidden_states
        length = (len(clip) // 160 + 1) // 2
        expected = torch.stack([layer[0, :length].mean(0) for layer in states])
        assert torch.allclose(torch.from_numpy(mean), expected, atol=1e-5)
    last = features.layer_means(SpeechEncoder(whisper, True), log_mel, rows, np.array([5, 0, 3]), [2])
    assert np.array_equal(last[:, 0], found[:, 2])


def test_clips_at_their_true_length_do_not_depend_on_their_batch(
    packed_folder: Path, tiny_models: ModelsParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rows = fetch(tiny_models.encoder), packed.load(packed_folder, "test")
    encoder, log_mel = SpeechEncoder(load_encoder(folder), False).eval(), LogMel(folder, False)
    places = np.arange(len(rows))
    together = features.layer_means(encoder, log_mel, rows, places, range(3))
    monkeypatch.setattr(features, "FRAMES_AT_ONCE", 1)
    alone = features.layer_means(encoder, log_mel, rows, places, range(3))
    assert np.allclose(together, alone, atol=1e-5)
    assert np.ptp(together, axis=0).max() > 0.01


def planted(num_speakers: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return three layers: the speaker's voice, the emotion in noise, noise; a speaker has mostly one emotion."""
    generator = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(num_speakers), 24)
    labels = np.where(generator.random(len(speakers)) < 0.7, speakers % 3, generator.integers(0, 3, len(speakers)))
    voice = generator.standard_normal((num_speakers, 12))[speakers]
    emotion = np.eye(12)[labels] + 0.7 * generator.standard_normal((len(speakers), 12))
    noise = generator.standard_normal((len(speakers), 12))
    return np.stack([voice, emotion, noise], axis=1), labels, [str(speaker) for speaker in speakers]


def test_the_layer_that_knows_the_emotion_of_new_speakers_is_chosen() -> None:
    x, labels, speakers = planted(10, seed=0)
    choice = classifier.choose(x, labels, speakers)
    assert choice.layer == 1
    assert choice.ua_by_layer[1] > 0.6 > max(choice.ua_by_layer[0], choice.ua_by_layer[2])
    new_x, new_labels, _ = planted(10, seed=1)
    scores = classifier.log_probabilities(classifier.fit(x[:, 1], labels, choice.strength), new_x[:, 1], 4)
    assert np.exp(scores).sum(1) == pytest.approx(1)
    assert (scores.argmax(1) == new_labels).mean() > 0.6
    assert (scores[:, 3] < -600).all()
    assert np.isfinite(scores).all()


def test_a_corpus_with_a_single_speaker_leaves_clips_out() -> None:
    x, labels, speakers = planted(10, seed=0)
    assert classifier.choose(x, labels, ["one"] * len(speakers)).layer in (0, 1)


@pytest.fixture
def params_file(tmp_path: Path, tiny_models: ModelsParams) -> Path:
    values = {
        "models": tiny_models.model_dump(),
        "emotions": ["sad", "happy"],
        "fit": {"semantic": {"pad_to_30s": False}},
        "probe": {"seed": 1, "max_rows": 10},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "params.yaml"


def test_each_test_row_with_a_class_is_recognised(packed_folder: Path, params_file: Path, tmp_path: Path) -> None:
    probe.main(data=packed_folder, output=tmp_path, params_file=params_file)
    table = parquet.read(tmp_path / "probe.parquet", RECOGNITION_SCHEMA).to_pandas()
    assert len(table) == 8
    assert set(table.system) == {"probe"}
    assert all(np.exp(scores).sum() == pytest.approx(1) for scores in table.scores)
    assert all(row.predicted == ["sad", "happy"][int(np.argmax(row.scores))] for row in table.itertuples())
    told = json.loads((tmp_path / "probe.json").read_text())
    assert told["rows"] == 10
    assert len(told["ua_by_layer"]) == 3


def test_rows_of_one_class_are_one_line(params_file: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(params_file.read_text()) | {"emotions": ["sad", "angry"]}
    params_file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="found train rows of 1 classes, expected at least 2"):
        probe.main(data=write_packed(tmp_path / "rows"), output=tmp_path, params_file=params_file)
