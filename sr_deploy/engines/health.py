"""Whether what a network gives is sane, judged by the health that its graph gives beside the pixels."""

from __future__ import annotations

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.health import HIGH_OFFSET, HIGH_SHARE, LOW_OFFSET, LOW_SHARE


def is_healthy(health: float, brightness: float) -> bool:
    """A super-resolved window is about as bright as its input; NaN and Inf are never healthy.

    health: mean of |output before the clamp|; brightness: mean of the input; both for white of 1.
    """
    return bool(are_healthy(np.float64(health), np.float64(brightness)))


def are_healthy(health: Array | np.float64, brightness: Array | np.float64) -> Array:
    """`is_healthy` of many."""
    low, high = LOW_SHARE * brightness - LOW_OFFSET, HIGH_SHARE * brightness + HIGH_OFFSET
    return np.isfinite(health) & (low <= health) & (health <= high)
