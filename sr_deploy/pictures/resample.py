"""Resizing with an antialiased Lanczos filter, in strips."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_deploy.pictures.color import from_float, to_float

_LOBES = 3
_BAND = 64
_STRIP = 128


def resample(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The array at `size` = (height, width), filtered with Lanczos 3 that widens when shrinking; the same dtype.

    array: (H, W) or (H, W, C), uint8, uint16 or float32. Integers are rounded and clipped; float stays within the range of
    the input, so that no edge rings beyond it.
    """
    height, width = size
    if array.shape[:2] == (height, width):
        return array.copy()
    source = array.reshape(*array.shape[:2], -1)
    channels = source.shape[2]
    result = np.empty((height, width, channels), array.dtype)
    low, high = (array.min(), array.max()) if array.dtype == np.float32 else (0.0, 1.0)
    vertical, horizontal = _weights(source.shape[0], height), _weights(source.shape[1], width)
    for start in range(0, height, _STRIP):
        stop = min(start + _STRIP, height)
        first, matrix = _band(vertical, start, stop)
        rows = to_float(source[first : first + matrix.shape[1]])
        tall = (matrix @ rows.reshape(rows.shape[0], -1)).reshape(stop - start, -1, channels)
        strip = np.empty((stop - start, width, channels), np.float32)
        for left in range(0, width, _BAND):
            right = min(left + _BAND, width)
            begin, band = _band(horizontal, left, right)
            np.matmul(band, tall[:, begin : begin + band.shape[1]], out=strip[:, left:right])
        result[start:stop] = from_float(np.clip(strip, low, high, out=strip), array.dtype)
    return result.reshape(height, width, *array.shape[2:])


def _weights(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For every target pixel its first source pixel, and the weights from there on."""
    ratio = source / target
    stretch = max(ratio, 1.0)
    reach = _LOBES * stretch
    center = (np.arange(target) + 0.5) * ratio
    first = np.maximum(0, np.floor(center - reach + 0.5)).astype(np.int64)
    taps = min(source, int(np.ceil(2 * reach)) + 1)
    first = np.minimum(first, source - taps)
    distance = (first[:, None] + np.arange(taps) + 0.5 - center[:, None]) / stretch
    weights = np.sinc(distance) * np.sinc(distance / _LOBES) * (np.abs(distance) < _LOBES)
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _band(weights: tuple[NDArray[np.int64], NDArray[np.float32]], start: int, stop: int) -> tuple[int, NDArray[np.float32]]:
    """The first source pixel that targets start..stop need, and their weights as a dense matrix."""
    first, values = weights[0][start:stop], weights[1][start:stop]
    base, taps = int(first[0]), values.shape[1]
    matrix = np.zeros((stop - start, int(first[-1]) - base + taps), np.float32)
    np.put_along_axis(matrix, (first - base)[:, None] + np.arange(taps), values, axis=1)
    return base, matrix
