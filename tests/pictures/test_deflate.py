"""How pixels are packed: fast for photos, and small for what repeats."""

from __future__ import annotations

import io
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.pictures.formats.deflate import LEVEL, compressor
from sr_deploy.pictures.image import encode_image
from tests.docs import ROOT


def upscaled_photo() -> NDArray[Any]:
    image = cv2.imread(str(ROOT / "docs" / "demo.png"))
    return np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))


def tiles() -> NDArray[Any]:
    """What repeats, and not in runs."""
    tile = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return np.tile(tile, (16, 16, 1))


def sizes_by_strategy(filtered: bytes) -> dict[int, int]:
    sizes = {}
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE):
        machine = zlib.compressobj(LEVEL, zlib.DEFLATED, strategy=strategy)
        sizes[strategy] = len(machine.compress(filtered) + machine.flush())
    return sizes


def test_the_sample_is_small_whatever_the_shape_of_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = zlib.compressobj

    class Spy:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._machine = made(*arguments, **options)

        def compress(self, data: memoryview) -> bytes:
            seen.append(memoryview(data).nbytes)
            return self._machine.compress(data)

        def flush(self, *mode: int) -> bytes:
            return self._machine.flush(*mode)

    monkeypatch.setattr("sr_deploy.pictures.formats.deflate.zlib.compressobj", Spy)
    compressor(np.zeros((256, 1024), np.uint8).data)
    assert seen == [1 << 14] * 2


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize(
    "pixels", [upscaled_photo(), tiles(), np.full((64, 64, 3), 9, np.uint8)], ids=["photo", "tiles", "flat"]
)
def test_the_same_pixels_and_no_more_room_than_zlib_takes(format: str, pixels: NDArray[Any]) -> None:
    data = encode_image(pixels, format)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(image), pixels)
    if format == "png":
        filtered = zlib.decompress(b"".join(png_data(data)))
        assert len(data) < 1.03 * min(sizes_by_strategy(filtered).values()) + 200


def png_data(data: bytes) -> list[bytes]:
    place, found = 8, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        if data[place + 4 : place + 8] == b"IDAT":
            found.append(data[place + 8 : place + 8 + size])
        place += 12 + size
    return found
