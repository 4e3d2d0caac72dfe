"""Patches of a mask-guided network, as its runtime and its certificate choose, cut and place them.

A patch has a number, counted row by row over the whole image.
"""

from __future__ import annotations

import numpy as np

from sr_deploy.engines.engine import Array

AT_ONCE = 256
"""Patches that a refine network is given at once, at most."""


def best(scores: Array, count: int) -> Array:
    """Numbers of the `count` patches with the highest scores, ascending; the earlier ones win ties, and NaN comes last.

    scores: (1,1,rows,columns).
    """
    order = np.argsort(-scores.ravel(), kind="stable")
    chosen: Array = np.sort(order[:count])
    return chosen


def crops(features: Array, chosen: Array, *, patch: int, padding: int) -> Array:
    """(1,F,H,W) -> (K,F,side,side): the chosen patches with a border of `padding`, which is zero beyond the image."""
    _, channels, height, width = features.shape
    side = patch + 2 * padding
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), features.dtype)
    padded[:, padding : padding + height, padding : padding + width] = features[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::patch, ::patch]
    rows, columns = np.divmod(chosen, width // patch)
    return np.ascontiguousarray(windows[:, rows, columns].swapaxes(0, 1))


def paste(image: Array, pixels: Array, chosen: Array) -> Array:
    """A copy of the image (1,C,sH,sW) with `pixels` (K,C,sP,sP) in place of the chosen patches."""
    _, channels, height, width = image.shape
    side = pixels.shape[-1]
    result = np.array(image)
    tiles = result.reshape(channels, height // side, side, width // side, side)
    rows, columns = np.divmod(chosen, width // side)
    tiles[:, rows, :, columns] = pixels
    return result
