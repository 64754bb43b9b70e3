import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.stage import UserError
from pipeline.tables import continuations, manifest, parquet
from tests.builders import change_params, write_clip, write_table
from tests.pipeline.commands.publish.conftest import Project

LOST = ("iemocap/Ses01F_impro01_F002", "iemocap/Ses01F_impro01_F003")  # of train and of dev


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def change_manifest(project: Project, key: str, **changes: Any) -> None:
    rows = manifest.read(project.folder / "manifest.parquet").to_pylist()
    for row in rows:
        row |= changes if row["id"] == key else {}
    write_table(project.folder / "manifest.parquet", rows)


def test_rebuild_with_the_kept_continuations_restores_the_folder_bit_for_bit(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.publish()
    assert content(project.rebuild(kept=True)) == content(project.packed)
    assert "8 withheld rows equal the packed rows, bit for bit; 2 of their continuations" in capsys.readouterr().out


def test_rebuild_alone_restores_rows_whose_continuation_is_readable_or_in_pointers(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.publish()
    source, rebuilt = project.rows(), project.rows(project.rebuild())
    train, dev = LOST
    assert set(source) - set(rebuilt) == {train}
    assert rebuilt[dev] == source[dev] | {"response_ids": [], "num_response_tokens": 0}
    assert all(rebuilt[key] == source[key] for key in set(source) - set(LOST))
    out = capsys.readouterr().out
    assert "6 withheld rows equal the packed rows, bit for bit; 0 of their" in out
    assert "continuations withheld: 1 train rows left out, 1 dev and test rows without one" in out


def test_teacher_signals_of_withheld_rows_are_counted(
    make_project: Callable[..., Project], capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(signals=True)
    project.publish()
    source, rebuilt = project.rows(), project.rows(project.rebuild(kept=True))
    none = {"top_ids": None, "top_logprobs": None}
    assert rebuilt == {key: row if row["corpus"] == "libri" else row | none for key, row in source.items()}
    assert "teacher signals withheld: 7 rows; only generate can compute them again" in capsys.readouterr().out


def test_the_script_in_the_folder_rebuilds_it(project: Project) -> None:
    script = project.publish() / "rebuild.py"
    options = ["manifest", "kept", "params", "output"]
    files = ["manifest.parquet", "kept.parquet", "params.yaml", "rebuilt"]
    pairs = [f"--{option}={project.folder / file}" for option, file in zip(options, files, strict=True)]
    subprocess.run([sys.executable, str(script), *pairs], check=True, capture_output=True, cwd=project.folder)
    assert content(project.folder / "rebuilt") == content(project.packed)


def test_another_transcript_is_named(project: Project) -> None:
    project.publish()
    change_manifest(project, "meld/dia0_utt0", text="oh my dog")
    with pytest.raises(UserError, match=r"meld/dia0_utt0: its row of the manifest differs from the packed one"):
        project.rebuild()
    assert not (project.folder / "rebuilt").exists()


def test_a_missing_utterance_is_named(project: Project) -> None:
    project.publish()
    rows = manifest.read(project.folder / "manifest.parquet").to_pylist()
    write_table(project.folder / "manifest.parquet", [row for row in rows if row["corpus"] != "own"])
    with pytest.raises(UserError, match=r"row 6 of own: not in the manifest; expected all utterances of own"):
        project.rebuild()


def test_other_audio_is_named(project: Project) -> None:
    project.publish()
    write_clip(project.folder / "meld" / "dia0_utt0.wav", 3_200, seed=1)
    with pytest.raises(UserError, match=r"meld/dia0_utt0: found 3200 samples and 24 tokens, which are not the packed"):
        project.rebuild()


def test_another_continuation_is_named(project: Project) -> None:
    project.publish()
    rows = parquet.read(project.folder / "kept.parquet", continuations.SCHEMA).to_pylist()
    rows = [row | {"token_ids": row["token_ids"][:-1]} for row in rows]
    write_table(project.folder / "kept.parquet", rows, continuations.SCHEMA)
    with pytest.raises(UserError, match=r"iemocap/Ses01F_impro01_F002: found another continuation than the packed one"):
        project.rebuild(kept=True)


def test_a_continuation_of_another_prompt_is_not_taken(project: Project) -> None:
    project.publish()
    rows = parquet.read(project.folder / "kept.parquet", continuations.SCHEMA).to_pylist()
    write_table(project.folder / "kept.parquet", [row | {"key": "00"} for row in rows], continuations.SCHEMA)
    assert LOST[0] not in project.rows(project.rebuild(kept=True))


def test_a_corpus_without_a_root_is_named(project: Project) -> None:
    project.publish()
    change_params({"ingest": {}}, project.params)
    with pytest.raises(UserError, match=r"corpus iemocap is not listed under ingest in .*params\.yaml"):
        project.rebuild()


def test_a_folder_that_publish_has_not_written_is_named(project: Project) -> None:
    (project.publish() / "publish.json").unlink()
    with pytest.raises(UserError, match=r"published: no publish\.json; expected a folder that"):
        project.rebuild()


def test_a_folder_of_another_layout_is_named(project: Project) -> None:
    file = project.publish() / "publish.json"
    file.write_text(file.read_text().replace('"layout": 1', '"layout": 2'))
    with pytest.raises(UserError, match=r"published: found the layout 2, expected 1; use the version"):
        project.rebuild()
