"""Which of two networks restores which block of an image, so that what is gained within a time is largest.

Blocks are of two sizes: a large one holds 2 x 2 small ones. Large blocks cost less per pixel, since each is seen with a border
around it; small ones fit better around what needs refining. Either the base network restores the whole image at once, and
blocks are refined on top; or each large block is refined, or restored by the base network with some of its small blocks
refined on top, or left to the four, each restored by one of the networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sr_deploy.arrays import Array

_STEPS = 14
_HIGHEST = 1e30


@dataclass(frozen=True)
class Costs:
    """Seconds: of the base network for the `whole` image, of both networks for a (large, small) block."""

    whole: float
    base: tuple[float, float]
    refine: tuple[float, float]


@dataclass(frozen=True)
class Selection:
    """What the base network restores, the `whole` image or blocks, and what the refine network does.

    base, refine: masks of the (large, small) blocks, (rows, columns) and (2 rows, 2 columns) bool.
    """

    whole: bool
    base: tuple[Array, Array]
    refine: tuple[Array, Array]

    @property
    def refined(self) -> Array:
        """Which of the small blocks end up refined."""
        large, small = self.refine
        return np.asarray(_parts(large) | small)

    def seconds(self, costs: Costs) -> float:
        blocks = zip((*self.base, *self.refine), (*costs.base, *costs.refine), strict=True)
        return self.whole * costs.whole + sum(float(mask.sum()) * seconds for mask, seconds in blocks)


def select(gains: Array, costs: Costs, seconds: float) -> Selection:
    """What gains most within `seconds`; nothing is refined when the base network alone takes longer.

    gains: (2 rows, 2 columns) float, not negative: what refining each of the small blocks is worth, in any unit.
    """
    found = [_within(gains, costs, seconds, whole=whole) for whole in (True, False)]
    fitting = [_filled(selection, gains, costs, seconds) for selection in found if selection.seconds(costs) <= seconds]
    if not fitting:
        return min(found, key=lambda selection: selection.seconds(costs))
    return max(fitting, key=lambda selection: float(gains[selection.refined].sum()))


def _within(gains: Array, costs: Costs, seconds: float, *, whole: bool) -> Selection:
    """The best for the lowest price of a second that keeps the time; the least there is when no price does."""
    unit = max(float(gains.mean()), 1e-30) / costs.refine[1]
    best = _at_price(gains, costs, _HIGHEST, whole=whole)
    low, high = -14.0, 14.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = _at_price(gains, costs, unit * 2.0**middle, whole=whole)
        if found.seconds(costs) <= seconds:
            best, high = found, middle
        else:
            low = middle
    return best


def _at_price(gains: Array, costs: Costs, price: float, *, whole: bool) -> Selection:
    """The largest sum of gains, less `price` for each second."""
    base, small_base = (price * seconds for seconds in costs.base)
    refined = _sums(gains) - price * costs.refine[0]
    small_refined = gains - price * costs.refine[1]
    on_top = _sums(np.maximum(small_refined, 0.0))
    if whole:
        at_once = refined > on_top
        nothing = np.zeros_like(at_once), np.zeros(gains.shape, bool)
        return Selection(True, nothing, (at_once, (small_refined > 0) & ~_parts(at_once)))
    apart = _sums(np.maximum(small_refined, -small_base))
    at_once = (refined >= on_top - base) & (refined >= apart)
    restored = (on_top - base >= apart) & ~at_once
    divided = ~at_once & ~restored
    small = (_parts(restored) & (small_refined > 0)) | (_parts(divided) & (small_refined >= -small_base))
    return Selection(False, (restored, _parts(divided) & ~small), (at_once, small))


def _filled(selection: Selection, gains: Array, costs: Costs, seconds: float) -> Selection:
    """What is left of the time goes to the best of the small blocks that are not refined."""
    rest = seconds - selection.seconds(costs)
    candidates = np.where(selection.refined, 0.0, gains).ravel()
    count = min(int(rest / costs.refine[1]), int((candidates > 0).sum()))
    more = np.zeros(gains.size, bool)
    more[np.argsort(-candidates, kind="stable")[:count]] = True
    large, small = selection.refine
    return replace(selection, refine=(large, small | more.reshape(gains.shape)))


def _sums(values: Array) -> Array:
    """Sum of the four small blocks of each large one."""
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3)))


def _parts(mask: Array) -> Array:
    """The four small blocks of each large one."""
    return mask.repeat(2, axis=0).repeat(2, axis=1)
