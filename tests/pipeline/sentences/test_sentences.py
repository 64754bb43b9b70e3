"""The sentences of emotion prompts: which are taken, which are for dev, and what is left out."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import params
from pipeline.generate import __main__ as generate
from pipeline.sentences import __main__ as stage
from pipeline.stage import UserError
from pipeline.tables import parquet, sentences
from pipeline.tables.continuations import TOLD_SCHEMA
from tests.builders import change_params, utterance, write_generate_params, write_table
from tests.doubles import RecordingEngine

SECTION = {"seed": 1, "corpora": ["read", "acted"], "file": None, "most": None, "exclude": [], "dev_fraction": 0.25}


def row(i: int, corpus: str, text: str | None, split: str = "train") -> dict[str, Any]:
    return utterance(f"{corpus}/{i}", corpus=corpus, text=text, split=split, emotion="sad")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    read = [row(i, "read", text) for i, text in enumerate(["a dog", "a cat", "a dog", None])]
    read += [row(4, "read", "only in test", "test"), row(5, "other", "of another corpus")]
    write_table(tmp_path / "semantic.parquet", read)
    write_table(tmp_path / "emotion.parquet", [row(i, "acted", f"number {i}") for i in range(6)])
    return tmp_path


def run(folder: Path, **changes: Any) -> dict[str, str]:
    """Run the stage; return the split of each sentence."""
    section = None if changes.get("section", {}) is None else SECTION | changes
    (folder / "params.yaml").write_text(yaml.safe_dump({"sentences": section}))
    output = folder / "sentences.parquet"
    stage.main(folder / "semantic.parquet", folder / "emotion.parquet", output, folder / "params.yaml")
    rows = parquet.read(output, sentences.SCHEMA, allow_empty=True).to_pylist()
    assert [each["text"] for each in rows] == sorted({each["text"] for each in rows})
    return {each["text"]: each["split"] for each in rows}


def test_the_transcripts_of_training_are_taken_once_and_a_share_is_for_dev(folder: Path) -> None:
    found = run(folder)
    assert set(found) == {"a dog", "a cat", *(f"number {i}" for i in range(6))}
    assert sorted(found.values()) == ["dev"] * 2 + ["train"] * 6
    assert run(folder) == found
    assert {str(run(folder, seed=seed)) for seed in range(5)} > {str(found)}
    assert set(run(folder, corpora=["read"])) == {"a dog", "a cat"}
    assert sorted(run(folder, corpora=["read"], dev_fraction=0.01).values()) == ["dev", "train"]


def test_excluded_sentences_are_left_out_whatever_their_case_and_punctuation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(folder, exclude=["A dog!", "number  3", "never said"], most=4)
    assert len(found) == 4
    assert not {"a dog", "number 3"} & set(found)
    assert capsys.readouterr().out == (
        "sentences: 3 sentences for train and 1 for dev; left out 2 excluded, 2 above sentences.most\n"
    )
    assert set(run(folder, most=5, exclude=["A dog!", "number 3"])) > set(found)  # a larger draw has all of a smaller


@pytest.mark.parametrize("name", ["lines.txt", "lines.parquet"])
def test_a_file_adds_sentences_in_the_spelling_of_transcripts(folder: Path, name: str) -> None:
    lines = ["It's late.", "", "A DOG", "Where are you?"]
    if name.endswith("txt"):
        (folder / name).write_text("\n".join(lines))
    else:
        write_table(folder / name, [{"text": line} for line in lines], sentences.SCHEMA.remove(1))
    found = run(folder, corpora=["read"], file=str(folder / name))
    assert set(found) == {"it's late", "a dog", "a cat", "where are you"}
    assert set(run(folder, corpora=[], file=str(folder / name))) == {"it's late", "a dog", "where are you"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": ["red"]}, r"^sentences.corpora: found red, expected some of acted, other, read$"),
        ({"file": "nowhere.txt"}, r"^sentences.file: nowhere.txt: no such file; expected a sentence on each line"),
        ({"corpora": ["read"], "exclude": ["a cat"]}, r"^sentences: found 1 different sentences, expected at least 2$"),
        ({"dev_fraction": 1.0}, r"sentences.dev_fraction: expected less than 1, found 1.0"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, **changes)


def test_a_file_that_is_not_text_is_one_line(folder: Path) -> None:
    (folder / "lines.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"lines.txt: found invalid start byte, expected text in UTF-8$"):
        run(folder, file=str(folder / "lines.txt"))


def continue_sentences(folder: Path, llm: Path, **changes: Any) -> list[dict[str, Any]]:
    params_file = write_generate_params(folder / "generate.yaml", llm, min_agreement=0.5)
    options: dict[str, Any] = {
        "kind": "emotion", "manifest_file": folder / "sentences.parquet", "output": folder / "told.parquet",
        "choices_file": folder / "choices.csv", "params_file": params_file, "sentences": True,
    }  # fmt: skip
    generate.main(**(options | changes))
    rows: list[dict[str, Any]] = parquet.read(folder / "told.parquet", TOLD_SCHEMA, allow_empty=True).to_pylist()
    return rows


def test_each_sentence_is_continued_for_each_emotion_and_nothing_is_generated_twice(
    folder: Path, llm: Path, engine: RecordingEngine
) -> None:
    run(folder, corpora=["read"])
    rows = continue_sentences(folder, llm)
    expected = [("a cat", "sad"), ("a cat", "happy"), ("a dog", "sad"), ("a dog", "happy")]
    assert [(each["text"], each["emotion"]) for each in rows] == expected
    assert [(request.transcript, request.emotion) for request in engine.asked] == expected
    assert continue_sentences(folder, llm) == rows
    assert len(engine.asked) == 4
    (folder / "more.txt").write_text("a bird")
    run(folder, corpora=["read"], file=str(folder / "more.txt"))
    assert len(continue_sentences(folder, llm)) == 6
    assert [request.transcript for request in engine.asked[4:]] == ["a bird"] * 2
    write_table(folder / "manifest.parquet", [row(0, "read", "a bird", "test")])
    told = continue_sentences(folder, llm, manifest_file=folder / "manifest.parquet", sentences=False, told=True)
    assert [(each["text"], each["emotion"]) for each in told] == [("a bird", "sad"), ("a bird", "happy")]
    assert len(engine.asked) == 6  # the evaluation takes them from the same store


def test_without_the_section_no_engine_starts_and_both_tables_are_empty(
    folder: Path, llm: Path, engine: RecordingEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, section=None) == {}
    assert continue_sentences(folder, llm) == []
    assert engine.started_on == []
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "sentences: sentences is null in the parameters, so the table is empty"


def test_the_prompt_of_stage_1_names_no_emotion(folder: Path, llm: Path, engine: RecordingEngine) -> None:
    run(folder)
    with pytest.raises(UserError, match="--sentences: found --kind semantic, expected emotion, whose prompt names"):
        continue_sentences(folder, llm, kind="semantic")
    assert engine.asked == []


def test_equal_sentences_are_equal_bytes(folder: Path) -> None:
    tables = []
    for _ in range(2):
        run(folder)
        tables.append((folder / "sentences.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert pq.read_table(folder / "sentences.parquet").num_rows == 8


def test_the_demo_has_no_sentences(project: Path) -> None:
    section: Any = stage.SentencesParams | None
    assert params.load(project / "params.yaml", "sentences", section) is None
    change_params({"sentences": SECTION})
    assert params.load(project / "params.yaml", "sentences", section).most is None
