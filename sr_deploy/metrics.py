"""PSNR and SSIM of the luma, as the field computes them."""

from __future__ import annotations

import math

import numpy as np

from sr_deploy.arrays import Array

BT601 = (65.481, 128.553, 24.966)
"""What R, G and B of 1 add to Y of BT.601 in limited range, as MATLAB's rgb2ycbcr and with it all papers have it."""

SSIM_WINDOW = 11
"""Pixels that a side has at least where SSIM is measured."""
_SSIM_SIGMA = 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(rgb: Array) -> Array:
    """Y of BT.601 in limited range, 16 to 235, unrounded: (H, W, 3) in 0..255 -> (H, W) float64."""
    return np.asarray(16 + rgb.astype(np.float64) @ np.array(BT601) / 255)


def psnr_y(hr: Array, image: Array, *, border: int) -> float:
    """PSNR of Y (BT.601, limited range) in dB without a border; `hr` and `image` RGB or already Y."""
    difference = _inner(hr, border) - _inner(image, border)
    error = float(np.mean(difference**2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim_y(hr: Array, image: Array, *, border: int) -> float:
    """Mean SSIM of Y without a border, over all windows that lie inside; `hr` and `image` RGB or already Y, 11 pixels or more.

    Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004.
    """
    x, y = _inner(hr, border), _inner(image, border)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x = _blurred(x * x) - mean_x**2
    variance_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x**2 + mean_y**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
    return float(np.mean(luminance * structure))


def _inner(image: Array, border: int) -> Array:
    y = image.astype(np.float64) if image.ndim == 2 else luma(image)
    return y[border : y.shape[0] - border, border : y.shape[1] - border]


def _blurred(image: Array) -> Array:
    """Gaussian means over the windows that lie inside."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    weights /= weights.sum()
    height, width = (size - SSIM_WINDOW + 1 for size in image.shape)
    rows = sum(weight * image[at : at + height] for at, weight in enumerate(weights))
    return np.asarray(sum(weight * rows[:, at : at + width] for at, weight in enumerate(weights)))
