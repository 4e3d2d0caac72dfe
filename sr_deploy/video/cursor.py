"""Files that are opened many times at once without being on this machine's disk: on a web server, or a file object."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

from sr_deploy.errors import VideoError
from sr_deploy.files import Address
from sr_deploy.web import HEADERS, TIMEOUT, WAITS, why_it_failed

_BUFFER = 1 << 18
_NEAR = 1 << 18
"""Bytes that are rather read and thrown away than asked for anew."""
_SAFE = "/%!$&'()*+,;=:@~-._"


class _Cursor(io.RawIOBase):
    """A place in a file of a known size, which is read from there on."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        got = self._fill(memoryview(buffer)[:wanted]) if wanted > 0 else 0
        self._at += got
        return got

    def _fill(self, buffer: memoryview) -> int:
        """Bytes from where the cursor is; how many there were, at least one. Raises: VideoError."""
        raise NotImplementedError


class SharedFile:
    """A file object that many read at once, each at its own place."""

    def __init__(self, file: BinaryIO) -> None:
        """file: binary and seekable; it stays open, and its own place is lost."""
        self.file = file
        self.lock = threading.Lock()
        name = getattr(file, "name", None)
        self.name = name if isinstance(name, str) else "the file object"

    def open(self) -> io.BufferedReader:
        """At its beginning. Raises: VideoError."""
        try:
            with self.lock:
                size = self.file.seek(0, io.SEEK_END)
        except (OSError, ValueError) as exc:
            raise VideoError(f"{self.name}: cannot be read ({exc}); expected a file object that is open") from exc
        return io.BufferedReader(_SharedCursor(self, size), _BUFFER)


class _SharedCursor(_Cursor):
    def __init__(self, shared: SharedFile, size: int) -> None:
        super().__init__(shared.name, size)
        self._shared = shared

    def _fill(self, buffer: memoryview) -> int:
        try:
            with self._shared.lock:
                self._shared.file.seek(self._at)
                data = self._shared.file.read(len(buffer))
        except (OSError, ValueError) as exc:
            raise VideoError(f"{self.name}: cannot be read at byte {self._at} ({exc}); the same call goes on") from exc
        if not data:
            raise VideoError(f"{self.name}: became shorter while it was read; expected {self._size} bytes")
        buffer[: len(data)] = data
        return len(data)


@dataclass(frozen=True)
class RemoteFacts:
    """bytes: of the whole file. version: its ETag, or else when it was changed; empty where the server says neither."""

    bytes: int
    version: str


@dataclass
class RemoteFile:
    """A file on a web server that gives parts of files; it has to stay as it is from the first request on.

    Certificates are checked by what Python's ssl trusts; SSL_CERT_FILE names others. Proxies are those of the environment.
    """

    address: Address
    facts: RemoteFacts | None = field(default=None, init=False)
    _opener: urllib.request.OpenerDirector = field(default_factory=urllib.request.build_opener, init=False, repr=False)

    def open(self) -> io.BufferedReader:
        """At its beginning. Raises: VideoError."""
        response = self.request(0)
        assert self.facts is not None
        return io.BufferedReader(_RemoteCursor(self, self.facts.bytes, response), _BUFFER)

    def request(self, at: int) -> http.client.HTTPResponse | None:
        """What the server answers, from byte `at` on; None where the file ends. Tried again where it had given something.

        Raises: VideoError.
        """
        waits = list(WAITS) if self.facts else []
        while True:
            try:
                return self._requested(at)
            except (OSError, http.client.HTTPException, ValueError) as exc:
                reason, lasting = why_it_failed(exc)
                if lasting or not waits:
                    raise VideoError(f"{self.address}: cannot be read ({reason}); check the address and the server") from exc
                time.sleep(waits.pop(0))

    def _requested(self, at: int) -> http.client.HTTPResponse | None:
        request = urllib.request.Request(_encoded(self.address.url))
        for name, value in {"Range": f"bytes={at}-", **HEADERS}.items():
            request.add_header(name, value)
        if credentials := _credentials(self.address.url):
            request.add_unredirected_header("Authorization", credentials)
        try:
            response = cast(http.client.HTTPResponse, self._opener.open(request, timeout=TIMEOUT))
        except urllib.error.HTTPError as exc:
            end = re.fullmatch(r"bytes \*/(\d+)", exc.headers.get("Content-Range", ""))
            if exc.code == 416 and end and int(end[1]) <= at:
                self._note(RemoteFacts(int(end[1]), _version(exc.headers)))
                exc.close()
                return None
            raise
        try:
            self._note(RemoteFacts(_size(response, at, self.address), _version(response.headers)))
        except BaseException:
            response.close()
            raise
        return response

    def _note(self, facts: RemoteFacts) -> None:
        if self.facts not in (None, facts):
            raise VideoError(f"{self.address}: was changed on the server while it was read; run again with --overwrite")
        self.facts = facts


class _RemoteCursor(_Cursor):
    def __init__(self, remote: RemoteFile, size: int, response: http.client.HTTPResponse | None) -> None:
        super().__init__(remote.address.name, size)
        self._remote = remote
        self._response, self._response_at = response, 0

    def _fill(self, buffer: memoryview) -> int:
        waits = list(WAITS)
        while True:
            reason = "it ended the connection"
            try:
                if got := self._response_here().readinto(buffer):
                    self._response_at += got
                    return got
            except (OSError, http.client.HTTPException) as exc:
                reason = why_it_failed(exc)[0]
            self._drop()
            if not waits:
                raise VideoError(
                    f"{self._remote.address}: the server was lost at byte {self._at} of {self._size} ({reason}); "
                    "the same command goes on once it is back"
                )
            time.sleep(waits.pop(0))

    def _response_here(self) -> http.client.HTTPResponse:
        """A response whose next byte is the cursor's."""
        while self._response is not None and 0 < self._at - self._response_at <= _NEAR:
            skipped = len(self._response.read(min(self._at - self._response_at, 1 << 16)))
            self._response_at += skipped
            if not skipped:
                self._drop()
        if self._response is None or self._response_at != self._at:
            self._drop()
            self._response, self._response_at = self._remote.request(self._at), self._at
        if self._response is None:
            raise http.client.HTTPException("it says that the file ends there")
        return self._response

    def _drop(self) -> None:
        if self._response is not None:
            with contextlib.suppress(OSError):
                self._response.close()
        self._response = None

    def close(self) -> None:
        self._drop()
        super().close()


def _size(response: http.client.HTTPResponse, at: int, address: Address) -> int:
    """Bytes of the whole file. Raises: VideoError where the server does not give parts."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status == 206 and found and int(found[1]) == at:
        return int(found[2])
    if at == 0 and response.headers.get("Accept-Ranges") == "bytes" and response.length is not None:
        return response.length
    raise VideoError(f"{address}: its server does not give parts of files (no ranges); download it, then upscale the file")


def _version(headers: Message) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""


def _encoded(url: str) -> str:
    """As it is sent: without user name and password, in ASCII."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", "" if parts.port is None else f":{parts.port}"
    if not host:
        raise ValueError("it names no server")
    host = f"[{host}]" if ":" in host else host.encode("idna").decode()
    path, query = (re.sub("%(?![0-9A-Fa-f]{2})", "%25", part) for part in (parts.path or "/", parts.query))
    asked = f"?{quote(query, safe=_SAFE + '?')}" if query else ""
    return f"{parts.scheme}://{host}{port}{quote(path, safe=_SAFE)}{asked}"


def _credentials(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is None:
        return ""
    both = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(both.encode()).decode()}"
