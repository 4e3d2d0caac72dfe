"""Whether what a network gives is sane, judged by the health that its graph gives beside the pixels.

A network that works hardly moves the mean of |output|; one that overflowed gives NaN, Inf, black or white. The offsets leave
room for dark windows, where noise counts. The kernels read the bounds here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

LOW_SHARE, LOW_OFFSET = 0.5, 0.05
HIGH_SHARE, HIGH_OFFSET = 1.5, 0.25
"""Healthy is LOW_SHARE * brightness - LOW_OFFSET <= health <= HIGH_SHARE * brightness + HIGH_OFFSET, in [0,1]."""


def is_healthy(health: float, brightness: float) -> bool:
    """A super-resolved window is about as bright as its input; NaN and Inf are never healthy.

    health: mean of |output before the clamp|; brightness: mean of the input; both for white of 1.
    """
    return bool(are_healthy(np.float64(health), np.float64(brightness)))


def are_healthy(health: Array | np.float64, brightness: Array | np.float64) -> Array:
    """`is_healthy` of many."""
    low, high = LOW_SHARE * brightness - LOW_OFFSET, HIGH_SHARE * brightness + HIGH_OFFSET
    return np.isfinite(health) & (low <= health) & (health <= high)
