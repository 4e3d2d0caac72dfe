"""Color math on arrays: depth, BT.601 luma and chroma, colors under transparent pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sr_deploy.metrics import BT601

_TO_YCBCR = np.array([BT601, [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], dtype=np.float64)
_OFFSET = np.array([16.0, 128.0, 128.0], dtype=np.float64)
_TO_RGB = np.linalg.inv(_TO_YCBCR)


def rgb_to_ycbcr(rgb: NDArray[Any]) -> NDArray[np.float32]:
    """Luma and chroma of BT.601 in limited range, in units where 1.0 is 255.

    rgb: (..., 3), float, [0, 1]. Result: (..., 3), float32, Y in 16/255..235/255, Cb and Cr in 16/255..240/255.
    """
    matrix = (_TO_YCBCR.T / 255).astype(np.float32)
    offset = (_OFFSET / 255).astype(np.float32)
    return np.asarray(rgb, dtype=np.float32) @ matrix + offset


def ycbcr_to_rgb(ycbcr: NDArray[Any]) -> NDArray[np.float32]:
    """The inverse of `rgb_to_ycbcr`, not clipped: colors outside of RGB come out below 0 or above 1.

    ycbcr: (..., 3), float. Result: (..., 3), float32, RGB.
    """
    offset = (_OFFSET / 255).astype(np.float32)
    return (np.asarray(ycbcr, dtype=np.float32) - offset) @ (_TO_RGB.T * 255).astype(np.float32)


def gray_to_luma(gray: NDArray[Any]) -> NDArray[np.float32]:
    """Y of gray pixels: what `rgb_to_ycbcr` gives for R = G = B. Any shape; float, [0, 1]."""
    return np.asarray(gray, dtype=np.float32) * np.float32(219 / 255) + np.float32(16 / 255)


def luma_to_gray(luma: NDArray[Any]) -> NDArray[np.float32]:
    """The inverse of `gray_to_luma`, not clipped."""
    return (np.asarray(luma, dtype=np.float32) - np.float32(16 / 255)) * np.float32(255 / 219)


def to_float(array: NDArray[Any]) -> NDArray[np.float32]:
    """The array as float32, integers scaled to [0, 1]; a float32 array is returned as it is, not copied.

    Raises: TypeError for a dtype other than uint8, uint16 and float32.
    """
    if array.dtype == np.float32:
        return array
    return array * np.float32(1 / _full_scale(array.dtype))


def from_float(array: NDArray[np.float32], dtype: DTypeLike) -> NDArray[Any]:
    """The array in `dtype`: integers are scaled from [0, 1], rounded half up and clipped; float32 passes unclipped.

    NaN becomes 0. Raises: TypeError for a dtype other than uint8, uint16 and float32.
    """
    wanted = np.dtype(dtype)
    if wanted == np.float32:
        return np.asarray(array, dtype=np.float32)
    scale = _full_scale(wanted)
    scaled = array * np.float32(scale) + np.float32(0.5)
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=float(scale), neginf=0.0)
    np.clip(scaled, 0, scale, out=scaled)
    return scaled.astype(wanted)


def _full_scale(dtype: np.dtype[Any]) -> int:
    if dtype not in (np.uint8, np.uint16):
        raise TypeError(f"dtype {dtype} is none of uint8, uint16, float32")
    return int(np.iinfo(dtype).max)


def bleed(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """The pixels with the colors of their visible neighbors under everything that is fully transparent.

    What a file holds under alpha 0 is arbitrary, often black, and a network would draw it into the visible edge. Nothing
    changes where alpha > 0; a picture without any visible pixel is returned as it is.

    pixels: (H, W, C), uint8, uint16 or float32; alpha: (H, W). The result is a new array of the same dtype, unless there is
    nothing to fill.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return pixels
    weight = (~hidden).astype(np.float32)
    levels = [(_halve(pixels * weight[..., None]), _halve(weight[..., None])[..., 0])]
    while not levels[-1][1].all():
        levels.append((_halve(levels[-1][0]), _halve(levels[-1][1][..., None])[..., 0]))
    fill = _mean(*levels[-1])
    for color, weight in reversed(levels[:-1]):
        larger = fill.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        fill = np.where(weight[..., None] > 0, _mean(color, weight), larger)
    if pixels.dtype != np.float32:
        fill = np.clip(np.rint(fill), 0, _full_scale(pixels.dtype))
    result = pixels.copy()
    rows, columns = np.nonzero(hidden)
    result[rows, columns] = fill[rows // 2, columns // 2].astype(pixels.dtype)
    return result


def _halve(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over 2 x 2 pixels, zeros beyond the odd edge."""
    height, width = array.shape[:2]
    padded = np.pad(array, ((0, height % 2), (0, width % 2), (0, 0))) if height % 2 or width % 2 else array
    return padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]


def _mean(color: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(color, np.maximum(weight, np.float32(1))[..., None], dtype=np.float32)
