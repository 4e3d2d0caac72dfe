"""imresize against files that MATLAB wrote, and against Pillow."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sr_deploy.bicubic import imresize
from sr_deploy.export.probes import probe_picture


@pytest.fixture
def picture() -> np.ndarray:
    return probe_picture()


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


@pytest.mark.parametrize("size", [(480, 720), (80, 60), (240, 97)])
def test_floating_equals_pillow_inside(picture: np.ndarray, size: tuple[int, int]) -> None:
    gray = picture.mean(axis=2).astype(np.float32)
    pillow = np.asarray(Image.fromarray(gray).resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(imresize(gray, *size)[16:-16, 16:-16], pillow[16:-16, 16:-16], atol=0.01)


def test_floating_input_is_neither_rounded_nor_clipped() -> None:
    step = np.repeat([[0.0, 1.0]], 8, axis=1).reshape(2, 8).T.copy()
    grown = imresize(step.astype(np.float32), 24, 6)
    assert grown.dtype == np.float32
    assert grown.min() < 0 < 1 < grown.max()


def test_same_size_is_the_same_picture(picture: np.ndarray) -> None:
    np.testing.assert_array_equal(imresize(picture, *picture.shape[:2]), picture)
