"""Downloads from a server on this machine that does what servers do: stops half way, forgets, moves, refuses."""

import hashlib
import io
import json
import os
import resource
import shutil
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from pipeline.commands.download import command, transfer
from pipeline.corpora import registry
from pipeline.corpora.corpus import Archive, Corpus
from pipeline.stage import UserError

NOISE = os.urandom(200_000)
SENT = {"cut": 0.5, "cut late": 0.75}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"Corpus/{name}.wav", content)
    return packed.getvalue()


@dataclass
class Server:
    """What the server has, what it does with the next requests, and what it was asked."""

    url: str = ""
    content: bytes = b""
    etag: str | None = '"1"'
    changed: str | None = None
    knows_range: bool = True
    knows_if_range: bool = True
    tells_length: bool = True
    plan: list[str] = field(default_factory=list)
    """`cut` and `cut late` send less than they should, a number is a status, `slow` sends nothing; then all is well."""
    ranges: list[str | None] = field(default_factory=list)
    """Range of each request so far."""


def respond(server: Server, request: BaseHTTPRequestHandler) -> None:
    server.ranges.append(request.headers["Range"])
    step = server.plan.pop(0) if server.plan else "well"
    if request.path == "/moved":
        request.send_response(302)
        request.send_header("Location", step if step != "well" else "/corpus.zip")
        request.end_headers()
        return
    if step == "slow":
        threading.Event().wait(0.1)
        return
    if step.isdecimal():
        request.send_response(int(step))
        request.send_header("Retry-After", "7")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    start = range_start(server, request)
    body = server.content[start:]
    request.send_response(200 if start is None else 206)
    if server.tells_length:
        request.send_header("Content-Length", str(len(body)))
    if start is not None:
        total = len(server.content)
        request.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
    for header, value in (("ETag", server.etag), ("Last-Modified", server.changed)):
        if value is not None:
            request.send_header(header, value)
    request.end_headers()
    request.wfile.write(body[: int(len(body) * SENT.get(step, 1))])


def range_start(server: Server, request: BaseHTTPRequestHandler) -> int | None:
    """Where the answer starts; None for the whole file."""
    asked = request.headers["Range"]
    same = request.headers["If-Range"] in (server.etag, server.changed) or not server.knows_if_range
    return int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.knows_range and same else None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server(content=NOISE)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(state, self)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{running.server_port}/corpus.zip"
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited."""
    pauses: list[float] = []
    monkeypatch.setattr(transfer, "sleep", pauses.append)
    return pauses


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "corpus" / ".downloaded" / "all.part"


def fetch(server: Server, partial: Path, md5_expected: str | None = None) -> bytes:
    arrived = transfer.fetch("corpus:all", server.url, md5_expected, partial)
    content = partial.read_bytes()
    assert (arrived.num_bytes, arrived.md5) == (len(content), md5(content))
    return content


def give_up(server: Server, partial: Path, match: str = "peer closed connection") -> None:
    """Load with a connection that breaks at each try."""
    server.plan = ["cut"] * (len(transfer.PAUSES_S) + 1)
    with pytest.raises(UserError, match=match):
        fetch(server, partial)
    assert server.plan == []


def test_a_file_arrives_whole(server: Server, partial: Path) -> None:
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert server.ranges == [None]


def test_a_connection_that_breaks_half_way_goes_on_where_it_broke(
    server: Server, partial: Path, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan = ["cut", "cut", "well"]
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert pauses == [1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "peer closed connection" in lines[0]
    assert lines[0].endswith("; next try in 1 s")


def test_a_connection_that_always_breaks_is_given_up_and_the_next_call_goes_on(
    server: Server, partial: Path, pauses: list[float]
) -> None:
    give_up(server, partial, r"corpus:all: http://.*/corpus.zip: .*; 0\.2 MB are kept, run again to continue")
    assert pauses == list(transfer.PAUSES_S)
    kept = partial.stat().st_size
    server.ranges = []
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert server.ranges == [f"bytes={kept}-"]


def test_a_long_file_may_break_more_often_than_a_short_one(
    server: Server, partial: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS", 10)
    server.plan = ["cut"] * 12
    assert fetch(server, partial) == NOISE
    assert pauses == [1] * 12


def test_a_file_that_never_gets_further_is_given_up(
    server: Server, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS", 10)
    server.knows_range = False
    server.plan = ["cut", "cut late"] * 9
    with pytest.raises(UserError, match="peer closed connection"):
        fetch(server, partial)
    assert len(server.ranges) == 2 + len(transfer.PAUSES_S)


def test_a_file_that_is_whole_is_not_asked_for_again(server: Server, partial: Path) -> None:
    fetch(server, partial)
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert len(server.ranges) == 1


def test_a_server_without_ranges_starts_anew(server: Server, partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.knows_range = False
    server.plan = ["cut"]
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert "starts again" in capsys.readouterr().out


@pytest.mark.parametrize(("knows_if_range", "tries"), [(True, 1), (False, 2)])
@pytest.mark.parametrize("length", [50, 199_000, 200_000, 300_000])
def test_a_file_that_has_changed_starts_anew(
    length: int, knows_if_range: bool, tries: int, server: Server, partial: Path
) -> None:
    give_up(server, partial)
    server.content, server.etag, server.knows_if_range, server.ranges = os.urandom(length), '"2"', knows_if_range, []
    assert fetch(server, partial) == server.content
    assert len(server.ranges) == tries


def test_a_file_that_has_shrunk_below_what_arrived_starts_anew(server: Server, partial: Path) -> None:
    give_up(server, partial)
    server.plan = ["416"]
    assert fetch(server, partial) == NOISE


def test_the_date_of_the_last_change_serves_where_there_is_no_strong_etag(server: Server, partial: Path) -> None:
    server.etag, server.changed = 'W/"1"', "Wed, 01 Jul 2026 10:00:00 GMT"
    server.plan = ["cut"]
    assert fetch(server, partial) == NOISE
    assert server.ranges == [None, "bytes=100000-"]


def test_without_etag_and_date_a_file_starts_anew_for_it_may_be_another(server: Server, partial: Path) -> None:
    server.etag = None
    server.plan = ["cut"]
    assert fetch(server, partial) == NOISE
    assert server.ranges == [None, None]


def test_another_address_starts_anew(server: Server, partial: Path) -> None:
    give_up(server, partial)
    server.url = server.url.replace("corpus", "corpus-2")
    server.ranges = []
    assert fetch(server, partial) == NOISE
    assert server.ranges == [None]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"old": 1}'])
def test_bytes_with_no_readable_note_of_their_version_start_anew(note: str, server: Server, partial: Path) -> None:
    give_up(server, partial)
    partial.with_name("all.part.json").write_text(note)
    server.ranges = []
    assert fetch(server, partial) == NOISE
    assert server.ranges == [None]


def test_a_server_that_tells_no_length_serves_too(server: Server, partial: Path) -> None:
    server.tells_length = False
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert fetch(server, partial) == NOISE
    assert len(server.ranges) == 1


def test_an_empty_file_arrives(server: Server, partial: Path) -> None:
    server.content = b""
    assert fetch(server, partial) == b""


def test_redirections_are_followed_on_resuming_too(server: Server, partial: Path) -> None:
    server.url = server.url.replace("corpus.zip", "moved")
    server.plan = ["/corpus.zip", "cut"]
    assert fetch(server, partial, md5(NOISE)) == NOISE
    assert server.ranges == [None, None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize("place", ["/moved", "ftp://127.0.0.1/corpus.zip"])
def test_redirections_that_lead_nowhere_are_told_at_once(
    place: str, server: Server, partial: Path, pauses: list[float]
) -> None:
    server.url = server.url.replace("corpus.zip", "moved")
    server.plan = [place] * 30
    with pytest.raises(UserError, match=r"corpus:all: .*(redirects|protocol)"):
        fetch(server, partial)
    assert pauses == []


def test_a_server_that_is_busy_is_asked_again_when_it_says(
    server: Server, partial: Path, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan = ["503", "429"]
    assert fetch(server, partial) == NOISE
    assert pauses == [7, 7]
    assert "the server says 503 Service Unavailable; next try in 7 s" in capsys.readouterr().out


def test_a_server_that_stays_busy_is_given_up(server: Server, partial: Path) -> None:
    server.plan = ["503"] * 6
    with pytest.raises(UserError, match=r"corpus:all: .*: the server says 503 Service Unavailable$"):
        fetch(server, partial)
    assert not partial.exists()


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "204 No Content"])
def test_a_file_that_is_not_to_be_had_is_told_at_once(
    status: str, server: Server, partial: Path, pauses: list[float]
) -> None:
    server.plan = [status[:3]]
    with pytest.raises(UserError, match=f"corpus:all: http.*: the server says {status}; expected the file"):
        fetch(server, partial)
    assert pauses == []


def test_a_server_that_does_not_answer_is_told(server: Server, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(transfer, "PAUSES_S", ())
    server.plan = ["slow"]
    with pytest.raises(UserError, match=r"no answer for 0\.05 s"):
        fetch(server, partial)


def test_a_server_that_is_down_is_told(server: Server, partial: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/corpus.zip"
    with pytest.raises(UserError, match="refused"):
        fetch(server, partial)


@pytest.mark.parametrize(("code", "tries"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 6)])
def test_an_unknown_host_is_told_at_once_and_a_network_that_is_down_is_waited_for(
    code: int, tries: int, server: Server, partial: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "cannot tell")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    server.url = "http://corpora.invalid/corpus.zip"
    with pytest.raises(UserError, match="found no host named corpora.invalid" if tries == 1 else "cannot tell"):
        fetch(server, partial)
    assert len(pauses) == tries - 1


def test_a_wrong_checksum_is_told_and_the_file_removed(server: Server, partial: Path) -> None:
    expected = md5(b"another")
    with pytest.raises(UserError, match=f"found MD5 {md5(NOISE)}, expected {expected}; the download is removed"):
        fetch(server, partial, expected)
    assert not list(partial.parent.iterdir())


def test_bytes_that_changed_on_disk_are_found_by_the_checksum(server: Server, partial: Path) -> None:
    give_up(server, partial)
    partial.write_bytes(b"x" + partial.read_bytes()[1:])
    with pytest.raises(UserError, match="found MD5"):
        fetch(server, partial, md5(NOISE))
    assert fetch(server, partial, md5(NOISE)) == NOISE


@pytest.fixture
def corpora(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, Corpus]:
    """A corpus of two free archives, and one that is to be asked for."""
    server.content = zipped(a=b"1", b=b"2")

    def corpus(title: str, **archives: Archive) -> Corpus:
        return Corpus(
            title=title,
            layout="a.wav",
            licence="CC-BY-4.0",
            source="https://corpora.example/asking",
            language="en",
            read=lambda _: iter(()),
            archives=archives,
        )

    known = {
        "free": corpus(
            "Free corpus", one=Archive(url=server.url, md5=md5(server.content)), two=Archive(url=server.url, md5=None)
        ),
        "gated": corpus("Gated corpus"),
    }
    monkeypatch.setattr(registry, "names", lambda: sorted(known))
    monkeypatch.setattr(registry, "load", known.__getitem__)
    return known


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_is_loaded_unpacked_and_marked(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["free:one"], tmp_path)
    assert files(tmp_path / "free") == {"Corpus/a.wav", "Corpus/b.wav", ".downloaded/one.json"}
    marker = json.loads((tmp_path / "free" / ".downloaded" / "one.json").read_text())
    assert marker == {"url": server.url, "md5": md5(server.content), "bytes": len(server.content)}
    line = f"download: free:one: 0.0 MB, MD5 as published; 2 files in {tmp_path}/free\n"
    assert capsys.readouterr() == (line, "")


def test_a_corpus_is_all_its_archives_each_once(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(["free:two", "free"], tmp_path)
    assert len(server.ranges) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["free:two:", "free:one:"]
    assert f"no published checksum, MD5 {md5(server.content)}; 2 files in" in lines[0]


@pytest.mark.parametrize("archive", ["one", "two"])
def test_a_second_call_does_nothing_and_says_so(
    archive: str, corpora: dict[str, Corpus], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main([f"free:{archive}"], tmp_path)
    capsys.readouterr()
    command.main([f"free:{archive}"], tmp_path)
    assert len(server.ranges) == 1
    assert f"free:{archive}: already in {tmp_path}/free; remove" in capsys.readouterr().out


@pytest.mark.parametrize("entry", ["", "[]", "{}", '{"url": "https://old.example/1.zip", "md5": "0"}'])
@pytest.mark.parametrize("archive", ["one", "two"])
def test_a_marker_of_another_file_is_none(
    archive: str, entry: str, corpora: dict[str, Corpus], server: Server, tmp_path: Path
) -> None:
    marker = tmp_path / "free" / ".downloaded" / f"{archive}.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(entry)
    command.main([f"free:{archive}"], tmp_path)
    assert (tmp_path / "free" / "Corpus" / "a.wav").is_file()
    assert json.loads(marker.read_text())["url"] == server.url


def test_an_archive_can_be_kept(corpora: dict[str, Corpus], server: Server, tmp_path: Path) -> None:
    command.main(["free:one"], tmp_path, keep=True)
    assert (tmp_path / "free" / ".downloaded" / "corpus.zip").read_bytes() == server.content
    assert files(tmp_path / "free" / ".downloaded") == {"one.json", "corpus.zip"}


def test_into_names_the_folder_and_a_file_that_is_no_archive_stays_as_it_is(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url.replace("corpus.zip", "list%20of%20clips.csv?download=1")
    corpora["table"] = Corpus(
        title="Table", layout="", licence="", source="", language="en", read=lambda _: iter(()),
        archives={"list": Archive(url=url, md5=None, into="meta data")},
    )  # fmt: skip
    server.content = b"a,b\n"
    command.main(["table"], tmp_path)
    assert files(tmp_path / "table") == {"meta data/list of clips.csv", ".downloaded/list.json"}
    assert f"1 file in {tmp_path}/table/meta data\n" in capsys.readouterr().out


def test_a_failed_unpacking_leaves_no_marker_and_the_next_call_loads_nothing(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "free" / "Corpus" / "a.wav"
    in_the_way.mkdir(parents=True)
    with pytest.raises(UserError, match=r"a\.wav: found a folder"):
        command.main(["free:one"], tmp_path)
    assert files(tmp_path / "free" / ".downloaded") == {"one.part", "one.part.json"}
    in_the_way.rmdir()
    command.main(["free:one"], tmp_path)
    assert len(server.ranges) == 1
    assert files(tmp_path / "free") == {"Corpus/a.wav", "Corpus/b.wav", ".downloaded/one.json"}


def test_a_disk_without_room_for_an_archive_and_what_is_in_it_is_told_before_loading(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = zipped(a=NOISE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000))
    with pytest.raises(UserError, match=r"free:two: needs 0\.4 MB more in .*, where 0\.3 MB are free"):
        command.main(["free:two"], tmp_path)
    assert (tmp_path / "free" / ".downloaded" / "two.part").stat().st_size == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500_000))
    command.main(["free:two"], tmp_path)


def test_a_disk_that_fills_up_names_the_corpus_and_keeps_what_arrived(
    corpora: dict[str, Corpus], server: Server, tmp_path: Path
) -> None:
    server.content = NOISE
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            command.main(["free:two"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "free")
    assert 0 < (tmp_path / "free" / ".downloaded" / "two.part").stat().st_size <= 120_000


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ("other", "^other: no such corpus; expected one of free, gated$"),
        ("free:three", "^free: found no archive 'three', expected one of one, two$"),
        ("free:", "^free: found no archive '', expected one of one, two$"),
        (
            "gated",
            r"^gated: Gated corpus \(CC-BY-4.0\) cannot be downloaded this way; ask at https://corpora.example/asking$",
        ),
        ("gated:one", "cannot be downloaded this way; ask at"),
    ],
)
def test_what_cannot_be_downloaded_is_told_before_anything_is_loaded(
    wanted: str, match: str, corpora: dict[str, Corpus], server: Server, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        command.main(["free:one", wanted], tmp_path)
    assert server.ranges == []


def test_nothing_asked_for_is_a_wrong_command_line(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="found none, expected one or more, or --list"):
        command.main([], tmp_path)


def test_the_list_fits_80_columns_and_tells_licence_and_archives_or_where_to_ask(
    corpora: dict[str, Corpus], capsys: pytest.CaptureFixture[str]
) -> None:
    subset = Archive(url="", md5=None)
    corpora["long"] = Corpus(
        title="Long corpus", layout="", licence="MIT", source="", language="en", read=lambda _: iter(()),
        archives={f"train-clean-{number}": subset for number in range(100, 110)},
    )  # fmt: skip
    command.main(show=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "free   Free corpus, CC-BY-4.0",
        "       archives: one two",
        "gated  Gated corpus, CC-BY-4.0",
        "       ask at https://corpora.example/asking",
    ]
    assert len(lines) > 6
    assert all(len(line) <= 80 for line in lines)
    assert [word for line in lines[5:] for word in line.split()][1:] == list(corpora["long"].archives)


def test_a_terminal_sees_a_bar(
    corpora: dict[str, Corpus], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    command.main(["free:one"], tmp_path)
    assert "free:one: 100%" in capsys.readouterr().err
