"""POST /v1/upscale: the library's pixels, in the format that is asked for, and what is refused."""

from __future__ import annotations

import io
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy import Upscaler
from sr_deploy.serve.options import Limits
from tests.serve.conftest import LIMITS, Running, encoded, eventually, multipart, serving

Pixels = NDArray[np.uint8]


def pixels_of(data: bytes) -> Pixels:
    """By Pillow, which the service does not write with."""
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("form", [False, True], ids=["body", "multipart"])
def test_bytes_in_bytes_out(running: Running, photo: Pixels, upscaler: Upscaler, form: bool) -> None:
    data, kind = multipart(("a.png", encoded(photo))) if form else (encoded(photo), "image/png")
    answer = running.post("/v1/upscale", data, Content_Type=kind)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert np.array_equal(pixels_of(answer.body), upscaler(photo))
    assert {name: answer.headers[name] for name in ("X-Network", "X-Tiles", "X-Recomputed", "X-Replaced")} == {
        "X-Network": "fast-x2",
        "X-Tiles": "1",
        "X-Recomputed": "0",
        "X-Replaced": "0",
    }
    assert float(answer.headers["X-Seconds"]) > 0


@pytest.mark.parametrize(
    ("query", "accept", "source", "expected"),
    [
        ("", "*/*", ".jpg", "JPEG"),
        ("", "", ".webp", "WEBP"),
        ("?format=tif", "image/png", ".png", "TIFF"),
        ("?format=avif", "", ".png", "AVIF"),
        ("?format=jpg&quality=30", "", ".png", "JPEG"),
        ("", "image/webp;q=0.9, image/avif;q=0.2, text/html", ".png", "WEBP"),
        ("", "image/*;q=0.5, image/jpeg", ".png", "JPEG"),
        ("", "image/*", ".ppm", "PNG"),
    ],
)
def test_the_format_is_what_the_query_or_accept_says(
    running: Running, photo: Pixels, query: str, accept: str, source: str, expected: str
) -> None:
    answer = running.post(f"/v1/upscale{query}", encoded(photo, source), Accept=accept)
    assert answer.status == 200, answer.body
    found = Image.open(io.BytesIO(answer.body))
    assert (found.format, found.size) == (expected, (64, 48))
    assert answer.headers["Content-Type"] == found.get_format_mimetype()


@pytest.mark.parametrize(
    ("query", "size"), [("scale=1.5", (48, 36)), ("to=long%3D50", (50, 38)), ("scale=3&fp32=true", (96, 72))]
)
def test_the_size_is_what_was_asked(running: Running, photo: Pixels, query: str, size: tuple[int, int]) -> None:
    answer = running.post(f"/v1/upscale?{query}&model=fast-x2", encoded(photo))
    assert Image.open(io.BytesIO(answer.body)).size == size


def png_of_zeros(width: int, height: int) -> bytes:
    """A whole file that unpacks to so many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\0\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused() -> Iterator[tuple[str, str, bytes, int, str]]:
    good = encoded(np.full((8, 8, 3), 90, np.uint8))
    yield "no bytes", "", b"", 422, "empty"
    yield "text", "", b"hello", 415, "no picture"
    yield "a PDF", "", b"%PDF-1.7 ...", 415, "PDF"
    yield "cut off", "", good[:-20], 422, "cut off"
    yield "damaged", "", good[:60] + b"\0\0" + good[62:], 422, "the picture: "
    yield "too many bytes", "", good + bytes(LIMITS.most_bytes), 413, f"{LIMITS.most_bytes} bytes"
    yield "too many pixels", "", png_of_zeros(200, 100), 413, "200x100"
    yield "too large a result", "?to=8k", good, 413, "4320x4320"
    yield "two sizes", "?scale=2&to=4k", good, 422, "contradict"
    yield "no size", "?to=huge", good, 422, "not understood"
    yield "no factor", "?scale=nan", good, 422, "scale"
    yield "no quality", "?quality=101", good, 422, "quality"
    yield "no format", "?format=gif", good, 422, "format"
    yield "no parameter", "?qualty=10", good, 422, "qualty"
    yield "no network", "?model=fast-x3", good, 422, "there are fast-x2; did you mean 'fast-x2'?"


@pytest.mark.parametrize(
    ("query", "body", "status", "words"), [case[1:] for case in refused()], ids=[case[0] for case in refused()]
)
def test_what_is_refused(running: Running, query: str, body: bytes, status: int, words: str) -> None:
    answer = running.post(f"/v1/upscale{query}", body)
    assert answer.status == status, answer.body
    assert list(answer.json) == ["error"] and words in answer.json["error"]
    assert "\n" not in answer.json["error"]


def test_other_refusals(running: Running, photo: Pixels) -> None:
    alpha = np.dstack([photo, np.full(photo.shape[:2], 100, np.uint8)])
    data = cv2.imencode(".png", alpha)[1].tobytes()
    several, kind = multipart(("a.png", data), ("b.png", data))
    assert running.post("/v1/upscale?format=jpeg", data).json["error"].startswith("result.jpeg: a JPEG cannot hold")
    assert running.post("/v1/upscale", data, Accept="image/gif, text/html").status == 406
    assert running.post("/v1/upscale", data, Content_Encoding="gzip").status == 415
    assert running.post("/v1/upscale", several, Content_Type=kind).status == 422
    assert running.post("/v1/upscale", several[:-20], Content_Type=kind).status == 422
    assert running.post("/v1/upscale", several, Content_Type="multipart/form-data").status == 422
    assert running.post("/v1/upscale", b"--edge--\r\n", Content_Type=kind).status == 422
    assert running.get("/v1/upscale").status == 405


def test_bytes_beyond_the_limit_are_not_read_to_their_end(running: Running) -> None:
    """Without a length the client learns of it in the middle."""
    place = urlsplit(running.address)
    with socket.create_connection((place.hostname or "", place.port or 0), 30) as line:
        line.sendall(b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(LIMITS.most_bytes // 65536 + 1):
            line.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
        assert b" 413 " in line.recv(100)


class _Slow(Upscaler):
    """Upscales when it is let."""

    def __init__(self) -> None:
        super().__init__("fast-x2")
        self.begun = threading.Semaphore(0)
        self.let = threading.Event()
        self.is_deaf = False

    def upscale_pixels(self, pixels: Any, progress: Any = None) -> Any:
        self.begun.release()
        while not self.let.wait(0.02):
            if not self.is_deaf:
                progress(0, 1)
        return super().upscale_pixels(pixels, progress)


@pytest.fixture
def slow(running: Running) -> Iterator[_Slow]:
    """In place of the network."""
    network = running.service.networks.default
    usual, upscaler = network.open(), _Slow()
    network._opened[False] = upscaler
    yield upscaler
    upscaler.let.set()
    network._opened[False] = usual
    upscaler.close()


def in_background(running: Running, data: bytes, answers: list[Any]) -> threading.Thread:
    thread = threading.Thread(target=lambda: answers.append(running.post("/v1/upscale", data)))
    thread.start()
    return thread


def waiting(running: Running) -> int:
    return len(running.service.desk._open)


def test_beyond_the_queue_clients_are_told_when_to_try_again(running: Running, photo: Pixels, slow: _Slow) -> None:
    answers: list[Any] = []
    threads = [in_background(running, encoded(photo), answers) for _ in range(3)]
    eventually(lambda: waiting(running) == 3)
    refusal = running.post("/v1/upscale", encoded(photo))
    assert refusal.status == 503 and int(refusal.headers["Retry-After"]) >= 1
    slow.let.set()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 3
    assert running.post("/v1/upscale", encoded(photo)).status == 200


def test_who_leaves_is_not_worked_for(running: Running, photo: Pixels, slow: _Slow) -> None:
    place, data = urlsplit(running.address), encoded(photo)
    with socket.create_connection((place.hostname or "", place.port or 0)) as line:
        line.sendall(b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        slow.begun.acquire()
    eventually(lambda: waiting(running) == 0)
    assert not slow.let.is_set()


def test_the_end_of_the_service_answers_everybody(tmp_path: Any, photo: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who is in the middle of a window that takes long, and who waits."""
    monkeypatch.setattr("sr_deploy.serve.service.ENDING_SECONDS", 0.5)
    answers: list[Any] = []
    with serving(tmp_path) as running, _Slow() as upscaler:
        monkeypatch.setattr(upscaler, "is_deaf", True)
        network = running.service.networks.default
        usual = network.open()
        network._opened[False] = upscaler
        threads = [in_background(running, encoded(photo), answers) for _ in range(3)]
        upscaler.begun.acquire()
        eventually(lambda: waiting(running) == 3)
        running.service.stop()
        assert running.get("/ready").status == 503 and running.get("/live").status == 200
        refusal = running.post("/v1/upscale", encoded(photo))
        assert refusal.status == 503 and "about to end" in refusal.json["error"]
        for thread in threads:
            thread.join()
        assert [answer.status for answer in answers] == [503] * 3 and not upscaler.let.is_set()
        upscaler.let.set()
        eventually(lambda: running.service.desk.is_idle)
        network._opened[False] = usual


def test_time_is_over(tmp_path: Any, photo: Pixels) -> None:
    limits = Limits(at_once=1, queue=2, seconds=1)
    with serving(tmp_path, limits=limits) as running:
        network = running.service.networks.default
        network.close()
        with _Slow() as upscaler:
            network._opened[False] = upscaler
            answers: list[Any] = []
            threads = [in_background(running, encoded(photo), answers)]
            upscaler.begun.acquire()
            place = urlsplit(running.address)
            with socket.create_connection((place.hostname or "", place.port or 0)) as line:
                line.sendall(b"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow")
                assert b" 408 " in line.recv(100)
            threads[0].join()
            assert answers[0].status == 504 and "/v1/jobs" in answers[0].json["error"]
