"""Which of two networks restores which block of an image, so that what is gained within a time is largest.

Blocks are squares of LR pixels, of a few sizes: each holds four of the next smaller size. A block is refined as a whole, or
restored by the base network as a whole with some of the smaller blocks in it refined as well, or left to its four parts. Large
blocks cost less per pixel, since each is seen with a border around it; small ones fit better around what needs refining.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sr_deploy.engines.engine import Array

_STEPS = 24
_HIGHEST = 1e30


@dataclass(frozen=True)
class Costs:
    """Seconds that a block takes in each network, by its size, the smallest first."""

    base: tuple[float, ...]
    refine: tuple[float, ...]


@dataclass(frozen=True)
class Selection:
    """By size, the smallest first: (rows, columns) masks of the blocks that the base and the refine network restore."""

    base: tuple[Array, ...]
    refine: tuple[Array, ...]

    def seconds(self, costs: Costs) -> float:
        return float(
            sum(mask.sum() * cost for mask, cost in zip(self.base, costs.base, strict=True))
            + sum(mask.sum() * cost for mask, cost in zip(self.refine, costs.refine, strict=True))
        )


def select_blocks(gains: Array, costs: Costs, seconds: float) -> Selection:
    """The blocks that gain most within `seconds`; the fastest way to restore every block when that takes longer.

    gains: (rows, columns) float, not negative: what refining a block of the smallest size is worth, in any unit.
    """
    pyramid = _Pyramid(gains, costs)
    found = [_within(pyramid, costs, seconds, top) for top in range(len(costs.base))]
    fitting = [selection for selection in found if selection.seconds(costs) <= seconds]
    return max(fitting, key=pyramid.gain) if fitting else pyramid.select(_HIGHEST, len(costs.base) - 1)


def _within(pyramid: _Pyramid, costs: Costs, seconds: float, top: int) -> Selection:
    """What gains most for the lowest price of a second that keeps the time, with no block above size number `top`.

    Between two prices a large block changes as a whole, and the time is used badly; smaller ones leave smaller gaps.
    """
    best = pyramid.select(_HIGHEST, top)
    low, high = -30.0, 30.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = pyramid.select(pyramid.unit * 2.0**middle, top)
        if found.seconds(costs) <= seconds:
            best, high = found, middle
        else:
            low = middle
    return _filled(best, pyramid.gains[0], costs, seconds)


class _Pyramid:
    """Gains of the blocks of every size, and which of them lie in the image."""

    def __init__(self, gains: Array, costs: Costs) -> None:
        self._costs = costs
        side = 2 ** (len(costs.base) - 1)
        padding = [(0, -length % side) for length in gains.shape]
        self.gains = [np.pad(gains, padding).astype(np.float64)]
        self._inside = [np.pad(np.ones(gains.shape, bool), padding)]
        for _ in costs.base[1:]:
            self.gains.append(_sums(self.gains[-1]))
            self._inside.append(_sums(self._inside[-1]) > 0)
        self.unit = max(float(gains.sum()), 1e-30) / (gains.size * costs.refine[0])

    def gain(self, selection: Selection) -> float:
        return float(sum((mask * gains).sum() for mask, gains in zip(selection.refine, self.gains, strict=True)))

    def select(self, price: float, top: int) -> Selection:
        """The blocks up to size number `top` with the largest sum of gains, less `price` for each second."""
        restored, whole, refined = self._values(price, top)
        base, refine = [], []
        bare = self._inside[-1]
        covered = np.zeros_like(bare)
        for level in reversed(range(len(self.gains))):
            alone = bare & refined[level] & ~whole[level]
            by_base = bare & whole[level]
            covered = covered | by_base
            on_top = covered & restored[level]
            base.append(by_base)
            refine.append(alone | on_top)
            if level > 0:
                bare, covered = (_parts(mask) for mask in (bare & ~by_base & ~alone, covered & ~on_top))
                bare &= self._inside[level - 1]
                covered &= self._inside[level - 1]
        return Selection(tuple(reversed(base)), tuple(reversed(refine)))

    def _values(self, price: float, top: int) -> tuple[list[Array], list[Array], list[Array]]:
        """By size, whether it is best to refine a block that the base restores; to let the base restore it; to refine it."""
        restored, whole, refined = list[Array](), list[Array](), list[Array]()
        covered, bare = np.zeros_like(self.gains[0]), np.full_like(self.gains[0], -np.inf)
        for level, (gains, inside) in enumerate(zip(self.gains, self._inside, strict=True)):
            if level > 0:
                covered, bare = _sums(covered), _sums(bare)
            if level > top:
                for masks in (restored, whole, refined):
                    masks.append(np.zeros(gains.shape, bool))
                continue
            by_refine = gains - price * self._costs.refine[level]
            restored.append(by_refine > covered)
            covered = np.where(inside, np.maximum(covered, by_refine), 0.0)
            by_base = covered - price * self._costs.base[level]
            whole.append((by_base >= by_refine) & (by_base >= bare))
            refined.append((by_refine > by_base) & (by_refine >= bare))
            bare = np.where(inside, np.maximum(np.maximum(by_base, by_refine), bare), 0.0)
        return restored, whole, refined


def _filled(selection: Selection, gains: Array, costs: Costs, seconds: float) -> Selection:
    """What is left of the time goes to the best of the smallest blocks that are not refined."""
    rest = seconds - selection.seconds(costs)
    refined = np.zeros(gains.shape, bool)
    for level, mask in enumerate(selection.refine):
        for _ in range(level):
            mask = _parts(mask)
        refined |= mask
    candidates = np.where(refined, 0.0, gains).ravel()
    count = min(int(max(rest, 0.0) / costs.refine[0]), int((candidates > 0).sum()))
    more = np.zeros(gains.size, bool)
    more[np.argsort(-candidates, kind="stable")[:count]] = True
    return Selection(selection.base, (selection.refine[0] | more.reshape(gains.shape), *selection.refine[1:]))


def _sums(values: Array) -> Array:
    """Sum of the four parts of each block."""
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3)))


def _parts(mask: Array) -> Array:
    """Each block's four parts."""
    return mask.repeat(2, axis=0).repeat(2, axis=1)
