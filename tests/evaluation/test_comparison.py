from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy import ImageError, UsageError
from sr_deploy.evaluation.comparison import (
    LARGEST_GALLERY,
    Gallery,
    Scene,
    check_page,
    scene_of,
    version_of,
    write_comparison,
)
from sr_deploy.evaluation.evaluate import Pair, Score
from sr_deploy.export.probes import probe_picture
from sr_deploy.pictures.picture import Metadata, Picture

BT601 = np.array([65.481, 128.553, 24.966]) / 255


class Images(HTMLParser):
    """All tags with their attributes, and the pictures in them."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def decoded(data: bytes) -> NDArray[np.uint8]:
    """As OpenCV reads it: RGB or RGBA."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(image[..., [2, 1, 0, 3][: image.shape[2]]])


def picture(height: int, width: int) -> Picture:
    return Picture(np.ascontiguousarray(probe_picture()[:height, :width]))


def test_the_page_holds_the_pictures_and_asks_nobody(tmp_path: Path) -> None:
    small, large = picture(20, 30), picture(40, 60)
    page = tmp_path / "é [x] '<b>'.html"
    scene = scene_of('<i>"one"</i>', [("a & b.png", small), ("<large>", large)])
    write_comparison(page, "</title><script>", [scene, Scene("another", scene.versions)], lead="<b>")
    found = Images(page)
    assert [image["alt"] for image in found.images] == ["a & b.png", "<large>"] * 2
    for image, wanted in zip(found.images, [small, large] * 2, strict=True):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert np.array_equal(decoded(base64.b64decode(data)), wanted.pixels)
        assert (image["height"], image["width"]) == tuple(map(str, wanted.pixels.shape[:2]))
    figures = [attributes for tag, attributes in found.tags if tag == "figure"]
    assert [figure["data-name"] for figure in figures] == ['<i>"one"</i>', "another"]
    assert [tag for tag, _ in found.tags].count("script") == 1 and not {"b", "i"} & {tag for tag, _ in found.tags}
    addresses = [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(str(value).startswith("data:") for value in addresses)
    assert not re.search(r"https?://|@import|url\(", page.read_text(encoding="utf-8"))


def test_scores_are_those_of_another_program() -> None:
    truth = picture(64, 80)
    noisy = np.clip(truth.pixels.astype(int) + np.random.default_rng(1).integers(-9, 9, truth.pixels.shape), 0, 255)
    scene = scene_of("x", [("small", picture(16, 20)), ("noisy", Picture(noisy.astype(np.uint8)))], ("original", truth))
    small, measured, original = scene.versions
    x, y = ((image.astype(float) @ BT601 + 16)[4:-4, 4:-4] for image in (truth.pixels, noisy))
    assert scene.border == 4
    assert measured.psnr_y == pytest.approx(cv2.PSNR(x, y, 255.0), abs=1e-9)
    assert measured.ssim_y is not None and 0.5 < measured.ssim_y < 1
    assert (small.psnr_y, small.ssim_y, small.note, original.psnr_y) == (None, None, "", None)
    assert measured.note == f"{measured.psnr_y:.2f} dB, SSIM {measured.ssim_y:.4f}"
    assert scene_of("x", [("noisy", Picture(noisy.astype(np.uint8)))], ("original", truth)).border == 0
    alike = scene_of("x", [("same", truth)], ("original", truth), border=7)
    assert (alike.border, alike.versions[0].note) == (7, "equal, SSIM 1.0000")


def test_an_original_is_cropped_as_the_field_does_it() -> None:
    truth = Picture(np.ascontiguousarray(probe_picture()[:43, :62]), np.full((43, 62), 255, np.uint8))
    scene = scene_of("x", [("LR", picture(10, 15)), ("SR", picture(40, 60))], ("original", truth))
    assert (scene.versions[2].width, scene.versions[2].height) == (60, 40)
    assert scene.versions[1].note == "equal, SSIM 1.0000"
    beside = scene_of("x", [("SR", picture(40, 60))], ("original", picture(41, 61)))
    assert beside.versions[0].psnr_y is None and (beside.versions[1].width, beside.versions[1].height) == (61, 41)


def test_images_too_small_to_be_measured_are_shown() -> None:
    scene = scene_of("x", [("SR", picture(8, 8))], ("original", picture(8, 8)), border=0)
    assert scene.versions[0].note == "equal"
    assert scene_of("x", [("SR", picture(8, 8))], ("original", picture(8, 8)), border=4).versions[0].note == ""


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_every_depth_are_shown_in_eight_bits(dtype: type) -> None:
    top = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    gray = (np.linspace(0, 1, 48).reshape(6, 8, 1) * top).astype(dtype)
    alpha = (np.linspace(1, 0, 48).reshape(6, 8) * top).astype(dtype)
    shown = version_of("x", Picture(gray, alpha, Metadata(exif=b"II*\0private", xmp=b"<x>private</x>")))
    image = decoded(shown.png)
    assert image.dtype == np.uint8 and image.shape[2] == 4
    assert np.abs(image[..., 0] - np.round(gray[..., 0] / top * 255)).max() <= 1
    assert np.abs(image[..., 3] - np.round(alpha / top * 255)).max() <= 1
    assert b"private" not in shown.png


def test_a_color_profile_stays() -> None:
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    shown = version_of("x", Picture(picture(8, 8).pixels, metadata=Metadata(icc=profile)))
    import io

    assert Image.open(io.BytesIO(shown.png)).info["icc_profile"] == profile


@pytest.mark.parametrize(
    ("sizes", "good"),
    [
        ([(20, 30), (40, 60)], True),
        ([(20, 30), (41, 61)], True),
        ([(40, 60), (20, 30), (81, 119)], True),
        ([(20, 30), (43, 60)], False),
        ([(20, 30), (30, 20)], False),
        ([(1, 1), (4, 4)], True),
        ([(400, 600), (400, 603)], False),
    ],
)
def test_pictures_of_one_scene_are_in_one_proportion(sizes: list[tuple[int, int]], good: bool) -> None:
    images = [(f"{number}.png", Picture(np.zeros((*size, 3), np.uint8))) for number, size in enumerate(sizes)]
    if good:
        assert len(scene_of("x", images).versions) == len(sizes)
        return
    with pytest.raises(UsageError, match=r"1.png: \d+x\d+ is not 0.png in another size, which is \d+x\d+; expected"):
        scene_of("x", images)


def test_a_gallery_has_the_first_images_of_every_network_and_scale() -> None:
    gallery = Gallery()
    score = Score("x", 30.125, 0.75, 0.1)
    for label, scale in (("one", 2), ("two", 2), ("three", 4)):
        for number in range(LARGEST_GALLERY // 2 + 3):
            hr = picture(16, 16).pixels
            gallery.of(label)(Pair(f"p{number}", hr, hr[::scale, ::scale].copy()), hr, score)
    scenes = gallery.scenes()
    assert len(scenes) == LARGEST_GALLERY and gallery.left_out == 6
    assert scenes[0].name == "p0, x2" and scenes[-1].name == "p6, x4"
    assert [one.label for one in scenes[0].versions] == ["LR", "one", "two", "HR"]
    assert scenes[0].versions[1].note == "30.12 dB, SSIM 0.7500"
    assert [one.label for one in scenes[-1].versions] == ["LR", "three", "HR"]


def test_pages_that_cannot_be_written(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "a.png", "expected a name that ends in .html"),
        (tmp_path / "no" / "a.html", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            check_page(path, "-o")
    check_page(tmp_path / "A.HTML", "-o")
    folder = tmp_path / "folder.html"
    folder.mkdir()
    with pytest.raises(UsageError, match="name a file"):
        check_page(folder, "-o")
    with pytest.raises(ImageError, match="cannot be written"):
        write_comparison(folder, "x", [], lead="")
    assert list(tmp_path.iterdir()) == [folder]
