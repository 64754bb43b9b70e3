import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.commands import sample as samples
from pipeline.commands.text_tables import WIDTH
from pipeline.stage import UserError
from pipeline.tables import manifest, quarantine
from tests.builders import utterance, write_table


def clip(i: int, **values: Any) -> dict[str, Any]:
    known = {"corpus": "acting", "audio": f"{i}.wav", "start_s": 0.0, "duration_s": 0.5 + i}
    return (
        utterance(f"acting/{i}") | known | {"speaker": f"acting/{i % 3}", "emotion": ("sad", "happy")[i % 2]} | values
    )


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_table(tmp_path / "clips.parquet", [clip(i) for i in range(40)])


def ids(sample: samples.Sample) -> list[str]:
    return [row["id"] for row in sample.rows]


def test_the_same_seed_draws_the_same_rows_in_the_order_of_the_table(clips: Path) -> None:
    drawn = ids(samples.draw(clips, 5, seed=1, where=None))
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn, key=lambda key: int(key.partition("/")[2]))
    assert ids(samples.draw(clips, 5, seed=1, where=None)) == drawn
    assert ids(samples.draw(clips, 5, seed=2, where=None)) != drawn


def test_a_small_table_is_drawn_whole(clips: Path) -> None:
    drawn = samples.draw(clips, 100, seed=1, where=None)
    assert ids(drawn) == [f"acting/{i}" for i in range(40)]
    assert drawn.fitting == 40


def test_only_rows_that_fit_are_drawn(clips: Path) -> None:
    drawn = samples.draw(clips, 3, seed=1, where="emotion == 'sad' and duration_s < 10")
    assert drawn.fitting == 5
    assert len(drawn.rows) == 3
    assert all(row["emotion"] == "sad" and row["duration_s"] < 10 for row in drawn.rows)


def test_an_expression_can_look_into_votes_and_at_what_is_null(tmp_path: Path) -> None:
    votes = [{"sad": 0.6, "happy": 0.4}, {"happy": 1.0}, None]
    rows = [clip(i, emotion_votes=None if vote is None else list(vote.items())) for i, vote in enumerate(votes)]
    file = write_table(tmp_path / "clips.parquet", rows)
    drawn = samples.draw(file, 5, seed=1, where="emotion_votes.str.get('sad') > 0.5")
    assert ids(drawn) == ["acting/0"]
    assert drawn.rows[0]["emotion_votes"] == {"sad": 0.6, "happy": 0.4}
    assert ids(samples.draw(file, 5, seed=1, where="emotion_votes.isna()")) == ["acting/2"]


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("emo == 'sad'", r"^--where emo == 'sad': name 'emo' is not defined; the columns are id, corpus, audio, "),
        ("emotion == 'sad", "unterminated string literal"),
        ("emotion is sad", "--where emotion is sad: "),
        ("duration_s > 'x'", "Invalid comparison between dtype=float64 and str"),
        ("duration_s.nonsense()", "has no attribute 'nonsense'"),
        ("text.str.contains('(')", r"^--where .*\(.*: "),
        ("duration_s", "expected true or false for each row, as in \"emotion == 'sad'\""),
        ("emotion = 'sad'", "expected true or false for each row"),
        ("True", "expected true or false for each row"),
        ("", "--where : expr cannot be an empty string"),
        ("duration_s > 99", r"clips\.parquet: --where duration_s > 99: true for no row"),
    ],
)
def test_a_wrong_expression_is_told(clips: Path, where: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        samples.draw(clips, 5, seed=1, where=where)


def test_an_empty_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: no rows"):
        samples.draw(write_table(tmp_path / "a.parquet", []), 5, seed=1, where=None)


def test_rows_are_told_without_what_is_null(tmp_path: Path) -> None:
    votes = [("sad", 0.75), ("happy", 0.25)]
    rows = [clip(0, text="kids are talking " * 6, emotion_votes=votes, turn=3, start_s=2.5, licence="MIT"), clip(1)]
    text = samples.describe(samples.draw(write_table(tmp_path / "a.parquet", rows), 5, seed=1, where=None))
    assert text == (
        "acting/0\n"
        "  text           kids are talking kids are talking kids are talking kids are\n"
        "                 talking kids are talking kids are talking\n"
        "  emotion        sad\n"
        "  emotion_votes  sad 0.75, happy 0.25\n"
        "  speaker        acting/0\n"
        "  turn           3\n"
        "  duration_s     0.50\n"
        "  audio          0.wav\n"
        "  start_s        2.50\n"
        "\n"
        "acting/1\n"
        "  emotion     happy\n"
        "  speaker     acting/1\n"
        "  duration_s  1.50\n"
        "  audio       1.wav\n"
        "\n"
        "2 of 2 rows"
    )
    assert max(map(len, text.splitlines())) <= WIDTH


def test_of_other_tables_their_own_columns_are_told(tmp_path: Path) -> None:
    row = {"id": "acting/1", "corpus": "acting", "audio": "1.wav", "reason": "silent", "detail": "peak 0"}
    drawn = samples.draw(write_table(tmp_path / "a.parquet", [row], quarantine.SCHEMA), 5, seed=1, where=None)
    assert samples.describe(drawn).startswith("acting/1\n  audio   1.wav\n  reason  silent\n  detail  peak 0\n")


def corpus(folder: Path) -> Path:
    """Write a corpus of two clips, params.yaml that names it, and its manifest."""
    tone = np.sin(np.arange(48_000) / 10) / 2
    soundfile.write(folder / "1.wav", np.stack([tone, tone], axis=1), 48_000)
    soundfile.write(folder / "it's a long one.flac", tone, 16_000)
    (folder / "params.yaml").write_text(f"ingest:\n  acting: {{reader: ravdess, root: {folder}, check: samples}}\n")
    rows = [
        clip(1, duration_s=1.0, text="one, two", split="train"),
        clip(2, id="acting/it's a/long one", audio="it's a long one.flac", start_s=1.0, duration_s=0.25),
    ]
    return write_table(folder / "clips.parquet", rows)


def test_clips_are_written_to_listen_to(tmp_path: Path) -> None:
    file, to = corpus(tmp_path), tmp_path / "listen"
    command = ["sample", str(file), "--to", str(to), "--params", str(tmp_path / "params.yaml")]
    result = CliRunner().invoke(app, command)
    assert result.output.endswith(f"2 of 2 rows\nsample: wrote 2 clips and index.csv to {to}\n")
    with (to / "index.csv").open(newline="") as index:
        rows = list(csv.DictReader(index))
    assert [(row["file"], row["id"], row["text"]) for row in rows] == [
        ("acting_1.wav", "acting/1", "one, two"),
        ("acting_it_s_a_long_one.wav", "acting/it's a/long one", ""),
    ]
    infos = [soundfile.info(to / row["file"]) for row in rows]
    assert [(info.samplerate, info.channels, info.frames) for info in infos] == [
        (16_000, 1, 16_000),
        (16_000, 1, 4_000),
    ]
    segment, _ = soundfile.read(to / rows[1]["file"])
    assert np.allclose(segment, np.sin(np.arange(16_000, 20_000) / 10) / 2, atol=1e-3)
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert [row["file"] for row in told["rows"]] == [row["file"] for row in rows]


def test_different_ids_give_different_files_that_stay_in_the_folder(tmp_path: Path) -> None:
    corpus(tmp_path)
    keys = ["a/../../x y", "a/../../x_y", "a/" + "ü" * 300]
    drawn = samples.Sample("clips", 3, [clip(1, id=key, duration_s=1.0) for key in keys])
    written = samples.write_clips(drawn, tmp_path / "listen", {"acting": tmp_path})
    assert [row["file"] for row in written[:2]] == ["a_.._.._x_y.wav", "a_.._.._x_y~2.wav"]
    assert {path.name for path in (tmp_path / "listen").iterdir()} == {"index.csv", *(row["file"] for row in written)}


def test_what_cannot_be_listened_to_is_told(tmp_path: Path) -> None:
    def listen(row: dict[str, Any]) -> None:
        samples.write_clips(samples.Sample("clips.parquet", 1, [row]), tmp_path / "listen", {"acting": tmp_path})

    with pytest.raises(UserError, match=r"clips\.parquet: lacks the column audio, which is needed to find a clip"):
        listen({"id": "acting/1", "corpus": "acting"})
    with pytest.raises(UserError, match=r"clips\.parquet: found no root of plays; the section ingest lists acting"):
        listen(clip(1, corpus="plays"))
    assert not (tmp_path / "listen").exists()
    with pytest.raises(UserError, match=r"1\.wav: no-file"):
        listen(clip(1))
    assert not (tmp_path / "listen/index.csv").exists()


def test_json_holds_all_columns(clips: Path) -> None:
    told = json.loads(CliRunner().invoke(app, ["sample", str(clips), "-n", "2", "--json"]).output)
    assert list(told) == ["file", "fitting", "rows"]
    assert told["fitting"] == 40
    assert [list(row) for row in told["rows"]] == [manifest.SCHEMA.names] * 2
