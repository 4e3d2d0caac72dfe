"""The image functions in users' hands, with whatever users give them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sr_deploy import ImageError, Metadata, Picture, UsageError, decode_image, encode_image, read_image, write_image

RANDOM = np.random.default_rng(3)
NO_IMAGES: list[tuple[object, str]] = [
    (None, "None cannot be written.*read_image"),
    ("photo.jpg", r"the path 'photo\.jpg' cannot be written.*read_image"),
    (Path("photo.jpg"), r"the path 'photo\.jpg' cannot be written.*read_image"),
    (b"\x89PNG", "decode_image"),
    ([[1, 2], [3, 4]], r"type list cannot be written.*numpy\.asarray"),
    (Image.new("RGBA", (2, 2)), r"a PIL image cannot be written.*: numpy\.asarray\(image\)$"),
    (Image.new("P", (2, 2)), r"a PIL image.*numpy\.asarray\(image\.convert\(\"RGB\"\)\)$"),
    (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    (np.zeros((4, 0), np.uint8), r"shape \(4, 0\)"),
    (np.zeros((4, 4, 5), np.uint8), r"shape \(4, 4, 5\)"),
    (np.zeros((3, 4, 4, 3), np.uint8), r"shape \(3, 4, 4, 3\)"),
    (np.uint8(3), "type uint8 cannot be written"),
    (np.zeros((4, 4)), "float64.*expected uint8, uint16 or float32"),
    (np.zeros((4, 4, 3), np.int64), "int64"),
    (Picture(np.zeros((4, 4), np.uint8)), r"pixels of shape \(4, 4\)"),
    (Picture(np.zeros((4, 4, 4), np.uint8)), r"pixels of shape \(4, 4, 4\)"),
    (Picture(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)), r"alpha of uint8 \(4, 5\).*uint8 \(4, 4\)"),
    (Picture(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)), "alpha of uint16"),
]


@pytest.mark.parametrize(("image", "says"), NO_IMAGES, ids=[str(number) for number in range(len(NO_IMAGES))])
def test_what_is_no_image_is_refused_with_what_to_give(tmp_path: Path, image: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        encode_image(image, "png")
    with pytest.raises(UsageError, match=says):
        write_image(tmp_path / "out.png", image)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4), (1, 9, 4)])
def test_an_array_comes_back_from_its_bytes(dtype: type, shape: tuple[int, ...]) -> None:
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image = (RANDOM.random(shape) * top).astype(dtype)
    picture = decode_image(encode_image(image, "tiff"))
    planes = image.reshape(*shape[:2], -1)
    colors = planes if planes.shape[2] in (1, 3) else planes[..., :-1]
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to(colors, picture.pixels.shape))
    assert (picture.pixels.dtype, picture.format) == (dtype, "tiff")
    if planes.shape[2] in (2, 4):
        np.testing.assert_array_equal(picture.alpha, planes[..., -1])
    else:
        assert picture.alpha is None


def test_arrays_of_any_layout_are_written_as_they_look(tmp_path: Path) -> None:
    image = RANDOM.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    for view in (image[::-1, ::2], image[..., ::-1], np.asfortranarray(image), image.transpose(1, 0, 2)):
        for name in ("out.png", "out.bmp", "out.tif", "out.webp"):
            assert write_image(str(tmp_path / name), view) == ()
            with Image.open(tmp_path / name) as written:
                np.testing.assert_array_equal(np.asarray(written.convert("RGB")), view)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp", "avif", "bmp", "tiff"])
def test_bytes_and_files_are_the_same(tmp_path: Path, suffix: str) -> None:
    picture = Picture(RANDOM.integers(0, 256, (9, 11, 3), dtype=np.uint8), metadata=Metadata(xmp=b"<x:xmpmeta/>"))
    path = tmp_path / f"out.{suffix}"
    write_image(path, picture)
    for name in (suffix, f".{suffix}", suffix.upper()):
        assert encode_image(picture, name) == path.read_bytes()
    whole, read = decode_image(path.read_bytes()), read_image(str(path))
    np.testing.assert_array_equal(whole.pixels, read.pixels)
    assert whole.metadata == read.metadata
    stripped = decode_image(encode_image(picture, suffix, strip_metadata=True))
    assert stripped.metadata == Metadata()


def test_nan_is_written_as_black() -> None:
    image = np.full((3, 3), 0.5, np.float32)
    image[1, 1] = np.nan
    assert decode_image(encode_image(image, "png")).pixels[1, 1, 0] == 0


@pytest.mark.parametrize("data", [None, "photo.jpg", 5, np.zeros(4, np.uint8)])
def test_only_bytes_are_decoded(data: Any) -> None:
    with pytest.raises(UsageError, match=r"decode_image: an object of type .* read_image takes a path"):
        decode_image(data)


def test_bytes_are_not_changed_and_errors_have_the_name_that_the_caller_gave() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (4, 2)).save(file, "tiff", exif=exif)
    data = bytearray(file.getvalue())
    assert decode_image(memoryview(data)).pixels.shape == (4, 2, 3)
    assert data == file.getvalue()
    with pytest.raises(ImageError, match=r"^upload 7: .*cut off"):
        decode_image(encode_image(np.zeros((9, 9), np.uint8), "png")[:-9], name="upload 7")
    with pytest.raises(ImageError, match=r"^image: the file is empty"):
        decode_image(b"")


@pytest.mark.parametrize("path", [None, 5, b"photo.png", "", "a\0b.png", Image.new("L", (1, 1))])
def test_what_is_no_path_is_refused_by_the_function_that_was_called(path: Any) -> None:
    with pytest.raises(UsageError, match=r"^read_image: .* is no path; expected a str or a pathlib.Path"):
        read_image(path)
    with pytest.raises(UsageError, match=r"^write_image: .* is no path"):
        write_image(path, np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("name", ["gif", "", "jpg2000", None, 5])
def test_unknown_formats_are_refused(name: Any) -> None:
    with pytest.raises(UsageError, match=r"encode_image: no format .* expected one of avif, bmp, jpeg, jpg, png"):
        encode_image(np.zeros((2, 2), np.uint8), name)


@pytest.mark.parametrize("quality", [0, 101, "high", 5.5])
def test_a_quality_out_of_range_is_refused(quality: Any) -> None:
    with pytest.raises(UsageError, match="expected 1 to 100"):
        encode_image(np.zeros((2, 2), np.uint8), "jpeg", quality=quality)


def test_alpha_in_a_jpeg_is_an_error_that_names_the_function() -> None:
    with pytest.raises(ImageError, match=r"^encode_image: a JPEG cannot hold the picture's alpha"):
        encode_image(np.zeros((2, 2, 4), np.uint8), "jpg")


def test_pillow_is_known_by_its_name_alone() -> None:
    """A class that says it is of Pillow, where Pillow cannot be imported."""
    code = """
import sys
sys.modules["PIL"] = None
from sr_deploy import encode_image, UsageError
kind = type("Image", (), {"__module__": "PIL.Image", "mode": "RGB"})
try:
    encode_image(kind(), "png")
except UsageError as exc:
    print(exc)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.startswith("a PIL image cannot be written") and said.endswith("numpy.asarray(image)\n")
