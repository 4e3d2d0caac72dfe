"""A public file, over https alone and from hosts that are named; broken downloads go on where they stopped."""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

from sr_deploy.bundle import sha256_of
from sr_deploy.errors import FetchError
from sr_deploy.files import Address, put_in_place
from sr_deploy.models.recipe import Download
from sr_deploy.web import HEADERS, TIMEOUT, WAITS, why_it_failed

_CHUNK = 1 << 16


def download(file: Download, target: Path, progress: Callable[[int], None] | None = None) -> None:
    """Fetch a file; it grows with .part behind its name, and appears as `target` once it is whole and the right one.

    A part that is there is gone on with. It stays when the server is lost, which is asked again a few times where it had given
    something, and goes when the server has another file. One process at a time.

    progress: called with how many bytes are there.

    Raises: FetchError.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _complete(file, part, progress or (lambda _: None))
        digest = sha256_of(part)
        if digest != file.sha256:
            part.unlink()
            raise FetchError(
                f"{Address(file.url)}: not the published file: sha256 {digest[:12]}, expected {file.sha256[:12]}; it is removed"
            )
        put_in_place(part, target)
    except OSError as exc:
        raise FetchError(
            f"{exc.filename or part}: cannot be written ({exc.strerror}); free some space there, or point XDG_DATA_HOME to "
            "another folder; the same command goes on"
        ) from exc


class _BrokenError(Exception):
    """The server failed. `passing`: it may be there again soon."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


def _complete(file: Download, part: Path, progress: Callable[[int], None]) -> None:
    """Bring the part to its size. Raises: FetchError; OSError where it cannot be written."""
    waits: list[float] = []
    while (before := _size(part, file)) < file.bytes:
        try:
            with part.open("ab") as grows, contextlib.closing(_received(file, before)) as received:
                for at, chunk in received:
                    if at == 0 < before:
                        grows.truncate(0)
                    grows.write(chunk)
                    progress(at + len(chunk))
        except FetchError:
            part.unlink()
            raise
        except _BrokenError as exc:
            kept = _size(part, file)
            waits = list(WAITS) if kept > before else waits
            if not (exc.passing and waits):
                if not kept:
                    part.unlink()
                raise FetchError(
                    f"{Address(file.url)}: cannot be fetched ({exc}); {kept} of {file.bytes} bytes are there, the same command "
                    "goes on"
                ) from exc
            time.sleep(waits.pop(0))


def _size(part: Path, file: Download) -> int:
    """Bytes of a part that is not too long."""
    size = part.stat().st_size if part.exists() else 0
    if size > file.bytes:
        part.unlink()
        return 0
    return size


def _received(file: Download, begin: int) -> Generator[tuple[int, bytes]]:
    """Pieces from byte `begin` on, or from 0 where the server gives no parts, each with its place.

    Raises: _BrokenError, also where it ends too early; FetchError for another size, another host or no https.
    """
    _check(file.url, file)
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={begin}-", **HEADERS})
    try:
        with urllib.request.build_opener(_NamedHosts(file)).open(request, timeout=TIMEOUT) as response:
            at = _begin(cast(http.client.HTTPResponse, response), begin, file)
            while chunk := response.read(_CHUNK):
                if at + len(chunk) > file.bytes:
                    raise _wrong_size(file, "more")
                yield at, chunk
                at += len(chunk)
    except urllib.error.HTTPError as exc:
        reason, lasting = why_it_failed(exc)
        if exc.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and begin:
            raise _wrong_size(file, f"no byte {begin}") from exc
        raise _BrokenError(reason, passing=not lasting) from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason, lasting = why_it_failed(exc)
        raise _BrokenError(reason, passing=not lasting) from exc
    if at < file.bytes:
        raise _BrokenError("the server ended the connection", passing=True)


def _begin(response: http.client.HTTPResponse, asked: int, file: Download) -> int:
    """Where a response begins. Raises: FetchError for one of another size."""
    begin = 0
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked:
            raise _BrokenError("the server gives another part than was asked for", passing=False)
        begin = asked
    if response.length is not None and begin + response.length != file.bytes:
        raise _wrong_size(file, str(begin + response.length))
    return begin


def _wrong_size(file: Download, found: str) -> FetchError:
    return FetchError(f"{Address(file.url)}: not the published file: the server has {found}, expected {file.bytes} bytes")


def _check(url: str, file: Download) -> None:
    """Raises: FetchError for an address that is not over https, or of a host that the recipe does not name."""
    hosts = {urlsplit(file.url).netloc.lower(), *file.hosts}
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise FetchError(f"{Address(url)}: is not over https; files come over https alone")
    if parts.netloc.lower() not in hosts:
        raise FetchError(f"{Address(file.url)}: leads to {Address(url)}; its recipe allows {' and '.join(sorted(hosts))} alone")


class _NamedHosts(urllib.request.HTTPRedirectHandler):
    """Goes on to hosts that the recipe names."""

    def __init__(self, file: Download) -> None:
        self._file = file

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check(newurl, self._file)
        except FetchError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)
