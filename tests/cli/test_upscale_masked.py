from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from sr_deploy.pictures.image import Picture, read_image, write_image
from tests.graphs import image_graph, save
from tests.upscaling.gpu.test_frames import photo

Invoke = Callable[..., Result]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "é 漢字.png"
    write_image(path, Picture(photo(90, 70)))
    return path


def test_a_pair_writes_the_picture_and_what_comes_first(invoke: Invoke, tmp_path: Path, picture: Path) -> None:
    base = save(image_graph(scale=2), tmp_path, "base.onnx")
    refine = save(image_graph(scale=2, depth=4), tmp_path, "refine.onnx")
    out, masks = tmp_path / "out.png", tmp_path / "masks"
    pair = ["--base", base, "--refine", refine, "--budget", "60%"]
    result = invoke("upscale", picture, *pair, "--mask-out", masks, "-o", out, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["network"] == "refine" and 0 <= document["refined"] <= 1
    assert read_image(out).pixels.shape == (180, 140, 3)
    heat = read_image(masks / picture.name).pixels
    assert heat.shape == (180, 140, 1) and np.ptp(heat) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "fast"], "A pair is --base and --refine"),
        (["--budget", "much"], "no share"),
        (["-k", "few"], "neither a number of patches"),
    ],
)
def test_options_that_do_not_go_together_are_refused(invoke: Invoke, picture: Path, arguments: list[str], message: str) -> None:
    result = invoke("upscale", picture, *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_a_plain_network_has_no_patches_to_choose(invoke: Invoke, tmp_path: Path, picture: Path) -> None:
    result = invoke("upscale", picture, "-m", save(image_graph(), tmp_path, "plain.onnx"), "-k", "20%")
    assert result.exit_code == 2 and "no mask-guided network" in result.stderr
