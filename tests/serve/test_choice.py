"""Where a client names no network, JPEGs that lost much go to the one that restores, as on the command line."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy import Upscaler
from tests.serve.conftest import Running, encoded, multipart, serving
from tests.serve.test_pictures import pixels_of

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("spool"), models=("fast", "photo-fast")) as service:
        yield service


def jpeg(pixels: Pixels, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.mark.parametrize(
    ("query", "quality", "network"),
    [
        ("?scale=2", 30, "photo-fast-x2"),
        ("?scale=3", 30, "photo-fast-x4"),
        ("?scale=2", 98, "fast-x2"),
        ("?model=fast&scale=2", 30, "fast-x2"),
    ],
)
def test_a_picture_goes_to_what_its_file_asks_for(
    usual: Running, photo: Pixels, query: str, quality: int, network: str
) -> None:
    data = jpeg(photo, quality)
    answer = usual.post(f"/v1/upscale{query}&format=png", data)
    assert (answer.status, answer.headers["X-Network"]) == (200, network)
    if query != "?scale=3":
        with Upscaler(network) as upscale:
            assert np.array_equal(pixels_of(answer.body), upscale(pixels_of(data)))


def test_so_does_each_picture_of_a_job(usual: Running, photo: Pixels) -> None:
    body, kind = multipart(("coarse.jpg", jpeg(photo, 30)), ("fine.jpg", jpeg(photo, 98)))
    for query, first in (("", "photo-fast-x2"), ("&model=fast", "fast-x2")):
        begun = usual.post(f"/v1/jobs?scale=2&format=png{query}", body, Content_Type=kind)
        job = usual.finished(begun.json["id"])
        assert (job["state"], [result["name"] for result in job["results"]]) == ("done", ["coarse.png", "fine.png"])
        for result, network, quality in zip(job["results"], (first, "fast-x2"), (30, 98), strict=True):
            with Upscaler(network) as upscale:
                made = pixels_of(usual.get(result["url"]).body)
                assert np.array_equal(made, upscale(pixels_of(jpeg(photo, quality))))


def test_a_service_of_other_networks_has_no_choice(running: Running, photo: Pixels) -> None:
    assert running.post("/v1/upscale", jpeg(photo, 30)).headers["X-Network"] == "fast-x2"
    assert running.post("/v1/upscale", encoded(photo)).status == 200
