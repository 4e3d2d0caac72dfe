"""`sr-deploy serve` as a process: it ends politely, and what is killed goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import UsageError
from sr_deploy.serve.options import ServeOptions
from sr_deploy.serve.server import serve
from tests.docs import write_film
from tests.serve.conftest import Running, encoded, eventually, serving

PROGRAM = "from sr_deploy.cli import main; main()"


class Process:
    """A service in a process of its own, once it listens."""

    def __init__(self, spool: Path, *options: str) -> None:
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            "serve",
            "--json",
            "-m",
            "fast-x2",
            "--port",
            "0",
            "--spool",
            str(spool),
            *options,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdout is not None
        lines = iter(self.process.stdout.readline, b"")
        text = b""
        for line in lines:
            text += line
            if line == b"}\n":
                break
        self.document = json.loads(text)

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        place = urlsplit(self.document["address"])
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and what it said."""
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told.decode()


@contextmanager
def process(spool: Path, *options: str) -> Iterator[Process]:
    service = Process(spool, *options)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.communicate()


def test_killed_then_ended_politely(tmp_path: Path) -> None:
    """A job whose process is killed goes on in the next one; on SIGTERM everything that was taken is answered."""
    film = tmp_path / "film.mkv"
    write_film(film, 300)
    spool = tmp_path / "spool"
    with process(spool) as first:
        assert set(first.document) == {"schema", "address", "spool", "models", "workers"}
        _, body = first.ask("POST", "/v1/jobs?format=mkv", film.read_bytes())
        job = json.loads(body)["id"]
        eventually(lambda: list((spool / job / "results").glob("*.part/*.json")))
        assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    with process(spool) as second:
        picture = encoded(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(second.ask("POST", "/v1/upscale", picture)[0])) for _ in range(6)
        ]

        def state() -> Any:
            return json.loads(second.ask("GET", f"/v1/jobs/{job}")[1])

        done = eventually(lambda: facts if (facts := state())["state"] in ("done", "failed") else None)
        assert done["state"] == "done" and done["error"] is None
        _, result = second.ask("GET", done["results"][0]["url"])
        (tmp_path / "result.mkv").write_bytes(result)
        with av.open(str(tmp_path / "result.mkv")) as video:
            assert sum(1 for _ in video.decode(video=0)) == done["total"] >= 300
        for thread in threads:
            thread.start()
        eventually(lambda: b"srdeploy_running 1.0" in second.ask("GET", "/metrics")[1] or answers)
        code, told = second.end(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert (code, told) == (0, "")
        assert len(answers) == 6 and set(answers) <= {200, 503} and 200 in answers


def test_who_begins_no_request_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sr_deploy.serve.server._LOOK_SECONDS", 0.05)
    with serving(tmp_path) as running:
        place = urlsplit(running.address)
        for begun in (b"", b"POST /v1/upscale HTTP/1.1\r\nHost: "):
            with socket.create_connection((place.hostname or "", place.port or 0), 30) as line:
                line.sendall(begun)
                assert line.recv(100) == b""
        assert running.get("/live").status == 200


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_who_breaks_off_http_in_the_middle_is_no_error_of_ours(
    running: Running, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    place = urlsplit(running.address)
    with socket.create_connection((place.hostname or "", place.port or 0), 30) as line:
        line.sendall(
            f"{method} /v1/upscale HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"no chunk\r\n"
        )
        assert line.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 405"))
    assert running.get("/live").status == 200
    assert caplog.text == ""


@pytest.mark.long
def test_several_workers_count_together(tmp_path: Path, photo: NDArray[np.uint8]) -> None:
    with process(tmp_path, "--workers", "2") as service:
        for _ in range(10):
            assert service.ask("POST", "/v1/upscale", encoded(photo))[0] == 200
        metrics = service.ask("GET", "/metrics")[1].decode()
        assert 'srdeploy_requests_total{route="/v1/upscale",status="200"} 10.0' in metrics
        assert service.end(signal.SIGTERM) == (0, "")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: cannot be listened on"):
            serve(ServeOptions(port=port, spool=tmp_path), print)


def test_a_spool_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be the spool"):
        serve(ServeOptions(port=0, spool=tmp_path / "file"), print)


def test_a_head_without_an_end_is_cut_off(running: Running) -> None:
    place = urlsplit(running.address)
    with socket.create_connection((place.hostname or "", place.port or 0), 30) as line:
        line.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n")
        sent = 0
        with contextlib.suppress(OSError):
            for number in range(1000):
                sent += line.send(b"X-%06d: %s\r\n" % (number, b"x" * 1000))
                time.sleep(0.001)
        answer = b""
        with contextlib.suppress(OSError):
            answer = line.recv(4096)
    assert sent < 900_000
    assert not answer or answer.startswith(b"HTTP/1.1 400")


def test_a_form_may_come_in_one_piece_with_its_head(running: Running) -> None:
    """A head is short although what comes with it is long."""
    place, body = urlsplit(running.address), bytes(200_000)
    with socket.create_connection((place.hostname or "", place.port or 0), 30) as line:
        for _ in range(2):
            line.sendall(b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert line.recv(12) == b"HTTP/1.1 415"
            while b"}" not in line.recv(4096):
                pass
