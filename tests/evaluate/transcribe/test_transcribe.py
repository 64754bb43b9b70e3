"""Whisper's transcripts: greedy, complete, and those of each clip by itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from rapidfuzz.distance import Levenshtein
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from evaluate.predictions import read_transcripts
from evaluate.transcribe import __main__ as transcribe
from evaluate.transcribe import transcriber as module
from evaluate.transcribe.transcriber import ChosenClip, Transcriber
from evaluate.word_errors import Normaliser
from pipeline import params
from pipeline.stage import UserError
from pipeline.tables import packed
from pipeline.weights.source import ModelsParams, fetch
from pipeline.weights.whisper import load_whisper
from tests.builders import change_params, weights, write_packed
from tests.conftest import character_tokenizer
from train.data.dataset import decode
from train.data.log_mel import LogMel

NO_TIMESTAMPS, NUM_TOKENS = 257, 12


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Whisper with random weights, whose texts are of random bytes."""
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


@pytest.fixture
def params_file(tmp_path: Path, whisper_folder: Path) -> Path:
    settings = {"model": None, "clips": None, "seed": 1, "batch_size": 3}
    values = {"transcribe": settings, "models": {"encoder": weights(whisper_folder)}, "processes": 1}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "params.yaml"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models on several threads wait longer than they compute."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def run(data: Path, params_file: Path) -> Any:
    output = params_file.parent / "transcripts.parquet"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "MAX_TOKENS", NUM_TOKENS)
        transcribe.main(semantic=data, emotion=data, output=output, params_file=params_file)
    return read_transcripts(output).to_pandas()


@torch.no_grad()
def by_hand(whisper: Any, features: torch.Tensor) -> list[int]:
    """Write one clip greedily, with one pass over all tokens for each."""
    ids = [1, NO_TIMESTAMPS]
    while len(ids) < 2 + NUM_TOKENS:
        logits = whisper(features[None], decoder_input_ids=torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == 0:
            break
    return ids


def test_every_test_clip_of_both_kinds_has_its_greedy_transcript_and_its_errors(
    packed_folder: Path, params_file: Path, whisper_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = run(packed_folder, params_file)
    assert "British and American spellings count as different words" in capsys.readouterr().out
    assert sorted(table.kind) == ["emotion"] * 8 + ["semantic"] * 8
    rows, log_mel = packed.load(packed_folder, "test"), LogMel(whisper_folder, True)
    whisper, tokenizer = load_whisper(whisper_folder, torch.float32), character_tokenizer()
    by_kind = {kind: of_kind.set_index("id") for kind, of_kind in table.groupby("kind")}
    for number in (0, 5):
        row = rows[number]
        ids = by_hand(whisper, log_mel(decode(rows, row, number)))
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        for of_kind in by_kind.values():
            assert of_kind.heard[row["id"]] in expected  # the ids that Whisper begins with are texts here
            assert len(of_kind.heard[row["id"]]) > 0
    normalise = Normaliser(whisper_folder)
    for found in table.itertuples():
        said, written = normalise(found.text, None).split(), normalise(found.heard, None).split()
        assert (found.errors, found.words) == (Levenshtein.distance(said, written), len(said))


def test_a_few_clips_of_each_kind_may_be_chosen(packed_folder: Path, params_file: Path) -> None:
    change_params({"transcribe.clips": 4}, params_file)
    table = run(packed_folder, params_file)
    assert table.groupby(["kind", "speaker"]).size().tolist() == [2, 2, 2, 2]


def test_a_clip_without_a_transcript_is_transcribed_without_errors(params_file: Path, tmp_path: Path) -> None:
    data = write_packed(tmp_path / "data")
    shell = packed.load_shell(data)
    rows = [{**row, "text": None} if i == 2 else row for i, row in enumerate(packed.load(data, "test"))]
    with packed.Writer(tmp_path / "some", shell, shard_bytes=1 << 20) as writer:
        writer.write("test", iter(rows))
    table = run(tmp_path / "some", params_file)
    assert table[table.text.isna()].id.tolist() == ["corpus/test-2"] * 2
    assert table[table.text.isna()].errors.isna().all()
    assert table[table.text.notna()].errors.notna().all()
    assert table.heard.notna().all()


def test_a_whisper_without_a_decoder_is_one_line_that_names_the_parameter(
    packed_folder: Path, params_file: Path, tiny_models: ModelsParams, tmp_path: Path, whisper_folder: Path
) -> None:
    encoder = load_whisper(whisper_folder, torch.float32)
    state = {name: tensor for name, tensor in encoder.state_dict().items() if ".decoder." not in name}
    state.pop("proj_out.weight")
    encoder.save_pretrained(tmp_path / "encoder", state_dict=state)
    WhisperFeatureExtractor().save_pretrained(tmp_path / "encoder")
    change_params({"models.encoder": weights(tmp_path / "encoder")}, params_file)
    with pytest.raises(UserError, match=r"lacks the weight model\.decoder.*name one in transcribe\.model"):
        run(packed_folder, params_file)
    change_params({"models.encoder": tiny_models.encoder.model_dump()}, params_file)
    with pytest.raises(UserError, match=r"no_timestamps_token_id in generation_config\.json, expected a whole Whisper"):
        run(packed_folder, params_file)
    change_params({"transcribe.model": weights(whisper_folder)}, params_file)
    assert len(run(packed_folder, params_file)) == 16


def test_a_multilingual_whisper_gets_the_language_of_each_clip(
    packed_folder: Path, whisper_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = packed.load(packed_folder, "test")
    transcriber = Transcriber(whisper_folder, {"semantic": rows})
    transcriber.languages = {"de", "en"}
    asked: list[tuple[int, Any, Any]] = []

    def generate(features: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options["do_sample"] is False
        asked.append((len(features), options.get("language"), options.get("task")))
        return torch.full((len(features), 1), 40 + len(asked))

    monkeypatch.setattr(transcriber.whisper, "generate", generate)
    languages = ["de", "de", None, "xx", "en"]
    clips = [ChosenClip("semantic", i, {"language": language}) for i, language in enumerate(languages)]
    texts = transcriber.transcribe(clips)
    assert asked == [(2, "de", "transcribe"), *[(1, each, "transcribe") for each in (None, None, "en")]]
    assert len(texts) == 5
    assert texts[0] == texts[1] != texts[2]
    transcriber.tell_languages(clips)
    assert "found 1 clips in xx, which this Whisper does not know" in capsys.readouterr().out


@pytest.mark.weights
@pytest.mark.shared
def test_the_demos_whisper_reads_clean_speech_with_few_errors(shared: Path, root: Path) -> None:
    folder = fetch(params.load(root / "params.yaml", "models", ModelsParams).encoder)
    files = sorted((shared / "data/LibriSpeech/test-clean").rglob("*.flac"))
    assert files
    said: dict[str, str] = {}
    for file in (shared / "data/LibriSpeech/test-clean").rglob("*.trans.txt"):
        said |= dict(line.split(" ", 1) for line in file.read_text().splitlines())
    transcriber, normalise = Transcriber(folder, {}), Normaliser(folder)
    errors = words = 0
    for file in files:
        (written,) = transcriber.write([soundfile.read(file, dtype="float32")[0]], "en")
        pair = [normalise(text, "en").split() for text in (said[file.stem], written)]
        errors, words = errors + Levenshtein.distance(*pair), words + len(pair[0])
    assert words > 50
    assert errors / words < 0.1
