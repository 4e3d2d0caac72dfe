"""Bicubic resizing with antialiasing, as MATLAB's imresize does it: the degradation that SR networks are trained on."""

from __future__ import annotations

import math

import numpy as np

from sr_deploy.arrays import Array

_BAND = 32


def imresize(image: Array, height: int, width: int) -> Array:
    """Resize `image` to `height` x `width`.

    (H, W) or (H, W, C), uint8 or floating; the result has the dtype of the input. Like MATLAB's: shrinking widens the kernel by
    the factor (antialiasing), borders are mirrored, the axis that shrinks most comes first, and uint8 is rounded half up and
    clipped after each of the two axes.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5.
    """
    result = image
    for axis, size in sorted(((0, height), (1, width)), key=lambda pair: pair[1] / image.shape[pair[0]]):
        resized = np.moveaxis(_resized_rows(np.moveaxis(result, axis, 0), size), 0, axis)
        if image.dtype == np.uint8:
            resized = np.clip(np.floor(resized + 0.5), 0, 255)
        result = resized.astype(image.dtype)
    return np.ascontiguousarray(result)


def _resized_rows(image: Array, target: int) -> Array:
    """`target` rows in float64, made in bands, since a row depends on a few rows of the image only."""
    weights = _weights(image.shape[0], target)
    resized = np.empty((target, *image.shape[1:]))
    for first in range(0, target, _BAND):
        band = weights[first : first + _BAND]
        used = np.flatnonzero(band.any(axis=0))
        rows = slice(used[0], used[-1] + 1)
        resized[first : first + _BAND] = np.tensordot(band[:, rows], image[rows].astype(np.float64), axes=1)
    return resized


def _weights(size: int, target: int) -> Array:
    """(target, size) matrix of one axis; every row sums to 1."""
    scale = target / size
    stretch = min(scale, 1.0)
    taps = math.ceil(4 / stretch) + 2
    centers = (np.arange(target) + 0.5) / scale - 0.5
    positions = np.floor(centers - 2 / stretch)[:, None] + np.arange(taps)[None, :]
    values = stretch * _cubic((centers[:, None] - positions) * stretch)
    values /= values.sum(axis=1, keepdims=True)
    mirrored = np.mod(positions, 2 * size).astype(np.int64)
    mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    weights = np.zeros((target, size))
    np.add.at(weights, (np.repeat(np.arange(target), taps), mirrored.ravel()), values.ravel())
    return weights


def _cubic(x: Array) -> Array:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
