"""An Upscaler in users' hands, with whatever users give it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sr_deploy import (
    MaskedUpscaler,
    Picture,
    Upscaler,
    UsageError,
    open_bundle,
)
from sr_deploy.models import DEFAULT
from tests.graphs import image_graph, save

RANDOM = np.random.default_rng(9)
PHOTO = RANDOM.integers(60, 200, (12, 15, 3), dtype=np.uint8)
SCENE = {"backend": "onnxruntime", "precision": "fp32"}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save(image_graph(scale=2), tmp_path, "net.onnx")


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (None, r"None cannot be upscaled.*read_image\(path\)\.pixels"),
        ("photo.jpg", r"the path 'photo\.jpg'.*read_image\(path\)\.pixels.*upscale_image"),
        (Path("photo.jpg"), r"the path 'photo\.jpg'.*read_image"),
        (b"\xff\xd8", r"type bytes.*decode_image\(data\)\.pixels"),
        (Image.new("L", (3, 2)), r"a PIL image cannot be upscaled.*: numpy\.asarray\(image\)$"),
        (Image.new("CMYK", (3, 2)), r"a PIL image.*numpy\.asarray\(image\.convert\(\"RGB\"\)\)$"),
        (Picture(PHOTO), "a Picture cannot be upscaled.*upscale_picture"),
        (PHOTO.tolist(), r"type list.*numpy\.asarray"),
        (np.float32(1), "type float32"),
        (np.zeros((0, 0, 3), np.uint8), r"shape \(0, 0, 3\)"),
        (np.zeros((5, 0), np.uint8), r"shape \(5, 0\)"),
        (np.zeros((2, 5, 5, 3), np.uint8), r"shape \(2, 5, 5, 3\)"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\)"),
        (np.zeros((5, 5), np.int32), "int32"),
        (np.zeros((5, 5, 3), bool), "bool"),
        (np.full((5, 5, 3), np.nan, np.float32), "NaN or Inf"),
        (np.full((5, 5, 2), np.inf, np.float32), "NaN or Inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_with_what_to_give(graph: Path, image: Any, says: str) -> None:
    with Upscaler(graph, **SCENE) as upscale, pytest.raises(UsageError, match=says):
        upscale(image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 4), (4, 6, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_smallest_images_and_alpha_of_every_depth(graph: Path, shape: tuple[int, ...], dtype: type) -> None:
    image = (RANDOM.uniform(0.3, 0.7, shape) * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    with Upscaler(graph, **SCENE) as upscale:
        large = upscale(image)
    assert (large.shape, large.dtype) == ((shape[0] * 2, shape[1] * 2, *shape[2:]), dtype)


@pytest.mark.parametrize("picture", [None, "photo.png", Picture(np.zeros((4, 4), np.uint8))])
def test_upscale_picture_takes_pictures(graph: Path, picture: Any) -> None:
    with Upscaler(graph, **SCENE) as upscale, pytest.raises(UsageError, match="cannot be upscaled; expected"):
        upscale.upscale_picture(picture)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "fp8"}, "precision 'fp8' is unknown; expected one of 'auto', 'fp32', 'bf16', 'fp16'"),
        ({"precision": None}, "precision None is unknown"),
        ({"on_failure": "ignore"}, "on_failure 'ignore' is unknown; expected one of 'raise', 'bicubic'"),
        ({"backend": "directml"}, "no backend 'directml'; there are: auto, openvino"),
        ({"backend": None}, "no backend 'None'; there are: auto"),
        ({"tile": "large"}, r"tile 'large' is no side of a tile; use 0 \(whole image\), 'auto', or 32 and more"),
        ({"tile": True}, "tile True is no side"),
        ({"tile": 64.5}, r"tile 64\.5 is no side"),
        ({"tile": 31}, "a tile of 31 pixels is too small; use 0"),
        ({"tile": -64}, "a tile of -64 pixels is too small"),
        ({"memory": 0}, "memory of 0 is too little"),
        ({"threads": 0}, "threads of 0 is too little"),
    ],
    ids=str,
)
def test_options_are_checked_at_construction(graph: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Upscaler(graph, **options)
    with pytest.raises(UsageError, match=says):
        MaskedUpscaler(base=graph, refine=graph, budget=0.5, **options)


@pytest.mark.parametrize("tile", [0, 32, np.int64(40), "auto"])
def test_tiles_that_there_are_are_taken(graph: Path, tile: Any) -> None:
    with Upscaler(graph, tile=tile, **SCENE) as upscale:
        assert upscale(PHOTO).shape == (24, 30, 3)


@pytest.mark.parametrize("model", [None, 4, PHOTO])
def test_what_is_no_bundle_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="is no bundle; expected the folder of one"):
        Upscaler(model)


def test_a_mask_guided_network_takes_no_tile(graph: Path) -> None:
    with pytest.raises(UsageError, match="takes images whole; leave out tile"):
        MaskedUpscaler(graph, k=3, tile=64)


def test_heat_is_of_an_image(graph: Path) -> None:
    path: Any = "a.png"
    with MaskedUpscaler(base=graph, refine=graph, budget=0.5, **SCENE) as pair, pytest.raises(UsageError, match="the path"):
        pair.heat(path)


def test_without_arguments_it_is_the_default_of_the_box() -> None:
    with Upscaler() as upscale, Upscaler(DEFAULT) as named:
        assert upscale.bundle.folder == named.bundle.folder
        assert upscale.scale == 4


def test_a_closed_upscaler_refuses(graph: Path) -> None:
    picture = Picture(PHOTO)
    for upscale in (Upscaler(graph, **SCENE), MaskedUpscaler(base=graph, refine=graph, budget=1, **SCENE)):
        with upscale:
            upscale(PHOTO)
        upscale.close()
        for call in (lambda upscale=upscale: upscale(PHOTO), lambda upscale=upscale: upscale.upscale_picture(picture)):
            with pytest.raises(UsageError, match=r"^this Upscaler of net is closed; open a new one$"):
                call()


def test_what_they_are_is_in_one_line(graph: Path) -> None:
    with Upscaler(graph, **SCENE) as upscale, MaskedUpscaler(base=graph, refine=graph, budget=0.5, **SCENE) as pair:
        assert repr(upscale) == "<Upscaler net on onnxruntime fp32>"
        assert repr(pair) == (
            "<MaskedUpscaler net on onnxruntime fp32, refined by net on onnxruntime fp32 within 50% of its time>"
        )
    assert repr(open_bundle(graph)) == f"<Bundle net: foreign x2, RGB, fp32, in {graph.parent}>"


def test_an_unknown_network_is_told() -> None:
    with pytest.raises(UsageError, match="no network of that name"):
        Upscaler("no-such-network")


def test_pillow_is_known_by_its_name_alone() -> None:
    """A class that says it is of Pillow, where Pillow cannot be imported."""
    code = """
import sys
sys.modules["PIL"] = None
from sr_deploy import UsageError, Upscaler
kind = type("Image", (), {"__module__": "PIL.Image", "mode": "P"})
with Upscaler(backend="openvino") as upscale:
    try:
        upscale(kind())
    except UsageError as exc:
        print(exc)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.startswith("a PIL image cannot be upscaled") and said.endswith('numpy.asarray(image.convert("RGB"))\n')
