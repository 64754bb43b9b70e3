"""Fixtures that several test files use, and the environment of all tests: no model hub and no report of usage."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from pipeline.weights.source import ModelsParams, Weights
from tests import builders
from tests.doubles import RecordingEngine, let_runs_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[1]
NO_TIMESTAMPS = 257  # a token of `whisper_folder`

# make test tries the same 100 random inputs each time; make fuzz tries 2,000 new ones
hypothesis.settings.register_profile(
    "test", max_examples=100, derandomize=True, database=None, deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck), print_blob=True,
)  # fmt: skip
hypothesis.settings.register_profile(
    "fuzz", hypothesis.settings.get_profile("test"), max_examples=2_000, derandomize=False, print_blob=True
)
hypothesis.settings.load_profile("test")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PYTHONPATH"] = str(ROOT)  # processes that a test starts run the code of this checkout


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest test first: as the last one of several processes, it would run alone."""
    items.sort(key=lambda item: item.path.name != "test_hearing.py")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own: none may find or leave answers in the user's."""
    monkeypatch.setenv("BLSP_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def shared() -> Path:
    """The folder with real corpora beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"{folder}: no real corpora there")
    return folder


def character_tokenizer() -> "PreTrainedTokenizerFast":
    """A chat tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_end|>", "<|im_start|>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    chat = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    chat.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return chat


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> ModelsParams:
    """A random Whisper encoder and a random chat LLM with a tokenizer of single characters, as folders."""
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperModel,
    )

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    character_tokenizer().save_pretrained(folder / "llm")
    llm = LlamaConfig(
        vocab_size=258,  # 256 bytes and 2 specials
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(llm).save_pretrained(folder / "llm")
    whisper = WhisperConfig(
        d_model=24,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        vocab_size=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    WhisperModel(whisper).save_pretrained(folder / "encoder")
    WhisperFeatureExtractor().save_pretrained(folder / "encoder")

    def source(name: str) -> Weights:
        return Weights(source=str(folder / name), revision=None, sha256=None)

    return ModelsParams(encoder=source("encoder"), llm=source("llm"))


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Whisper with random weights, whose texts are of random bytes."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=258, d_model=24, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=24, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1, init_std=0.5,
    )  # fmt: skip
    whisper = WhisperForConditionalGeneration(config)
    settings = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    whisper.generation_config = GenerationConfig(
        **settings, no_timestamps_token_id=NO_TIMESTAMPS, is_multilingual=False, max_length=448
    )
    whisper.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run tiny models on one thread: several would wait for each other longer than they compute."""
    if "tiny_models" not in request.fixturenames:
        yield
        return
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def llm(tiny_models: ModelsParams) -> Path:
    """The folder of the tiny LLM."""
    return Path(tiny_models.llm.source)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    """The engine that every run of a test starts."""
    return let_runs_start(monkeypatch, RecordingEngine())


@pytest.fixture
def project(tmp_path: Path, llm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: the demo's parameters with a tiny LLM, and a manifest of five utterances for each kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    settings = {"engine": "transformers", "max_new_tokens": 12, "max_model_len": 400, "rows_per_part": 2}
    builders.change_params(
        {"models.llm": builders.weights(llm), **{f"generate.{key}": settings[key] for key in settings}}
    )
    said: list[tuple[str, str | None, str]] = [
        ("a", "kids are talking", "sad"),
        ("b", "dogs are sitting", "happy"),
        ("c", "yes", "sad"),
        ("d", "kids are talking", "happy"),
        ("e", None, "sad"),
    ]
    rows = [builders.utterance(key, text=text, emotion=emotion, corpus="x") for key, text, emotion in said]
    for kind in ("semantic", "emotion"):
        builders.write_table(tmp_path / "manifests" / f"{kind}.parquet", rows)
    return tmp_path


@pytest.fixture
def llm_for_vllm(tmp_path: Path) -> Path:
    """A random llama with a head size that vLLM knows, and with logits far enough apart to have no ties."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "llm"
    character_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=128, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=None, eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed folder of made-up rows: 12 to train on, 4 to develop on and 8 to test with."""
    return builders.write_packed(tmp_path_factory.mktemp("packed") / "kind")
