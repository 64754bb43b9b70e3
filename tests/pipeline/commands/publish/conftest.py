"""A packed folder of four corpora: one that may be passed on, IEMOCAP, MELD, and a user's own of unknown licence."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from pipeline.commands.publish import command
from pipeline.commands.publish.rebuild import rebuild
from pipeline.pack import __main__ as pack
from pipeline.prompts import Prompter
from pipeline.tables import continuations, manifest, packed
from pipeline.weights.source import ModelsParams, fetch
from tests.builders import utterance, write_clip, write_table
from tests.conftest import ROOT

SAID: list[tuple[str, str, str, str]] = [  # id, split, transcript, continuation
    ("iemocap/Ses01F_impro01_F000", "train", "did you get the mail", "I saw it. So what?"),
    ("iemocap/Ses01F_impro01_F001", "train", "there is nothing i can do for you", "There is nothing i can do for you!"),
    ("iemocap/Ses01F_impro01_F002", "train", "who told you to get in this line", "WHO TOLD YOU TO GET IN"),
    ("iemocap/Ses01F_impro01_F003", "dev", "how am i supposed to get an id", "HOW AM I SUPPOSED TO"),
    ("iemocap/Ses01F_impro01_F004", "test", "well what is the problem", ""),
    (
        "libri/19-198-0000",
        "train",
        "northanger abbey was finished in this year",
        "abbey was finished in this year, too",
    ),
    ("libri/19-198-0001", "train", "chapter one of the old book", "A new page."),
    ("libri/19-198-0002", "test", "this little work", "It was short."),
    ("meld/dia0_utt0", "train", "oh my god he has lost it", "He has lost it, oh my god."),
    ("meld/dia0_utt1", "test", "yes", "Yes."),
    ("own/we_went_to_the_sea", "train", "we went to the sea", "And swam."),
]
REFUSED = ("iemocap", "meld", "own")
LICENCES = {"iemocap": "LicenseRef-IEMOCAP", "libri": "CC-BY-4.0", "meld": "GPL-3.0-only", "own": "ask Anna"}
READERS = {"iemocap": "iemocap", "libri": "librispeech", "meld": "meld", "own": "table"}
PROMPT = {"system": "s", "text": "say: ", "speech": "hear: "}


@dataclass(frozen=True)
class Project:
    """A project with a packed folder, in which publish and rebuild run."""

    folder: Path
    prompter: Prompter

    @property
    def packed(self) -> Path:
        return self.folder / "packed"

    @property
    def params(self) -> Path:
        return self.folder / "params.yaml"

    def pack(self) -> Path:
        manifest_file, kept, dropped = (self.folder / f"{name}.parquet" for name in ("manifest", "kept", "dropped"))
        pack.main("semantic", manifest_file, kept, dropped, self.packed, self.params)
        return self.packed

    def publish(self, to: str = "published") -> Path:
        command.main(self.packed, self.folder / to, self.params)
        return self.folder / to

    def rebuild(self, kept: bool = False) -> Path:
        kept_file = self.folder / "kept.parquet" if kept else None
        output = self.folder / "rebuilt"
        rebuild(self.folder / "published", self.folder / "manifest.parquet", kept_file, output, self.params)
        return output

    def rows(self, folder: Path | None = None) -> dict[str, dict[str, Any]]:
        """Return the packed rows by their ids."""
        folder = folder or self.packed
        return {row["id"]: row for split in manifest.SPLITS for row in packed.load(folder, split, allow_empty=True)}


def _utterance(folder: Path, key: str, split: str, text: str) -> dict[str, Any]:
    corpus, _, name = key.partition("/")
    write_clip(folder / corpus / f"{name}.wav", 3_200)
    return utterance(key) | {
        "corpus": corpus, "audio": f"{name}.wav", "start_s": 0.0, "duration_s": 0.2, "text": text, "split": split,
        "speaker": f"{corpus}/Anna", "emotion": "sad", "emotion_votes": [("sad", 0.75), ("happy", 0.25)],
        "language": "en", "licence": LICENCES[corpus], "content_hash": f"hash of {key}",
    }  # fmt: skip


def _answer(prompter: Prompter, number: int, key: str, text: str, said: str, signals: bool) -> dict[str, Any]:
    token_ids = list(prompter.content_ids(said))
    top = [[token, 1] for token in (*token_ids, prompter.end_id)]
    return dict.fromkeys(continuations.SCHEMA.names) | {
        "id": key, "key": f"{number:032x}", "text_ids": list(prompter.content_ids(text)), "token_ids": token_ids,
        "continuation": said, "finish_reason": "stop", "engine": "test",
        **({"top_ids": top, "top_logprobs": [[-0.5, -1.5]] * len(top)} if signals else {}),
    }  # fmt: skip


@pytest.fixture
def make_project(tmp_path: Path, tiny_models: ModelsParams) -> Callable[..., Project]:
    """Write manifest, continuations and parameters, and pack them."""

    def make(signals: bool = False) -> Project:
        prompter = Prompter.load(fetch(tiny_models.llm))
        rows = sorted(SAID)
        write_table(tmp_path / "manifest.parquet", [_utterance(tmp_path, *each[:3]) for each in rows])
        answers = [_answer(prompter, i, key, text, said, signals) for i, (key, _, text, said) in enumerate(rows)]
        schema = columns(signals)
        write_table(tmp_path / "kept.parquet", [each for each in answers if each["continuation"]], schema)
        write_table(tmp_path / "dropped.parquet", [each for each in answers if not each["continuation"]], schema)
        ingest = {
            name: {"reader": reader, "root": str(tmp_path / name), "check": "samples"}
            for name, reader in READERS.items()
        }
        values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {
            "models": tiny_models.model_dump(), "prompts": {"semantic": PROMPT, "emotion": PROMPT}, "ingest": ingest,
        }  # fmt: skip
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        project = Project(tmp_path, prompter)
        project.pack()
        return project

    return make


def columns(signals: bool) -> pa.Schema:
    """Return the columns of the continuations."""
    return pa.schema([*continuations.SCHEMA, *continuations.SIGNALS_SCHEMA]) if signals else continuations.SCHEMA


@pytest.fixture
def project(make_project: Callable[..., Project]) -> Project:
    """The project without teacher signals."""
    return make_project()
