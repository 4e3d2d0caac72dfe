"""The demo's picture, and the picture of before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from sr_deploy.pictures.image import Picture, file_lost_much, read_image, write_image

ROOT = Path(__file__).parents[2]


def test_the_picture_is_small_and_plain() -> None:
    path = ROOT / "docs" / "demo.png"
    picture = read_image(path)
    assert path.stat().st_size < 150_000
    assert (picture.pixels.shape, picture.pixels.dtype, picture.alpha) == ((192, 304, 3), np.uint8, None)
    small = path.with_suffix(".jpg")
    assert small.stat().st_size < 20_000 and file_lost_much(small)
    assert read_image(small).pixels.shape == (192, 304, 3)


def test_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", Picture(np.full((10, 12, 3), (200, 30, 60), np.uint8)))
    write_image(tmp_path / "large.png", Picture(np.full((40, 48, 3), (20, 130, 160), np.uint8)))
    output = tmp_path / "é [x].png"
    script = ROOT / "benchmarks" / "draw_before_after.py"
    subprocess.run(
        [sys.executable, script, tmp_path / "small.png", tmp_path / "large.png", output], check=True, capture_output=True
    )
    pixels = read_image(output).pixels
    assert pixels.shape == (40 + 50, 2 * (48 + 12), 3)
    assert (pixels[6:46, 6:54] == (200, 30, 60)).all() and (pixels[6:46, 66:114] == (20, 130, 160)).all()
