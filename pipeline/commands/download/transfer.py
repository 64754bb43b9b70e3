"""Download a file, and continue where an earlier download stopped.

A request for the rest sends the ETag or date of the downloaded bytes as If-Range. If the server still has this version,
it sends the rest. If it has another version, it sends the whole file, and the download starts again.
"""

import re
import shutil
import socket
from pathlib import Path
from time import sleep

import httpx

from pipeline.commands.download.partial_file import Arrived, Version
from pipeline.stage import UserError, say

TIMEOUT_S = 30.0

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses before further tries; they start again whenever PROGRESS more bytes have arrived."""

PROGRESS = 1 << 20  # bytes
_LONGEST_PAUSE_S = 120.0  # even if the server asks for more; Zenodo asks for up to 60 s

_TEMPORARY = (408, 429, 500, 502, 503, 504)
_FINAL = (httpx.UnsupportedProtocol, httpx.TooManyRedirects)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _PassingError(Exception):
    """A temporary failure, and the time that the server asks to wait."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch(name: str, url: str, md5: str | None, path: Path, copies: int = 1) -> Arrived:
    """Download `url` to `path`, and continue where an earlier call stopped; messages call the file `name`.

    Raises UserError if the file is not available, if its MD5 is wrong, or if the disk has no room for `copies` of it.
    The downloaded bytes are kept, except those of a file with a wrong MD5.
    """
    arrived = Arrived(path, url)
    failures, furthest = 0, arrived.num_bytes
    headers = {"Accept-Encoding": "identity"}  # no compression in transit: the checksum is that of the file
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, headers=headers) as client:
        while not arrived.is_whole:
            try:
                _load(client, arrived, name, copies)
            except (httpx.RequestError, _PassingError) as error:
                if arrived.num_bytes - furthest >= PROGRESS:
                    failures, furthest = 0, arrived.num_bytes
                _pause(name, arrived, error, failures)
                failures += 1
    if md5 is not None and arrived.md5 != md5:
        arrived.remove()
        raise UserError(f"{name}: {url}: found MD5 {arrived.md5}, expected {md5}; the download is removed")
    return arrived


def _load(client: httpx.Client, arrived: Arrived, name: str, copies: int) -> None:
    """Try once to download the rest; raises _PassingError or an error of httpx if another try may succeed."""
    with client.stream("GET", arrived.url, headers=_range(arrived)) as response:
        if response.status_code == 416 or (response.status_code == 206 and not _goes_on(response, arrived)):
            arrived.start(Version(arrived.url, None, None))
            raise _PassingError("the server has another version")
        _check_status(response, name)
        if response.status_code == 200:
            if arrived.num_bytes:
                say(f"download: {name}: starts again, because the server cannot continue or has another version")
            arrived.start(_version(response, arrived.url))
        assert arrived.version is not None
        _check_room(name, arrived.path.parent, (arrived.version.num_bytes or 0) * copies - arrived.num_bytes)
        arrived.append(response.iter_raw(), name)
    if not arrived.is_whole:
        raise _PassingError("the server stopped before the end of the file")


def _range(arrived: Arrived) -> dict[str, str]:
    """Return headers that ask for the rest, if there are bytes of a version that the server can identify."""
    if arrived.version is None or arrived.version.validator is None or not arrived.num_bytes:
        return {}
    return {"Range": f"bytes={arrived.num_bytes}-", "If-Range": arrived.version.validator}


def _version(response: httpx.Response, url: str) -> Version:
    length = response.headers.get("Content-Length")
    return Version(url, _validator(response), None if length is None else int(length))


def _validator(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    # a weak ETag does not promise equal bytes
    return response.headers.get("Last-Modified") if etag is None or etag.startswith("W/") else etag


def _goes_on(response: httpx.Response, arrived: Arrived) -> bool:
    """Return whether a range is the requested one: some servers know Range but not If-Range."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    version = arrived.version
    return (
        match is not None
        and version is not None
        and int(match[1]) == arrived.num_bytes
        and int(match[2]) == version.num_bytes
        and _validator(response) in (None, version.validator)
    )


def _check_status(response: httpx.Response, name: str) -> None:
    status = response.status_code
    said = f"{status} {response.reason_phrase}"
    if status in _TEMPORARY:
        wait = response.headers.get("Retry-After", "")
        raise _PassingError(f"the server says {said}", float(wait) if wait.isdecimal() else 0.0)
    if status not in (200, 206):
        raise UserError(f"{name}: {response.url}: the server says {said}; expected the file")


def _check_room(name: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{name}: needs {megabytes(needed)} more in {folder}, where {megabytes(free)} are free")


def _pause(name: str, arrived: Arrived, error: httpx.RequestError | _PassingError, failures: int) -> None:
    """Wait for the next try; raises UserError if no try is left, or if none would help."""
    reason = _describe(error)
    if failures == len(PAUSES_S) or _is_unknown_host(error) or isinstance(error, _FINAL):
        kept = f"; {megabytes(arrived.num_bytes)} are kept, run again to continue" if arrived.num_bytes else ""
        raise UserError(f"{name}: {arrived.url}: {reason}{kept}") from None
    wait_s = error.wait_s if isinstance(error, _PassingError) else 0.0
    pause_s = max(PAUSES_S[failures], min(wait_s, _LONGEST_PAUSE_S))
    say(f"download: {name}: {reason}; next try in {pause_s:g} s")
    sleep(pause_s)


def _describe(error: httpx.RequestError | _PassingError) -> str:
    if isinstance(error, _PassingError):
        return str(error)
    if _is_unknown_host(error):
        return f"found no host named {error.request.url.host}"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer for {TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def _is_unknown_host(error: BaseException | None) -> bool:
    """Return whether the host is known not to exist; false if the lookup itself failed."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None and error.errno == socket.EAI_NONAME


def megabytes(num_bytes: int) -> str:
    """Format a size for people."""
    return f"{num_bytes / 1e6:,.1f} MB"
