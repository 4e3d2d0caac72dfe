"""A web server for one file, which can misbehave as servers do."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


@dataclass
class Served:
    """What is served, under which decoded path, and how.

    ranges: whether parts are given. cut: the byte before which connections end that come to it, None for none. wanted: the
    Authorization that is asked for. moved: whether every request is sent on first, to `location`. certificate: with its
    key, for https. silent: whether a connection that was cut stays open, and says nothing until the server ends.
    """

    data: bytes
    path: str = "/film.mkv"
    ranges: bool = True
    cut: int | None = None
    etag: str = '"1"'
    wanted: str = ""
    moved: bool = False
    location: str = "/elsewhere"
    silent: bool = False
    certificate: Path | None = None
    status: int = 0
    origin: str = ""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, user: str = "") -> str:
        """The address of a path, which may be encoded or not."""
        return f"http{'s' if self.certificate else ''}://{user}{self.origin}{path}"


def certify_here(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody trusts, and the file of both, it and its key; skips where there is no openssl."""
    openssl, both, certificate = shutil.which("openssl"), folder / "both.pem", folder / "certificate.pem"
    if openssl is None:
        pytest.skip("no openssl on this machine")
    names = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"]
    newkey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", both, "-out", certificate]
    subprocess.run([openssl, "req", "-x509", "-nodes", "-days", "2", *newkey, *names], check=True, capture_output=True)
    both.write_bytes(both.read_bytes() + certificate.read_bytes())
    return certificate, both


@contextmanager
def serving(served: Served) -> Iterator[Served]:
    """The file on a port of this machine, until the block ends."""

    class Handler(_Handler):
        what = served

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    if served.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(served.certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served.origin = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield served
    finally:
        served.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    what: Served

    def do_GET(self) -> None:
        what = self.what
        what.seen.append((self.path, dict(self.headers)))
        path = unquote(urlsplit(self.path).path)
        if what.moved and path != "/elsewhere":
            self._answer(302, Location=what.location)
        elif what.status:
            self._answer(what.status)
        elif path not in (what.path, "/elsewhere"):
            self._answer(404)
        elif what.wanted and self.headers.get("Authorization") != what.wanted:
            self._answer(401)
        elif not what.ranges:
            self._give(200, 0)
        else:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])
            assert asked is not None
            begin, size = int(asked[1]), len(what.data)
            if begin >= size:
                self._answer(416, **{"Content-Range": f"bytes */{size}", "ETag": what.etag})
            else:
                self._give(206, begin, **{"Content-Range": f"bytes {begin}-{size - 1}/{size}"})

    def _give(self, status: int, begin: int, **headers: str) -> None:
        what, part = self.what, memoryview(self.what.data)[begin:]
        end = len(part) if what.cut is None or what.cut < begin else what.cut - begin
        self._answer(status, **headers, **{"Content-Length": str(len(part)), "ETag": what.etag})
        with suppress(OSError):
            self.wfile.write(part[:end])
            if what.silent and end < len(part):
                what.ended.wait()

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        del format, args
