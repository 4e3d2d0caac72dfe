"""One image file upscaled into another, with whatever users give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from sr_deploy import ImageError, Metadata, Picture, Upscaler, UsageError, encode_image, read_image, upscale_image
from sr_deploy.models import DEFAULT
from sr_deploy.upscaling import image_file
from tests.graphs import image_graph, save

RANDOM = np.random.default_rng(9)
PHOTO = RANDOM.integers(60, 200, (12, 15, 3), dtype=np.uint8)
SCENE = {"backend": "onnxruntime", "precision": "fp32"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(image_graph(scale=2), tmp_path, "net.onnx")


def photo_file(path: Path) -> Path:
    """A PNG of 16 bits, with alpha, EXIF, and a profile."""
    exif = Image.Exif()
    exif[271] = "Maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = RANDOM.integers(20_000, 40_000, (8, 9, 4), dtype=np.uint16)
    metadata = Metadata(exif.tobytes()[6:], profile)
    path.write_bytes(encode_image(Picture(pixels[..., :3].copy(), pixels[..., 3].copy(), metadata), "png"))
    return path


def test_an_image_file_keeps_what_it_holds(graph: Path, tmp_path: Path) -> None:
    source = photo_file(tmp_path / "photo.png")
    with Upscaler(graph, **SCENE) as upscale:
        assert upscale_image(str(source), tmp_path / "large.png", upscale) == ()
        assert upscale_image(source, tmp_path / "large.tif", upscale) == ()
        assert set(upscale_image(source, tmp_path / "large.webp", upscale)) == {"16-bit depth"}
        expected = upscale.upscale_picture(read_image(source))
    for name in ("large.png", "large.tif"):
        large = read_image(tmp_path / name)
        np.testing.assert_array_equal(large.pixels, expected.pixels)
        np.testing.assert_array_equal(large.alpha, expected.alpha)
        assert large.pixels.dtype == np.uint16
    with Image.open(tmp_path / "large.png") as written:
        assert written.size == (18, 16)
        assert written.getexif()[271] == "Maker"
        assert written.info["icc_profile"] == read_image(source).metadata.icc


def test_an_image_file_without_an_upscaler_goes_through_the_default(tmp_path: Path) -> None:
    source = tmp_path / "photo.jpg"
    source.write_bytes(encode_image(PHOTO, "jpeg"))
    upscale_image(source, tmp_path / "large.png")
    with Upscaler(DEFAULT) as upscale:
        np.testing.assert_array_equal(read_image(tmp_path / "large.png").pixels, upscale(read_image(source).pixels))


def test_files_that_cannot_be_are_refused_before_the_network_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("the network was opened")

    monkeypatch.setattr(image_file, "Upscaler", never)
    source = photo_file(tmp_path / "photo.png")
    other = tmp_path / "other.png"
    other.hardlink_to(source)
    wrong: list[tuple[Any, Any, Any, type[Exception], str]] = [
        (source, tmp_path / "large.gif", None, ImageError, r"cannot write '\.gif'"),
        (source, tmp_path / "no" / "large.png", None, ImageError, "there is no folder"),
        (source, source, None, UsageError, "is the source itself"),
        (source, other, None, UsageError, "is the source itself"),
        (tmp_path / "none.png", tmp_path / "large.png", None, ImageError, r"none\.png: cannot be read"),
        (PHOTO, tmp_path / "large.png", None, UsageError, "^upscale_image: an object of type ndarray is no path"),
        (source, None, None, UsageError, "^upscale_image: None is no path"),
        (source, tmp_path / "large.png", "fast-x2", UsageError, "'fast-x2' is no upscaler; expected an Upscaler"),
    ]
    for given, target, upscaler, kind, says in wrong:
        with pytest.raises(kind, match=says):
            upscale_image(given, target, upscaler)
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png", "other.png"}
