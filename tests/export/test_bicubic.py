"""imresize against files that MATLAB wrote, and against Pillow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sr_deploy.export.bicubic import imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("images", ["Set5", "Set14"])
def test_shrinking_equals_matlab(shared: Path, images: str, scale: int) -> None:
    hr_files = sorted((shared / "images" / images / "HR").glob("*.png"))
    assert hr_files
    for hr_file in hr_files:
        hr = cv2.imread(str(hr_file))
        lr = cv2.imread(str(shared / "images" / images / "LR_bicubic" / f"X{scale}" / f"{hr_file.stem}x{scale}.png"))
        height, width = lr.shape[:2]
        np.testing.assert_array_equal(imresize(hr[: height * scale, : width * scale], height, width), lr)


def test_growing_is_close_to_pillow(picture: np.ndarray) -> None:
    grown = imresize(picture, 480, 720)
    pillow = np.asarray(Image.fromarray(picture).resize((720, 480), Image.Resampling.BICUBIC))
    difference = np.abs(grown.astype(int) - pillow)[8:-8, 8:-8]
    assert difference.max() <= 1


def test_floating_input_is_neither_rounded_nor_clipped() -> None:
    step = np.repeat([[0.0, 1.0]], 8, axis=1).reshape(2, 8).T.copy()
    grown = imresize(step.astype(np.float32), 24, 6)
    assert grown.dtype == np.float32
    assert grown.min() < 0 < 1 < grown.max()


def test_same_size_is_the_same_picture(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(imresize(picture, *picture.shape[:2]), picture)
