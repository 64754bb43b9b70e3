"""Rows, requests and parameters that several test files build."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import soundfile
import yaml
from numpy.typing import NDArray

from evaluate.predictions import CONDITIONS, DIVERGENCE_SCHEMA, RECOGNITION_SCHEMA, SYSTEMS, TRANSCRIPTS_SCHEMA
from pipeline.audio import mono_16k
from pipeline.audio.mono_16k import Samples
from pipeline.audio.speech_tokens import num_mel_frames, num_speech_tokens
from pipeline.generate import __main__ as generate
from pipeline.generate.engines.interface import Answer, Engine, Request
from pipeline.generate.params import GenerateParams
from pipeline.generate.signature import Signature
from pipeline.generate.store import StoredAnswer
from pipeline.leaks import __main__ as leaks
from pipeline.params import Alignment
from pipeline.tables import continuations, manifest, packed, parquet
from pipeline.weights.source import ModelsParams

if TYPE_CHECKING:
    from train.model_config import ModelConfig

TEXTS = ("kids are talking", "dogs are sitting", "kids are talking", "yes")
CLASSES = ["neutral", "sad", "angry", "happy"]
LEAKS: dict[str, Any] = {
    "forbid": ["speaker", "dialogue", "audio", "near_audio"], "allow": {}, "near_audio_of": ["emotion"],
}  # fmt: skip
PROMPT = {"system": "S", "text": "Go on: ", "speech": "Go on: "}


def utterance(key: str, **values: Any) -> dict[str, Any]:
    """Build a manifest row; columns without a value are null."""
    return {**dict.fromkeys(manifest.SCHEMA.names), "id": key, **values}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema = manifest.SCHEMA) -> Path:
    """Write rows as a table, a manifest by default."""
    parquet.write(parquet.from_rows(rows, schema), path)
    return path


def read_continuations(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table of continuations."""
    rows: list[dict[str, Any]] = parquet.read(path, continuations.SCHEMA).to_pylist()
    return rows


def noise(num_samples: int = 8_000, channels: int = 1, seed: int = 0, peak: int = 20_000) -> NDArray[np.int16]:
    """Make up 16-bit samples below a peak."""
    return np.random.default_rng(seed).integers(-peak, peak, (num_samples, channels), dtype=np.int16)


def write_audio(path: Path, samples: NDArray[Any], rate: int = mono_16k.SAMPLE_RATE_HZ, **options: str) -> Path:
    """Write samples as an audio file of the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def write_clip(path: Path, num_samples: int = 9_600, seed: int = 0) -> Path:
    """Write quiet noise, other noise for another name or seed."""
    return write_audio(path, noise(num_samples, seed=zlib.crc32(f"{seed} {path.name}".encode()), peak=99))


def requests(prompts: Iterable[Sequence[int]], seed: int | None = None) -> Iterator[Request]:
    """Yield a request for each prompt; the requests are made as an engine takes them."""
    return (Request(bytes(16), "", None, tuple(prompt), seed) for prompt in prompts)


def answers_in_order(llm: Engine, asked: Iterable[Request]) -> list[Answer]:
    """Return the engine's answers in the order of the requests."""
    answers = dict(llm.generate(asked))
    return [answers[position] for position in sorted(answers)]


def stored_answer(signature: Signature, transcript: str, continuation: str = "", num_top: int = 0) -> StoredAnswer:
    """Build a stored answer with `num_top` likeliest tokens at each position."""
    return StoredAnswer(
        key=signature.key(transcript, None),
        transcript=transcript,
        emotion=None,
        prompt_token_ids=[1, 2],
        continuation=continuation or f"after {transcript}",
        token_ids=[3],
        finish_reason=continuations.STOP,
        seed=None,
        logprob=-1.5,
        top_ids=[list(range(num_top))] * 2 if num_top else None,
        top_logprobs=[[-1.0] * num_top] * 2 if num_top else None,
        engine="recorder 1",
        hardware="none",
        written_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def weights(folder: Path | str) -> dict[str, Any]:
    """Build the section of a model in a folder."""
    return {"source": str(folder), "revision": None, "sha256": None}


def generate_section(**changes: Any) -> dict[str, Any]:
    """Build the section `generate` for short greedy answers of the engine transformers."""
    section = {
        "engine": "transformers", "server": None, "ray": None, "generator": None, "allow_foreign_generator": False,
        "dtype": "float32", "tensor_parallel": "auto", "max_new_tokens": 12, "max_model_len": 160, "temperature": 0.0,
        "top_p": 1.0, "seed": 1, "store_logprobs": 0, "agreement": None, "rows_per_part": 2,
    }  # fmt: skip
    return {**section, **changes}


def generate_params(**changes: Any) -> GenerateParams:
    """Build the section `generate` as `generate_section` does, checked."""
    return GenerateParams.model_validate(generate_section(**changes))


def write_texts(path: Path, texts: Sequence[str | None] = TEXTS, emotion: str | None = "sad") -> Path:
    """Write a manifest of utterances with these transcripts."""
    return write_table(path, [utterance(f"corpus/{i}", text=text, emotion=emotion) for i, text in enumerate(texts)])


def run_generate(folder: Path, llm: Path, kind: Alignment = "semantic", **settings: Any) -> list[dict[str, Any]]:
    """Run the stage generate in a folder with a manifest; return the rows of continuations.parquet."""
    params_file = write_generate_params(folder / "params.yaml", llm, **settings)
    output = folder / "continuations.parquet"
    generate.main(kind, folder / "manifest.parquet", output, folder / "choices.csv", params_file)
    return read_continuations(output)


def write_generate_params(path: Path, llm: Path | str, min_agreement: float | None = None, **changes: Any) -> Path:
    """Write the sections that generate reads, with `changes` in the section of that name."""
    sections = {
        "models": {"llm": weights(llm)},
        "emotions": ["sad", "happy"],
        "prompts": {"semantic": PROMPT, "emotion": {**PROMPT, "text": "Go on, {emotion}: "}},
        "generate": generate_section(**changes),
        "filter": {kind: {"min_agreement": min_agreement} for kind in ("semantic", "emotion")},
    }
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def change_params(changes: Mapping[str, Any], path: Path = Path("params.yaml"), to: Path | None = None) -> Path:
    """Change parameters, named as in generate.seed; write the file again, or another file."""
    values = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *sections, key = name.split(".")
        section = values
        for each in sections:
            section = section[each]
        section[key] = value
    (to or path).write_text(yaml.safe_dump(values, sort_keys=False))
    return to or path


def batch_section(**changes: Any) -> dict[str, Any]:
    """Build the section `batches` of training; four train rows of `packed_folder` are a batch."""
    return {"layout": "padded", "max_frames": 240, "max_positions": 100, "per_step": 1, "round_up": False, **changes}


def fit_section(**changes: Any) -> dict[str, Any]:
    """Build what the sections `fit.semantic` and `fit.emotion` share, for a few steps on a tiny model."""
    section = {
        "init": None, "seed": 1, "epochs": 2.0, "max_steps": None, "batches": batch_section(), "mixture": None,
        "learning_rate": 1e-2, "warmup_steps": 2, "schedule": "as-published", "weight_decay": 0.01,
        "max_grad_norm": 1.0, "precision": "float32", "workers": 0, "log_mel_on": "loader",
        "log_every": 1, "evaluate_every": 3, "save_every": 2, "keep_checkpoints": 2,
        "stall": None, "stop_after": None, "keep": "last", "augment": "none", "checkpoint_layers": False,
        "shard_llm": False, "compile_layers": False,
        "hang_minutes": 30.0, "answers": 0, "trackers": ["tensorboard"],
    }  # fmt: skip
    return {**section, **changes}


def semantic_fit_section(**changes: Any) -> dict[str, Any]:
    """Build the section `fit.semantic`."""
    own = {
        "pad_to_30s": False,
        "warm_start": None,
        "teacher": "exact",
        "temperature": 2.0,
        "encoder_states": "computed",
    }
    return fit_section(**{**own, **changes})


def emotion_fit_section(**changes: Any) -> dict[str, Any]:
    """Build the section `fit.emotion`."""
    plora = {"rank": 2, "alpha": 2, "dropout": 0.1, "targets": "all-linear", "positions": "speech"}
    own = {
        "plora": plora, "train_encoder": True, "encoder_learning_rate": None, "response_loss": "ce",
        "emotion_weight": 1.0, "labels": "hard", "head": {"pooling": "mean", "layers": "last"},
    }  # fmt: skip
    return fit_section(**{**own, **changes})


def model_config(models: ModelsParams, **changes: Any) -> "ModelConfig":
    """Describe a model that nobody has trained."""
    from train.model_config import ModelConfig

    values = {"emotions": ["sad", "happy"], "pad_to_30s": False, "seed": 3, "encoder_trained": False, "plora": False}
    return ModelConfig(models=models, **{**values, **changes})


def kl_scores(low: float, high: float, after: float = 1.5) -> dict[str, dict[str, float]]:
    """Build the figures of a divergence protocol whose interval of the gap is given."""

    def score(kl: float) -> dict[str, float]:
        return {"kl": kl, "kl_low": kl - 0.1, "kl_high": kl + 0.1, "n": 4, "speakers": 2}

    hearing = {"gap": (low + high) / 2, "gap_low": low, "gap_high": high}
    values = dict(zip(CONDITIONS, (score(1.9), score(after), score(after)), strict=True))
    return values | {"transcript": {"kl": 0.0}, "hearing": hearing}


def emotion_scores(**ua: float) -> dict[str, dict[str, float]]:
    """Build the figures of an emotion protocol; a system without a given accuracy guesses."""
    scores: dict[str, dict[str, float]] = {"chance": {"ua": 0.5}}
    for system in SYSTEMS:
        value = ua.get(system.name, 0.5)
        scores[system.name] = {"ua": value, "ua_low": value - 0.1, "ua_high": value + 0.1}
        scores[system.name] |= {"wa": value, "macro_f1": value, "unparsable": 0.25, "n": 4, "speakers": 2}
    return scores


def divergence_table(gap: float, speakers: int = 4) -> pa.Table:
    """Make up 40 clips whose divergence is larger by `gap` with another clip."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        after = 1.5 + 0.2 * rng.standard_normal()
        kl = {"before": after + 0.4, "after": after, "shuffled": after + gap + 0.01 * rng.standard_normal()}
        who = {"id": f"libri/{i}", "corpus": "libri", "speaker": f"libri/{i % speakers}", "num_tokens": 5 + i}
        who["num_agree"] = (6 + i) // 2
        rows += [{**who, "condition": name, "kl": kl[name]} for name in CONDITIONS]
    return parquet.from_rows(rows, DIVERGENCE_SCHEMA)


def recognition_table(speakers: int = 4) -> pa.Table:
    """Make up 80 clips of CLASSES, of which each system recognises about 60 %."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(80):
        who = {"id": f"acted/{i}", "corpus": "acted", "speaker": f"acted/{i % speakers}", "emotion": CLASSES[i // 20]}
        for system in SYSTEMS:
            predicted = who["emotion"] if rng.random() < 0.5 else [*CLASSES, None][rng.integers(5)]
            rows.append({**who, "system": system.name, "predicted": predicted, "answer": None, "scores": None})
    return parquet.from_rows(rows, RECOGNITION_SCHEMA)


def recognised(clips: Iterable[Mapping[str, Any]], predicted: Sequence[str | None]) -> pa.Table:
    """Make up predictions: every system answers the clips with `predicted` in turn.

    A clip has an id, a speaker and an emotion; the corpus is what its id begins with.
    """
    rows = [
        {**clip, "corpus": clip["id"].partition("/")[0], "system": system.name, "answer": None, "scores": None}
        | {"predicted": predicted[i % len(predicted)]}
        for i, clip in enumerate(clips)
        for system in SYSTEMS
    ]
    return parquet.from_rows(rows, RECOGNITION_SCHEMA)


def write_transcripts(path: Path, rows: Sequence[Mapping[str, Any]], whisper_texts: Sequence[str]) -> Path:
    """Write what Whisper hears in emotional clips."""
    about = ({key: row[key] for key in ("id", "corpus", "speaker", "text")} for row in rows)
    counts = {"kind": "emotion", "language": None, "errors": 1, "words": 2}
    return write_table(
        path,
        [row | counts | {"heard": text} for row, text in zip(about, whisper_texts, strict=True)],
        TRANSCRIPTS_SCHEMA,
    )


def rising_and_falling(seed: int) -> Samples:
    """Make up two seconds whose bands rise and fall."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((40, 800)) * generator.uniform(0.05, 0.2, (40, 1))
    return steps.ravel().astype(np.float32)


def unshared_row(corpus: str, i: int, split: str, **changes: Any) -> dict[str, Any]:
    """A row that shares nothing with any other."""
    key = f"{corpus}/{i}"
    made = {
        "corpus": corpus, "audio": f"{i}.wav", "start_s": 0.0, "duration_s": 2.0, "text": f"text {key}",
        "speaker": f"{corpus}/speaker-{i}", "dialogue": f"dialogue-{i}", "split": split, "content_hash": f"hash {key}",
    }  # fmt: skip
    return utterance(key) | made | changes


class LeaksProject:
    """A folder with two manifests and the clips of the corpora `read` and `acted`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        splits = ("train", "train", "dev", "test", "test")
        self.rows = {
            name: [unshared_row(name, i, split) for i, split in enumerate(splits)] for name in ("read", "acted")
        }  # a corpus a manifest
        for corpus, first in (("read", 100), ("acted", 200)):
            for i in range(len(splits)):
                self.write(corpus, i, rising_and_falling(first + i))

    def write(self, corpus: str, i: int, samples: Samples) -> None:
        """Write the clip of a row."""
        write_audio(self.folder / corpus / f"{i}.wav", samples)

    def change(self, corpus: str, i: int, **changes: Any) -> None:
        """Change columns of a row."""
        self.rows[corpus][i].update(changes)

    def run(self, **changes: Any) -> pa.Table:
        """Run the stage and return the report."""
        self.prepare(**changes)
        leaks.main(*self.files, self.folder / "params.yaml")
        return self.report()

    def prepare(self, **changes: Any) -> None:
        """Write the manifests, and the section leaks with these changes."""
        for corpus, file in zip(("read", "acted"), self.files, strict=False):
            write_table(file, self.rows[corpus])
        roots = "".join(
            f"  {name}: {{reader: ravdess, root: {self.folder / name}, check: samples}}\n" for name in ("read", "acted")
        )
        lines = "".join(f"  {key}: {value}\n" for key, value in {**LEAKS, **changes}.items())
        (self.folder / "params.yaml").write_text(f"ingest:\n{roots}leaks:\n{lines}")

    def report(self) -> pa.Table:
        """Read the table that the stage wrote."""
        return parquet.read(self.files[2], leaks.SCHEMA, allow_empty=True)

    @property
    def files(self) -> tuple[Path, Path, Path]:
        semantic, emotion, output = (self.folder / f"{name}.parquet" for name in ("semantic", "emotion", "leaks"))
        return semantic, emotion, output


def write_packed(folder: Path, seed: int = 0) -> Path:
    """Write a packed folder of made-up rows: 12 to train on, 4 to develop on and 8 to test with."""
    generator = np.random.default_rng(seed)

    def row(split: str, i: int) -> dict[str, Any]:
        samples = (0.1 * generator.standard_normal(8_000 + 1_000 * i)).astype(np.float32)
        response_ids = [40 + i, 41, 0] if i != 3 or split == "train" else []
        return {
            "id": f"corpus/{split}-{i}",
            "corpus": "corpus",
            "speaker": f"corpus/{split}-{i % 2}",
            "emotion": ("sad", "happy")[i // 2 % 2],
            "text": f"text {i}",
            "audio": {"bytes": mono_16k.encode_flac(samples), "path": None},
            "num_samples": len(samples),
            "num_speech_tokens": num_speech_tokens(num_mel_frames(len(samples))),
            "num_text_tokens": 2,
            "num_response_tokens": len(response_ids),
            "text_ids": [20 + i, 21 + i],
            "response_ids": response_ids,
        }

    shell = packed.PromptShell(before_speech=[5, 6], before_text=[5, 6], after=[7])
    with packed.Writer(folder, shell, shard_bytes=1) as writer:
        for split, count in (("train", 12), ("dev", 4), ("test", 8)):
            writer.write(split, (row(split, i) for i in range(count)))
    return folder
