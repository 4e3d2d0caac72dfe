"""PSNR and SSIM of Y against OpenCV."""

import cv2
import numpy as np
import pytest

from sr_deploy.export.probes import probe_picture
from sr_deploy.metrics import luma, psnr_y, ssim_y


@pytest.fixture
def picture() -> np.ndarray:
    return probe_picture()


@pytest.fixture
def worse(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 1.2)


def test_luma_is_opencv_bt601(picture: np.ndarray) -> None:
    expected = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY) * 219 + 16
    np.testing.assert_allclose(luma(picture), expected, atol=0.05)


def test_psnr_of_a_known_error() -> None:
    gray = np.full((40, 40, 3), 100, np.uint8)
    assert psnr_y(gray, gray, border=4) == float("inf")
    shifted = gray.copy()
    shifted[20, 20] = 255
    found = psnr_y(gray, shifted, border=4)
    error = (155 * 219 / 255) ** 2 / 32**2
    assert found == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)


@pytest.mark.parametrize("border", [0, 3])
def test_psnr_is_opencv(picture: np.ndarray, worse: np.ndarray, border: int) -> None:
    inner = slice(border, 240 - border)
    expected = cv2.PSNR(luma(picture)[inner, inner], luma(worse)[inner, inner], 255.0)
    assert psnr_y(picture, worse, border=border) == pytest.approx(expected, abs=1e-6)
    assert psnr_y(luma(picture), luma(worse), border=border) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("border", [0, 4])
def test_ssim_is_what_opencv_filters_give(picture: np.ndarray, worse: np.ndarray, border: int) -> None:
    inner = slice(border, 240 - border)
    x, y = luma(picture)[inner, inner], luma(worse)[inner, inner]

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    c1, c2 = 6.5025, 58.5225
    top = (2 * mean(x) * mean(y) + c1) * (2 * (mean(x * y) - mean(x) * mean(y)) + c2)
    bottom = (mean(x) ** 2 + mean(y) ** 2 + c1) * (mean(x * x) - mean(x) ** 2 + mean(y * y) - mean(y) ** 2 + c2)
    assert ssim_y(picture, worse, border=border) == pytest.approx((top / bottom).mean(), abs=1e-9)
    assert ssim_y(picture, picture, border=border) == pytest.approx(1.0)
