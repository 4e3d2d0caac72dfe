"""Values that stand for nothing, as measured pictures have them: -9999 where a satellite saw no ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_USUAL = np.array([-9999, -99999, -999999, -32768, -32767], np.float32)
_ENDLESS = 1e20
"""Beyond, a float is a marker, such as the largest one there is."""
_FAR = 100
"""How many times their whole range the other values lie above a lowest one that is a marker."""


def without_data(pixels: NDArray[Any], told: float | None) -> NDArray[np.bool_] | None:
    """Where a picture holds no data, (H, W); None where all of it is data.

    pixels: (H, W, C). told: the value that the file names for that. In float pictures NaN, Inf, the usual markers and what lies
    as far below everything else as a marker does stand for nothing too.
    """
    if told is None and pixels.dtype != np.float32:
        return None
    hidden = np.zeros(pixels.shape, np.bool_)
    if told is not None:
        hidden |= pixels == told
    if pixels.dtype == np.float32:
        hidden |= ~(np.abs(pixels) < _ENDLESS) | np.isin(pixels, _USUAL)
        lowest = pixels.min(where=~hidden, initial=np.inf)
        others = ~hidden & (pixels > lowest)
        if lowest < 0 and others.any():
            low, high = float(pixels.min(where=others, initial=np.inf)), float(pixels.max(where=others, initial=-np.inf))
            if high > low and low - float(lowest) > _FAR * max(high - low, 1.0):
                hidden |= pixels == lowest
    found: NDArray[np.bool_] = np.asarray(hidden.any(axis=2))
    return found if found.any() else None


def put_back(large: NDArray[Any], pixels: NDArray[Any], hidden: NDArray[np.bool_]) -> None:
    """Give an upscaled picture the values of `pixels` where these are `hidden`, in place: each pixel becomes a block.

    large: (h, w, C); pixels: (H, W, C); hidden: (H, W).
    """
    rows = np.arange(large.shape[0]) * pixels.shape[0] // large.shape[0]
    columns = np.arange(large.shape[1]) * pixels.shape[1] // large.shape[1]
    for at, row in enumerate(rows):
        if (chosen := hidden[row, columns]).any():
            large[at, chosen] = pixels[row, columns[chosen]]
