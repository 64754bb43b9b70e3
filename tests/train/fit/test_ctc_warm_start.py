from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import model_config, semantic_fit_section
from train import saved_model
from train.data.dataset import Examples
from train.data.log_mel import LogMel
from train.fit.ctc_warm_start import CTCHead, Vocabulary, ctc_loss, warm_start
from train.fit.data import open_data
from train.fit.params import SemanticFitParams, WarmStartParams
from train.model import SpeechLLM


@pytest.fixture
def model(tiny_models: ModelsParams) -> SpeechLLM:
    config = model_config(tiny_models, emotions=["sad"])
    return saved_model.build(config, torch.float32)


@pytest.fixture
def examples(packed_folder: Path, tiny_models: ModelsParams) -> Examples:
    return Examples(packed.load(packed_folder, "train"), LogMel(fetch(tiny_models.encoder), False), ["sad"])


def semantic_params(warm_start: WarmStartParams) -> SemanticFitParams:
    return SemanticFitParams.model_validate(semantic_fit_section(warm_start=warm_start))


def test_embeddings_come_to_spell_the_transcripts_and_nothing_else_is_trained(
    model: SpeechLLM, packed_folder: Path, tiny_models: ModelsParams, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model_config(tiny_models, emotions=["sad"])
    frozen = {name: p.clone() for name, p in model.named_parameters() if not name.startswith("adapter")}
    settings = WarmStartParams(epochs=12, learning_rate=1e-2)
    fit = semantic_params(settings)
    warm_start(model, open_data(packed_folder, fit, config, with_teacher=True), fit, settings)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 12
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_the_vocabulary_holds_the_tokens_of_the_transcripts_alone(examples: Examples) -> None:
    vocabulary = Vocabulary(pa.array([[7, 5], [7, 9]]))
    assert vocabulary.ids == [5, 7, 9]
    everything = Vocabulary(examples.rows.column("text_ids"))
    spelled = everything.collate([examples[0], examples[3]])
    assert [everything.ids[int(i)] for i in spelled.tokens[1]] == examples[3].text_ids
    assert spelled.num_frames.tolist() == [examples[0].num_frames, examples[3].num_frames]


def test_an_embedding_is_most_like_itself_whatever_its_length() -> None:
    table = torch.randn(6, 8)
    ctc_head = CTCHead(table)
    torch.nn.init.constant_(ctc_head.blank.bias, -100.0)
    assert ctc_head(3.0 * table[None])[0].argmax(-1).tolist() == list(range(6))


def test_a_clip_too_short_for_its_transcript_counts_nothing(model: SpeechLLM, examples: Examples) -> None:
    vocabulary = Vocabulary(pa.array([list(range(40))]))
    spelled = vocabulary.collate([examples[0]])
    spelled.tokens[0] = torch.arange(40)
    assert ctc_loss(model, CTCHead(model.token_embeddings.weight[:40]), spelled) == 0
