import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import typer

from pipeline.corpora import registry
from pipeline.corpora.corpus import Clip, Corpus
from pipeline.corpora.params import Check
from pipeline.corpora.readers.ravdess import CORPUS as RAVDESS
from pipeline.ingest import __main__ as ingest
from pipeline.ingest import inspection
from pipeline.ingest import rows as ingest_rows
from pipeline.stage import UserError
from pipeline.tables import manifest, quarantine
from pipeline.tables.quarantine import Fault
from tests.builders import write_clip

Rows = dict[str, dict[str, Any]]


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    root = tmp_path / "RAVDESS"
    for actor in (1, 2):
        write_clip(root / "audio_speech_actors_01-24" / f"Actor_0{actor}" / f"03-01-06-02-01-01-0{actor}.wav")
    return root


def take_in(root: Path, corpus: Corpus = RAVDESS, name: str = "x", check: Check = "samples") -> tuple[Rows, Rows]:
    """Ingest a corpus; return its usable rows and its refused ones by id."""
    output = root.parent / "out" / f"{name}.parquet"
    ingest.ingest(corpus, root, name, check, output)
    return by_id(manifest.read(output)), by_id(quarantine.read(quarantine.beside(output)))


def by_id(table: pa.Table) -> Rows:
    return {row["id"]: row for row in table.to_pylist()}


def reasons(refused: Rows) -> dict[str, str]:
    return {key: row["reason"] for key, row in refused.items()}


def corpus_of(*clips: Clip, **facts: Any) -> Corpus:
    def read(root: Path) -> Iterator[Clip]:
        yield from clips

    plain = Corpus(title="Ours", layout="a.wav", licence="CC0-1.0", source="here", language="de", read=read)
    return replace(plain, **facts)


def clip(utterance: str, **values: Any) -> Clip:
    return Clip(**{"utterance": utterance, "audio": f"{utterance}.wav", "text": "ja", "speaker": "s", **values})


def test_a_row_holds_what_names_metadata_and_audio_tell(ravdess: Path) -> None:
    rows, _ = take_in(ravdess)
    first, second = rows.values()
    assert (first["id"], first["corpus"], first["speaker"]) == ("x/03-01-06-02-01-01-01", "x", "x/01")
    assert first["audio"] == "audio_speech_actors_01-24/Actor_01/03-01-06-02-01-01-01.wav"
    assert (first["emotion"], first["emotion_published"], first["intensity"]) == ("fear", "fearful", "strong")
    assert (first["gender"], second["gender"]) == ("male", "female")
    assert (first["text"], first["text_published"]) == ("kids are talking by the door", "Kids are talking by the door.")
    assert (first["language"], first["licence"]) == ("en", "CC-BY-NC-SA-4.0")
    assert (first["start_s"], first["duration_s"], first["sample_rate_hz"], first["channels"]) == (0, 0.6, 16_000, 1)
    assert len(first["content_hash"]) == 32
    assert first["split"] is first["votes"] is first["dialogue"] is None


def test_the_header_tells_the_same_as_the_samples_of_sound_flac(tmp_path: Path) -> None:
    for actor in (1, 2):
        write_clip(tmp_path / "RAVDESS" / f"Actor_0{actor}" / f"03-01-06-02-01-01-0{actor}.flac")
    assert take_in(tmp_path / "RAVDESS", check="headers") == take_in(tmp_path / "RAVDESS", check="samples")


def test_every_refused_clip_has_a_reason_and_none_is_lost(ravdess: Path) -> None:
    actor = ravdess / "Actor_03"
    write_clip(actor / "03-02-06-02-01-01-03.wav")
    write_clip(actor / "outtake.wav")
    content = write_clip(actor / "03-01-06-01-01-01-03.flac", 48_000).read_bytes()
    (actor / "03-01-06-01-01-01-03.flac").write_bytes(content[: len(content) // 2])
    (actor / "03-01-06-01-01-02-03.wav").write_bytes(b"")
    (actor / "03-01-06-01-02-01-03.wav").write_text("no audio")
    soundfile.write(actor / "03-01-06-01-02-02-03.wav", np.zeros(1600, np.int16), 16_000)
    soundfile.write(actor / "03-01-06-02-01-02-03.wav", np.full(1600, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(actor / "03-01-06-02-02-01-03.wav", np.ones(1600) / 9, 500)
    rows, refused = take_in(ravdess)
    assert len(rows) == 2
    assert reasons(refused) == {
        "x/03-01-06-01-01-01-03": refused["x/03-01-06-01-01-01-03"]["reason"],
        "x/03-01-06-01-01-02-03": "empty-file",
        "x/03-01-06-01-02-01-03": "unreadable",
        "x/03-01-06-01-02-02-03": "silent",
        "x/03-01-06-02-01-02-03": "not-finite",
        "x/03-01-06-02-02-01-03": "sample-rate",
        "x/03-02-06-02-01-01-03": "not-speech",
        "x/outtake": "bad-name",
    }
    assert refused["x/03-01-06-01-01-01-03"]["reason"] in ("truncated", "unreadable")
    assert refused["x/outtake"]["detail"] == "expected 03-01-EE-II-SS-RR-AA"


def test_names_with_quotes_and_spaces_are_read(tmp_path: Path) -> None:
    name = 'it\'s "here" - ok'
    write_clip(tmp_path / "c" / f"{name}.wav")
    rows, _ = take_in(tmp_path / "c", corpus_of(clip(name)))
    assert rows[f"x/{name}"]["audio"] == f"{name}.wav"


def test_a_name_that_is_not_utf_8_is_one_bad_file(tmp_path: Path) -> None:
    odd = b"caf\xe8".decode(errors="surrogateescape")
    write_clip(tmp_path / "c" / "ok.wav")
    write_clip(tmp_path / "c" / "café.wav")
    rows, refused = take_in(tmp_path / "c", corpus_of(clip("ok"), clip("café"), clip(odd)))
    assert set(rows) == {"x/ok", "x/café"}
    assert reasons(refused) == {"x/caf\\xe8": "bad-name"}


def test_a_file_is_opened_once_and_read_in_time_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write_clip(tmp_path / "c" / f"{name}.wav", 48_000)
    starts = (2.0, 0.0, 1.0)
    clips = [
        clip(f"{name}{start}", audio=f"{name}.wav", start_s=start, duration_s=0.5) for start in starts for name in "ab"
    ]
    opened: list[tuple[str, list[float]]] = []

    def inspect(path: str, segments: list[inspection.Segment]) -> Any:
        opened.append((Path(path).name, [segment.start_s for segment in segments]))
        return inspect_samples(path, segments)

    inspect_samples = inspection.inspect_samples
    monkeypatch.setattr(inspection, "inspect_samples", inspect)
    rows, _ = take_in(tmp_path / "c", corpus_of(*clips))
    assert sorted(opened) == [("a.wav", [0.0, 1.0, 2.0]), ("b.wav", [0.0, 1.0, 2.0])]
    assert [(row["id"], row["start_s"]) for row in rows.values()] == [
        (f"x/{one.utterance}", one.start_s) for one in clips
    ]


def test_audio_that_a_table_names_absolutely_is_found(tmp_path: Path) -> None:
    elsewhere = write_clip(tmp_path / "elsewhere" / "a.wav")
    (tmp_path / "c").mkdir()
    rows, _ = take_in(tmp_path / "c", corpus_of(clip("a", audio=str(elsewhere))))
    assert rows["x/a"]["audio"] == str(elsewhere)


def test_a_loop_of_links_does_not_hang_the_reader(ravdess: Path) -> None:
    (ravdess / "loop").symlink_to(ravdess)
    (ravdess / "Actor_01").symlink_to(ravdess / "Actor_01")
    assert len(take_in(ravdess)[0]) == 2


def test_the_second_of_two_with_one_id_or_the_same_samples_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "c"
    content = write_clip(root / "a.wav").read_bytes()
    write_clip(root / "b.wav")
    (root / "copy.wav").write_bytes(content)
    _, refused = take_in(root, corpus_of(clip("a"), clip("b"), clip("a", audio="b.wav"), clip("copy")))
    assert [row["reason"] for row in refused.values()] == ["double-id", "double-audio"]


def test_a_double_that_belongs_to_the_published_counts_stays(tmp_path: Path) -> None:
    root = tmp_path / "c"
    (root / "copy.wav").parent.mkdir()
    (root / "copy.wav").write_bytes(write_clip(root / "a.wav").read_bytes())
    assert len(take_in(root, corpus_of(clip("a"), clip("copy"), doubles=("copy",)))[0]) == 2


def test_what_the_metadata_lacks_is_a_reason(tmp_path: Path) -> None:
    root = tmp_path / "c"
    for name in "abcdefg":
        write_clip(root / f"{name}.wav")
    clips = [
        clip("a", emotion="froh", text=None),
        clip("b"),
        clip("c", emotion="froh", text="..."),
        clip("d", emotion="froh", text="sehr " * 20),
        clip("e", emotion="froh", fault=Fault("not-speech", "music")),
        clip("f", emotion="unklar"),
        clip("g", emotion="froh"),
    ]
    corpus = corpus_of(*clips, labels={"froh": "happy", "unklar": None}, faults={"g": "hiss"})
    rows, refused = take_in(root, corpus)
    assert reasons(refused) == {
        "x/b": "no-label",
        "x/c": "no-transcript",
        "x/d": "too-much-text",
        "x/e": "not-speech",
        "x/g": "known-fault",
    }
    assert rows["x/a"]["text"] is rows["x/a"]["text_published"] is None
    assert (rows["x/f"]["emotion"], rows["x/f"]["emotion_published"]) == (None, "unklar")


def test_votes_become_shares_of_unified_emotions(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_clip(root / "a.wav")
    write_clip(root / "b.wav")
    labels = {"hap": "happy", "exc": "happy", "xxx": None}
    first = clip("a", emotion="hap", votes={"hap": 1.0, "exc": 2.0, "xxx": 1.0}, votes_both={"hap": 9.0})
    rows, _ = take_in(root, corpus_of(first, clip("b", emotion="hap", votes_both={"hap": 2.0}), labels=labels))
    assert dict(rows["x/a"]["emotion_votes"]) == {"happy": 0.75, "other": 0.25}
    assert dict(rows["x/a"]["votes"]) == {"hap": 1, "exc": 2, "xxx": 1}
    assert dict(rows["x/b"]["emotion_votes"]) == {"happy": 1}


def test_many_utterances_of_one_file_are_segments_of_it(tmp_path: Path) -> None:
    root = tmp_path / "c"
    write_clip(root / "long.wav", 32_000)
    clips = [clip(str(i), audio="long.wav", start_s=i / 2, duration_s=0.5) for i in range(5)]
    rows, refused = take_in(root, corpus_of(*clips))
    assert [row["start_s"] for row in rows.values()] == [0, 0.5, 1, 1.5]
    assert len({row["content_hash"] for row in rows.values()}) == 4
    assert reasons(refused) == {"x/4": "truncated"}


@pytest.mark.parametrize("check", ["samples", "headers"])
def test_rows_come_in_the_readers_order_over_chunks(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ingest_rows, "CHUNK", 2
    )  # full ones are looked at in processes of their own where headers suffice
    clips = [clip(name, audio=f"{name}.flac") for name in ("d", "a", "c", "b", "e", "f")]
    for each in clips:
        write_clip(tmp_path / "c" / each.audio)
    cut = tmp_path / "c" / "c.flac"
    cut.write_bytes(cut.read_bytes()[:2000])
    rows, refused = take_in(tmp_path / "c", corpus_of(*clips), check=check)
    assert list(rows) == ["x/d", "x/a", "x/b", "x/e", "x/f"]
    assert [row["duration_s"] for row in rows.values()] == [0.6] * 5
    assert list(refused) == ["x/c"]


def test_a_label_without_unified_emotion_stops_with_the_labels_found(tmp_path: Path) -> None:
    corpus = corpus_of(clip("a", emotion="froh"), clip("b", emotion="müde"), labels={"froh": "happy"})
    with pytest.raises(UserError, match="x: no unified emotion for müde; found the labels froh, müde, expected froh"):
        take_in(tmp_path, corpus)


def test_an_emotion_corpus_without_a_label_map_stops(tmp_path: Path) -> None:
    write_clip(tmp_path / "c" / "a.wav")
    with pytest.raises(UserError, match="no unified emotion for froh; found the labels froh, expected none"):
        take_in(tmp_path / "c", corpus_of(clip("a", emotion="froh")))


def test_more_than_was_published_stops(tmp_path: Path) -> None:
    root = tmp_path / "c"
    clips = [clip(name, emotion="froh") for name in "abc"]
    for each in clips:
        write_clip(root / each.audio)
    corpus = corpus_of(*clips, labels={"froh": "happy"}, counts={"clips": 3, "froh": 2})
    with pytest.raises(UserError, match="x: froh: found 3, expected at most 2 as published"):
        take_in(root, corpus)


def coverage_line(root: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    ingest.main("ravdess", root, output, "rav")
    return capsys.readouterr().out


def test_the_stage_writes_manifest_quarantine_and_summary(
    ravdess: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(ravdess / "Actor_03" / "03-02-06-02-01-01-03.wav")
    output = tmp_path / "manifests" / "rav.parquet"
    line = coverage_line(ravdess, output, capsys)
    assert line == (
        "ingest: rav: 2 clips, 0.00 h, 2 speakers; 1 quarantined (1 not-speech); "
        "incomplete: clips 2 of 1,440, speakers 2 of 24, fearful 2 of 192\n"
    )
    first = output.read_bytes()
    coverage_line(ravdess, output, capsys)
    assert output.read_bytes() == first
    assert manifest.read(output)["id"].to_pylist() == ["rav/03-01-06-02-01-01-01", "rav/03-01-06-02-01-01-02"]
    summary = json.loads((tmp_path / "manifests" / "ingested" / "rav.json").read_text())
    assert (summary["corpus"], summary["rows"], summary["speakers"], summary["found"]) == ("rav", 2, 2, 3)
    assert summary["quarantined"] == {"not-speech": 1}
    assert list(summary["folds"]) == [f"emobox-{number}" for number in range(1, 7)]
    assert summary["folds"]["emobox-5"] == ["02", "15", "16", "18"]
    assert summary["coverage"] == {"clips": [2, 1440], "speakers": [2, 24], "fearful": [2, 192]}


def test_a_complete_corpus_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for actor in range(1, 25):
        for emotion in range(1, 9):
            for intensity in (1, 2) if emotion > 1 else (1,):
                for statement in (1, 2):
                    for take in (1, 2):
                        name = f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{take:02}-{actor:02}.flac"
                        write_clip(tmp_path / "RAVDESS" / f"Actor_{actor:02}" / name)
    line = coverage_line(tmp_path / "RAVDESS", tmp_path / "rav.parquet", capsys)
    assert line == "ingest: rav: 1,440 clips, 0.24 h, 24 speakers; 0 quarantined; complete\n"


def test_a_corpus_without_a_usable_clip_stops_but_leaves_its_quarantine(tmp_path: Path) -> None:
    (tmp_path / "Actor_01").mkdir()
    (tmp_path / "Actor_01" / "03-01-06-02-01-01-01.wav").write_text("no audio")
    with pytest.raises(UserError, match="no usable clip; expected at least one, found 1 unreadable"):
        ingest.main("ravdess", tmp_path, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Actor_01", "out.quarantine.parquet"]
    refused = quarantine.read(tmp_path / "out.quarantine.parquet")
    assert refused["audio"].to_pylist() == ["Actor_01/03-01-06-02-01-01-01.wav"]


@pytest.mark.parametrize("reader", registry.names())
def test_a_root_that_is_missing_empty_or_of_another_layout_is_told(reader: str, tmp_path: Path) -> None:
    corpus = registry.load(reader)
    root = tmp_path / "root"
    with pytest.raises(UserError, match=r"root: no such folder; expected .+ layout"):
        take_in(root, corpus)
    root.mkdir()
    with pytest.raises(UserError, match=f"{root}: found nothing; expected .+ layout"):
        take_in(root, corpus)
    for i in range(7):
        (root / f"folder-{i}").mkdir()
    with pytest.raises(UserError, match=r"found folder-0, .+ folder-4 and 2 more; expected .+ layout"):
        take_in(root, corpus)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("reader", registry.names())
def test_a_reader_is_small_and_its_facts_fit_together(reader: str) -> None:
    from pipeline.tables.emotions import EMOTIONS

    corpus = registry.load(reader)
    if reader != "mosei":  # whose labels have to be made of the viewers' ratings
        assert len((registry.FOLDER / f"{reader}.py").read_text().splitlines()) <= 95
    assert set(corpus.labels.values()) - {None} <= set(EMOTIONS)
    assert len(corpus.language) == 2
    assert corpus.licence
    assert corpus.source.startswith("http")


def test_wrong_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--reader: found crema, expected one of .*cremad, .*librispeech"):
        ingest.main("crema", tmp_path, Path("a.parquet"))
    with pytest.raises(UserError, match="--subset: ravdess: found M, expected one of none"):
        ingest.main("ravdess:M", tmp_path, Path("a.parquet"))
    with pytest.raises(typer.BadParameter, match=r"found a\.csv, expected a \.parquet file"):
        ingest.main("ravdess", tmp_path, Path("a.csv"))
    with pytest.raises(typer.BadParameter, match="found 'a/b', expected letters, digits"):
        ingest.main("ravdess", tmp_path, Path("a.parquet"), "a/b")


@pytest.mark.shared
@pytest.mark.parametrize(("corpus", "folder", "count"), [("meld", "MELD", 13_708), ("cremad", "CREMA-D", 7_442)])
def test_published_tables_without_media_are_all_quarantined(
    shared: Path, tmp_path: Path, corpus: str, folder: str, count: int
) -> None:
    with pytest.raises(UserError, match=f"no usable clip; expected at least one, found {count:,} no-file"):
        ingest.main(corpus, shared / "data" / folder, tmp_path / "x.parquet")
    assert quarantine.read(tmp_path / "x.quarantine.parquet").num_rows == count


@pytest.mark.shared
def test_real_ravdess_is_read(shared: Path, tmp_path: Path) -> None:
    ingest.main("ravdess", shared / "data" / "RAVDESS", tmp_path / "ravdess.parquet")
    rows = list(by_id(manifest.read(tmp_path / "ravdess.parquet")).values())
    assert len(rows) == 1080
    assert quarantine.read(tmp_path / "ravdess.quarantine.parquet").num_rows == 0
    emotions = Counter(row["emotion"] for row in rows)
    assert emotions.pop("neutral") == 72
    assert set(emotions.values()) == {144}
    assert len(emotions) == 7
    as_published = [row for row in rows if row["sample_rate_hz"] == 48_000]
    assert len(as_published) == 17
    assert {row["speaker"] for row in as_published} == {"ravdess/01"}
    assert sum(row["channels"] == 2 for row in as_published) == 2


@pytest.mark.shared
@pytest.mark.parametrize("check", ["headers", "samples"])
def test_real_librispeech_is_read(shared: Path, tmp_path: Path, check: Check) -> None:
    ingest.main("librispeech", shared / "data" / "LibriSpeech", tmp_path / "libri.parquet", check=check)
    rows = list(by_id(manifest.read(tmp_path / "libri.parquet")).values())
    assert Counter(row["audio"].split("/")[0] for row in rows) == {"test-other": 80, "test-clean": 4}
    assert len({row["speaker"] for row in rows}) == 9
    assert {row["split"] for row in rows} == {"test"}
    assert all(row["gender"] and row["content_hash"] for row in rows)
