import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.audio import mono_16k
from pipeline.prompts import Prompter
from pipeline.stage import UserError
from pipeline.tables import continuations, manifest, packed, parquet
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import write_table
from tests.pipeline.pack.conftest import Inputs


def test_train_rows_need_a_kept_continuation_and_others_do_not(inputs: Inputs) -> None:
    output = inputs.run()
    ids = {split: packed.load(output, split).column("id").to_pylist() for split in manifest.SPLITS}
    assert ids == {"train": ["c/0"], "dev": ["c/2"], "test": ["c/3", "c/4"]}
    assert packed.load(output, "test")[1]["response_ids"] == []


def test_the_end_token_follows_only_an_answer_that_ended_by_itself(inputs: Inputs, tiny_models: ModelsParams) -> None:
    end_id = Prompter.load(fetch(tiny_models.llm)).end_id
    output = inputs.run()
    assert packed.load(output, "train")[0]["response_ids"] == [30, 31, end_id]
    assert packed.load(output, "test")[0]["response_ids"] == [30, 31]


def test_a_clip_is_stored_as_16_khz_mono_flac(inputs: Inputs) -> None:
    row = packed.load(inputs.run(), "train")[0]
    samples = mono_16k.decode(row["audio"]["bytes"])
    assert row["audio"]["bytes"][:4] == b"fLaC"
    assert samples.shape == (1_600,)
    assert row["num_samples"] == 1_600
    assert abs(samples[800] - 0.25) < 1e-2


def test_a_clip_without_transcript_is_packed_to_be_tested_on(inputs: Inputs) -> None:
    table = manifest.read(inputs.folder / "manifest.parquet").to_pylist()
    table[4]["text"] = None
    write_table(inputs.folder / "manifest.parquet", table)
    dropped = parquet.read(inputs.folder / "dropped.parquet", continuations.SCHEMA).to_pylist()
    dropped[1] |= {"key": None, "text_ids": []}
    write_table(inputs.folder / "dropped.parquet", dropped, continuations.SCHEMA)
    row = packed.load(inputs.run(), "test")[1]
    assert (row["id"], row["text"], row["text_ids"]) == ("c/4", "", [])


def test_the_prompt_shell_and_a_rows_ids_make_the_prompt_that_the_llm_continued(
    inputs: Inputs, tiny_models: ModelsParams
) -> None:
    prompter = Prompter.load(fetch(tiny_models.llm))
    output = inputs.run()
    shell, row = packed.load_shell(output), packed.load(output, "train")[0]
    assert shell.before_text is not None
    prompt = prompter.tokenizer.decode([*shell.before_text, *row["text_ids"], *shell.after])
    assert prompt == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nsay: word 0<|im_end|>\n<|im_start|>assistant\n"
    assert prompter.decode(shell.before_speech).endswith("user\nhear:")


def test_the_emotion_prompt_keeps_the_label_out_of_the_prompt_shell(inputs: Inputs, tiny_models: ModelsParams) -> None:
    shell = packed.load_shell(inputs.run("emotion"))
    assert shell.before_text is None
    assert "sad" not in Prompter.load(fetch(tiny_models.llm)).tokenizer.decode(shell.before_speech)


def test_a_clip_that_went_missing_after_ingest_is_named(inputs: Inputs) -> None:
    (inputs.folder / "2.wav").unlink()
    with pytest.raises(UserError, match=r"2\.wav: .*ingest c again"):
        inputs.run()
    assert not (inputs.folder / "packed").exists()


def test_a_corpus_without_a_root_is_named(inputs: Inputs) -> None:
    file = inputs.folder / "params.yaml"
    file.write_text(file.read_text().replace("ingest:\n  c:", "ingest:\n  d:"))
    with pytest.raises(UserError, match="corpus c is not listed under ingest"):
        inputs.run()


def test_no_kept_train_row_is_an_error(inputs: Inputs) -> None:
    kept = parquet.read(inputs.folder / "kept.parquet", continuations.SCHEMA)
    dropped = parquet.read(inputs.folder / "dropped.parquet", continuations.SCHEMA)
    parquet.write(kept.slice(1), inputs.folder / "kept.parquet")
    parquet.write(pa.concat_tables([kept.slice(0, 1), dropped]), inputs.folder / "dropped.parquet")
    with pytest.raises(UserError, match="no continuation of a train row"):
        inputs.run()


def test_teacher_signals_are_packed_with_their_response_where_there_are_any(inputs: Inputs) -> None:
    assert packed.load(inputs.run(), "train").names == packed.SCHEMA.names
    rows = parquet.read(inputs.folder / "kept.parquet", continuations.SCHEMA).to_pylist()
    top = {"c/0": [[1, 2], [3, 4], [5, 6]], "c/2": None, "c/3": [[7, 8], [9, 10]]}
    signals = [{"top_ids": top[row["id"]], "top_logprobs": top[row["id"]]} for row in rows]
    schema = pa.schema([*continuations.SCHEMA, *continuations.SIGNALS_SCHEMA])
    both = [row | more for row, more in zip(rows, signals, strict=True)]
    write_table(inputs.folder / "kept.parquet", both, schema)
    output = inputs.run()
    found = {row["id"]: row for split in manifest.SPLITS for row in packed.load(output, split)}
    assert {key: row["top_ids"] for key, row in found.items()} == {**top, "c/4": None}
    assert len(found["c/0"]["top_logprobs"]) == len(found["c/0"]["response_ids"])
    assert "top_ids" not in packed.load(inputs.run("emotion"), "train").names


def test_a_row_has_every_length_and_where_it_comes_from(inputs: Inputs) -> None:
    row = packed.load(inputs.run(), "train")[0]
    assert row["num_speech_tokens"] == 1  # 0.1 s
    assert row["num_text_tokens"] == len(row["text_ids"]) == len("word 0")
    assert row["num_response_tokens"] == len(row["response_ids"]) == 3
    assert row["continuation_key"] == "00"
    hashes = {packed.load(inputs.folder / "packed", split)[0]["row_hash"] for split in manifest.SPLITS}
    assert len(hashes) == 3


def test_votes_language_and_licence_are_packed(inputs: Inputs) -> None:
    rows = manifest.read(inputs.folder / "manifest.parquet").to_pylist()
    rows[0] |= {"emotion_votes": [("sad", 0.75), ("happy", 0.25)], "language": "en", "licence": "CC-BY-4.0"}
    write_table(inputs.folder / "manifest.parquet", rows)
    row = packed.load(inputs.run(), "train")[0]
    assert row["emotion_votes"] == [{"emotion": "sad", "share": 0.75}, {"emotion": "happy", "share": 0.25}]
    assert (row["language"], row["licence"]) == ("en", "CC-BY-4.0")
    assert packed.load(inputs.folder / "packed", "dev")[0]["emotion_votes"] is None


@pytest.mark.parametrize(("rate", "channels", "subtype"), [(16_000, 1, "PCM_16"), (16_000, 1, "PCM_S8")])
def test_a_flac_file_of_the_packed_form_passes_byte_for_byte(
    inputs: Inputs, rate: int, channels: int, subtype: str
) -> None:
    row = pack_flac(inputs, rate, channels, subtype)
    assert row["audio"]["bytes"] == (inputs.folder / "0.flac").read_bytes()
    assert row["num_samples"] == 5_000


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"), [(16_000, 2, "PCM_16"), (16_000, 1, "PCM_24"), (8_000, 1, "PCM_16")]
)
def test_another_flac_file_is_encoded_anew(inputs: Inputs, rate: int, channels: int, subtype: str) -> None:
    row = pack_flac(inputs, rate, channels, subtype)
    assert row["audio"]["bytes"] != (inputs.folder / "0.flac").read_bytes()
    assert soundfile.info(io.BytesIO(row["audio"]["bytes"])).samplerate == 16_000
    assert row["num_samples"] == 5_000 * 16_000 // rate


def pack_flac(inputs: Inputs, rate: int, channels: int, subtype: str) -> dict[str, Any]:
    """Pack a clip of 5,000 samples that is a FLAC file."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (5_000, channels))
    soundfile.write(inputs.folder / "0.flac", samples, rate, subtype=subtype)
    rows = manifest.read(inputs.folder / "manifest.parquet").to_pylist()
    rows[0] |= {"audio": "0.flac", "duration_s": 5_000 / rate}
    write_table(inputs.folder / "manifest.parquet", rows)
    return packed.load(inputs.run(), "train")[0]


def test_a_segment_of_a_flac_file_is_cut_out(inputs: Inputs) -> None:
    pack_flac(inputs, 16_000, 1, "PCM_16")
    rows = manifest.read(inputs.folder / "manifest.parquet").to_pylist()
    rows[0] |= {"start_s": 0.1, "duration_s": 0.2}
    write_table(inputs.folder / "manifest.parquet", rows)
    row = packed.load(inputs.run(), "train")[0]
    whole = soundfile.read(inputs.folder / "0.flac", dtype="float32")[0]
    assert np.array_equal(mono_16k.decode(row["audio"]["bytes"]), whole[1_600:4_800])


def test_an_utterance_without_a_continuation_is_named(inputs: Inputs) -> None:
    parquet.write(
        parquet.read(inputs.folder / "dropped.parquet", continuations.SCHEMA).slice(1),
        inputs.folder / "dropped.parquet",
    )
    with pytest.raises(UserError, match="c/1: found no continuation, kept or dropped; run filter on this manifest"):
        inputs.run()


def test_packing_again_gives_the_same_bytes(inputs: Inputs) -> None:
    def content() -> dict[str, bytes]:
        output = inputs.run()
        return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}

    assert content() == content()
