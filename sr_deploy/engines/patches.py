"""Patches of a mask-guided network, as its runtime and its certificate choose, cut and place them.

A patch has a number, counted row by row over the whole image.
"""

from __future__ import annotations

import numpy as np

from sr_deploy.arrays import Array


def best(scores: Array, count: int) -> Array:
    """Numbers of the `count` patches with the highest scores, ascending; the earlier ones win ties, and NaN is never chosen.

    scores: one per patch, row by row, of any shape.
    """
    flat = scores.ravel()
    numbers = np.flatnonzero(~np.isnan(flat))
    valid, count = flat[numbers], min(count, len(numbers))
    if count == 0:
        return numbers[:0]
    least = np.partition(valid, valid.size - count)[valid.size - count]
    chosen = valid > least
    chosen[np.flatnonzero(valid == least)[: count - int(chosen.sum())]] = True
    return np.asarray(numbers[chosen])


def crops(features: Array, chosen: Array, *, patch: int, padding: int) -> Array:
    """(1,F,H,W) -> (K,F,side,side): the chosen patches with a border of `padding`, which is zero beyond the image."""
    _, channels, height, width = features.shape
    side = patch + 2 * padding
    result = np.zeros((len(chosen), channels, side, side), features.dtype)
    rows, columns = np.divmod(chosen, width // patch)
    tops, lefts = rows * patch - padding, columns * patch - padding
    inner = (tops >= 0) & (lefts >= 0) & (tops + side <= height) & (lefts + side <= width)
    if inner.any():
        windows = np.lib.stride_tricks.sliding_window_view(features[0], (side, side), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
        result[inner] = windows[tops[inner], lefts[inner]]
    for number in np.flatnonzero(~inner).tolist():
        (y, down), (x, across) = _span(int(tops[number]), side, height), _span(int(lefts[number]), side, width)
        result[number][:, y, x] = features[0][:, down, across]
    return result


def paste(image: Array, pixels: Array, chosen: Array) -> Array:
    """A copy of the image (1,C,sH,sW) with `pixels` (K,C,sP,sP) in place of the chosen patches."""
    _, channels, height, width = image.shape
    side = pixels.shape[-1]
    result = np.array(image)
    tiles = result.reshape(channels, height // side, side, width // side, side)
    rows, columns = np.divmod(chosen, width // side)
    tiles[:, rows, :, columns] = pixels
    return result


def _span(start: int, side: int, length: int) -> tuple[slice, slice]:
    """Where a window that begins at `start` overlaps 0..length: in the window, and in what it is a window of."""
    first, last = max(start, 0), min(start + side, length)
    return slice(first - start, last - start), slice(first, last)
