"""A service of `fast-x2` with low limits, on a port of its own; and a client of the standard library's."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy import Upscaler
from sr_deploy.serve.options import Limits, ServeOptions
from sr_deploy.serve.server import new_server
from sr_deploy.serve.service import Service

MODEL = "fast-x2"
LIMITS = Limits(
    at_once=1, queue=2, seconds=30, most_bytes=1 << 18, most_pixels=1 << 14, most_job_bytes=1 << 19, spool_bytes=1 << 24
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A service that is up."""

    address: str
    service: Service

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def finished(self, job: str) -> dict[str, Any]:
        """The job once it is over."""
        return eventually(lambda: found if (found := self.get(f"/v1/jobs/{job}").json)["state"] in ENDED else None)


ENDED = ("done", "failed", "canceled")


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` gives, once it gives something."""
    for _ in range(1200):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


@contextmanager
def serving(spool: Path, **options: Any) -> Iterator[Running]:
    """A service in this process."""
    server = new_server(ServeOptions(**{"models": (MODEL,), "spool": spool, "limits": LIMITS} | options))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            eventually(lambda: server.started)
            yield Running(f"http://127.0.0.1:{port}", server.service)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("spool")) as service:
        yield service


@pytest.fixture(scope="session")
def upscaler() -> Iterator[Upscaler]:
    with Upscaler(MODEL) as opened:
        yield opened


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """(24,32,3) RGB"""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.uint8)


def encoded(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    """The file of an RGB image, by OpenCV."""
    done, data = cv2.imencode(suffix, pixels[..., ::-1])
    assert done
    return data.tobytes()


def multipart(*files: tuple[str, bytes], field: str = "files") -> tuple[bytes, str]:
    """A form of files by their names, and its content type."""
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (field.encode(), name.encode(), data)
        for name, data in files
    ]
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
