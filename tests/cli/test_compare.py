from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result

from sr_deploy.export.probes import probe_picture
from sr_deploy.pictures.image import Picture, write_image
from tests.evaluation.test_comparison import Images

Invoke = Callable[..., Result]


@pytest.fixture
def pair() -> tuple[Path, Path]:
    """small.png, and original.png of twice its size and a pixel more."""
    truth = np.ascontiguousarray(probe_picture()[:49, :65])
    write_image(Path("original.png"), Picture(truth))
    write_image(Path("small.png"), Picture(cv2.resize(truth[:48, :64], (32, 24), interpolation=cv2.INTER_AREA)))
    return Path("small.png"), Path("original.png")


def test_two_pictures(invoke: Invoke, pair: tuple[Path, Path]) -> None:
    Path("compare.html").write_text("an older one")
    result = invoke("compare", *pair)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "compare.html\n", "")
    found = Images(Path("compare.html")).images
    assert [(image["alt"], image["data-note"], image["width"]) for image in found] == [
        ("small.png", "32×24", "32"),
        ("original.png", "65×49", "65"),
    ]


def test_pictures_of_one_name_are_told_apart(invoke: Invoke, pair: tuple[Path, Path]) -> None:
    Path("é [x]").mkdir()
    other = pair[0].rename("é [x]/original.png")
    result = invoke("compare", other, pair[1], "-o", "é [x]/é.html")
    assert result.exit_code == 0, result.stderr
    assert [image["alt"] for image in Images(Path("é [x]/é.html")).images] == ["é [x]/original.png", "original.png"]


def test_one_picture_through_networks(invoke: Invoke, bundle: Path, pair: tuple[Path, Path]) -> None:
    small, original = pair
    arguments = ("compare", small, "-m", bundle, "-m", "fast", "--original", original, "--precision", "fp32", "--json")
    result = invoke(*arguments, "-o", "page.html")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    (scene,) = document["scenes"]
    assert document["page"] == "page.html" and scene["name"] == "small.png"
    assert [(one["label"], one["width"], one["height"]) for one in scene["versions"]] == [
        ("input", 32, 24),
        ("double", 64, 48),
        ("fast_x2", 64, 48),
        ("original", 64, 48),
    ]
    x, y = (
        (image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[2:-2, 2:-2]
        for image in (
            cv2.imread(str(original), cv2.IMREAD_COLOR_RGB)[:48, :64],
            cv2.imread(str(small), cv2.IMREAD_COLOR_RGB).repeat(2, 0).repeat(2, 1),
        )
    )
    assert scene["versions"][1]["psnr_y"] == pytest.approx(cv2.PSNR(x, y, 255.0), abs=0.001)
    assert scene["versions"][2]["psnr_y"] > scene["versions"][1]["psnr_y"]
    assert "without a border of 2 pixels" in Path("page.html").read_text(encoding="utf-8")
    assert result.stderr.splitlines() == ["double on openvino fp32", "fast_x2 on openvino fp32"]


def test_several_pictures_through_networks_of_several_scales(invoke: Invoke, bundle: Path, pair: tuple[Path, Path]) -> None:
    result = invoke("compare", *pair, "-m", bundle, "-m", "fast-x3", "--json")
    assert result.exit_code == 0, result.stderr
    scenes = json.loads(result.stdout)["scenes"]
    assert [scene["name"] for scene in scenes] == ["small.png", "original.png"]
    assert [[one["width"] for one in scene["versions"]] for scene in scenes] == [[32, 64, 96], [65, 130, 195]]


def test_faults(invoke: Invoke, bundle: Path, pair: tuple[Path, Path]) -> None:
    small, original = pair
    write_image(Path("other.png"), Picture(np.zeros((40, 40, 3), np.uint8)))
    Path("bad.png").write_bytes(b"no picture")
    Path("film.mkv").write_bytes(b"no video")
    for arguments, code, message in (
        ((), 2, "Name two pictures or more"),
        ((small,), 2, "Name two pictures or more"),
        ((small, "gone.png"), 1, "error: gone.png: cannot be read"),
        ((small, "film.mkv"), 2, "error: film.mkv: is a video; `sr-deploy upscale --preview 5` shows parts of one"),
        ((small, "bad.png"), 1, "error: bad.png: "),
        ((small, "other.png"), 2, "error: other.png: 40x40 is not small.png in another size, which is 32x24"),
        ((small, "-m", bundle, "--original", "other.png"), 2, "error: original: 40x40 is not small.png in another size"),
        ((small, original, "-o", "page.png"), 2, "error: -o page.png: a comparison is a page"),
        ((small, original, "-o", "no/page.html"), 2, "error: -o no/page.html: there is no folder no"),
        ((small, original, "-m", bundle, "--original", original), 2, "--original is of one picture"),
        ((small, original, "--border", "3"), 2, "--border is for what --original is measured with"),
        ((small, "-m", "fats"), 2, "did you mean 'fast'?"),
    ):
        result = invoke("compare", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), (arguments, result.stderr)
        assert message in result.stderr
        assert not list(Path().glob("*.html"))
