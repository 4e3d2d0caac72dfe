"""Which of two networks restores which part of an image, so that what is gained within a time is largest.

Blocks are squares of LR pixels, of a few sizes: each holds four of the next smaller size. A block is refined as a whole, or
restored by the base network as a whole with some of the smaller blocks in it refined as well, or left to its four parts. Large
blocks cost less per pixel, since each is seen with a border around it; small ones fit better around what needs refining.

Where nearly everything can be refined, the borders around many blocks cost about what is left out. Few large boxes cost less:
the image is cut into bands, each band into boxes, and each box is restored by one of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from sr_deploy.engines.engine import Array

_STEPS = 14
_HIGHEST = 1e30
_SPANS = 16
"""Bands that an image, and boxes that a band is cut into at most."""

_WIDEST = (2, 4, 8, 16)
"""Spans in the widest band."""


@dataclass(frozen=True)
class Costs:
    """Seconds that a box of the smallest blocks takes in each network: (rows + 1, columns + 1) by its size, 0 for none."""

    base: Array
    refine: Array


@dataclass(frozen=True)
class Selection:
    """(N, 4) boxes that the base and the refine network restore: top, left, bottom, right, in the smallest blocks.

    Boxes of one network do not overlap; what both restore is the refine network's.
    """

    base: Array
    refine: Array

    def seconds(self, costs: Costs) -> float:
        return sum(
            float(table[boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]].sum())
            for table, boxes in ((costs.base, self.base), (costs.refine, self.refine))
        )

    def gain(self, gains: Array) -> float:
        return float((gains * painted(self.refine, gains.shape)).sum())


Division = Callable[[float], Selection]
"""The best way to divide an image of a certain kind, for a price of a second."""


def painted(boxes: Array, shape: tuple[int, ...]) -> Array:
    """(rows, columns): by how many boxes each of the smallest blocks is covered."""
    edges = np.zeros([length + 1 for length in shape], int)
    top, left, bottom, right = boxes.T
    for rows, columns, step in ((top, left, 1), (bottom, left, -1), (top, right, -1), (bottom, right, 1)):
        np.add.at(edges, (rows, columns), step)
    return np.asarray(edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1])


def select(gains: Array, costs: Costs, seconds: float, *, sizes: int) -> Selection:
    """The boxes that gain most within `seconds`; the fastest way to restore everything when that takes longer.

    gains: (rows, columns) float, not negative: what refining each of the smallest blocks is worth, in any unit. `sizes`: how
    many sizes of blocks there are.
    """
    pyramid, unit = _Pyramid(gains, costs, sizes), max(float(gains.sum()), 1e-30) / (gains.size * float(costs.refine[1, 1]))
    divisions: list[Division] = [partial(pyramid.select, top=top) for top in range(sizes)]
    divisions += [_Bands(gains, costs, turned=turned, widest=widest).select for turned in (False, True) for widest in _WIDEST]
    found = [_within(divide, costs, seconds, unit) for divide in divisions]
    fitting = [_filled(selection, gains, costs, seconds) for selection in found if selection.seconds(costs) <= seconds]
    if not fitting:
        return pyramid.select(_HIGHEST, top=sizes - 1)
    return max(fitting, key=lambda selection: selection.gain(gains))


def _within(divide: Division, costs: Costs, seconds: float, unit: float) -> Selection:
    """What a way to divide the image gives for the lowest price of a second that keeps the time.

    Between two prices a large box changes as a whole, and the time is used badly; ways with smaller boxes leave smaller gaps.
    """
    best = divide(_HIGHEST)
    low, high = -12.0, 12.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = divide(unit * 2.0**middle)
        if found.seconds(costs) <= seconds:
            best, high = found, middle
        else:
            low = middle
    return best


class _Bands:
    """An image in bands of up to `widest` spans, as wide as itself, each cut into boxes; `turned`: as high as itself."""

    def __init__(self, gains: Array, costs: Costs, *, turned: bool, widest: int) -> None:
        self._turned = turned
        gains, base, refine = (array.T if turned else array for array in (gains, costs.base, costs.refine))
        rows, self._columns = (np.append(np.arange(0, length, -(-length // _SPANS)), length) for length in gains.shape)
        first, last = np.triu_indices(len(rows), k=1)
        first, last = first[last - first <= widest], last[last - first <= widest]
        self._tops, self._bottoms = rows[first], rows[last]
        self._band = np.full((len(rows), len(rows)), -1)
        self._band[first, last] = np.arange(len(first))
        sums = np.zeros([length + 1 for length in gains.shape])
        sums[1:, 1:] = gains.cumsum(axis=0).cumsum(axis=1)
        left_of = (sums[self._bottoms] - sums[self._tops])[:, self._columns]
        # By band, right edge and left edge; what does not lie to the left of its right edge is never read.
        wide = np.maximum(self._columns[:, None] - self._columns, 0)
        self._gains = left_of[:, :, None] - left_of[:, None, :]
        self._base, self._refine = (table[(self._bottoms - self._tops)[:, None, None], wide] for table in (base, refine))

    def select(self, price: float) -> Selection:
        """The boxes with the largest sum of gains, less `price` for each second."""
        refined = self._gains - price * self._refine
        values = np.maximum(refined, -price * self._base)
        best, left = _best_cuts(values)
        _, top = _best_cuts(np.where(self._band < 0, -np.inf, best[self._band, -1]).T[None])
        boxes: tuple[list[Array], list[Array]] = ([], [])
        for above, below in _pairs(top[0]):
            band = self._band[above, below]
            for start, end in _pairs(left[band]):
                box = (self._tops[band], self._columns[start], self._bottoms[band], self._columns[end])
                boxes[int(refined[band, end, start] >= -price * self._base[band, end, start])].append(np.array(box))
        base, refine = (np.array(chosen, int).reshape(-1, 4) for chosen in boxes)
        return Selection(*(part[:, [1, 0, 3, 2]] if self._turned else part for part in (base, refine)))


def _best_cuts(values: Array) -> tuple[Array, Array]:
    """Cut intervals so that the values of their parts have the largest sum.

    values: (N, ends, starts) of the parts between two places, for N intervals. Returns (N, places): the largest sum up to each
    place, and where its last part starts.
    """
    best, starts = np.zeros(values.shape[:2]), np.zeros(values.shape[:2], int)
    for end in range(1, values.shape[1]):
        sums = best[:, :end] + values[:, end, :end]
        best[:, end], starts[:, end] = sums.max(axis=1), sums.argmax(axis=1)
    return best, starts


def _pairs(starts: Array) -> Iterator[tuple[int, int]]:
    """The parts of an interval, from the last one on, by where the part that ends at each place starts."""
    end = len(starts) - 1
    while end > 0:
        start = int(starts[end])
        yield start, end
        end = start


class _Pyramid:
    """Gains of the blocks of every size, and which of them lie in the image."""

    def __init__(self, gains: Array, costs: Costs, sizes: int) -> None:
        self._shape = gains.shape
        largest = 2 ** (sizes - 1)
        padding = [(0, -length % largest) for length in gains.shape]
        self.gains = [np.pad(gains, padding).astype(np.float64)]
        self._inside = [np.pad(np.ones(gains.shape, bool), padding)]
        for _ in range(1, sizes):
            self.gains.append(_sums(self.gains[-1]))
            self._inside.append(_sums(self._inside[-1]) > 0)
        sides = [tuple(min(2**level, length) for length in gains.shape) for level in range(sizes)]
        self._base, self._refine = ([float(table[side]) for side in sides] for table in (costs.base, costs.refine))

    def select(self, price: float, *, top: int) -> Selection:
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
        return Selection(*(self._boxes(reversed(masks)) for masks in (base, refine)))

    def _boxes(self, masks: Iterator[Array]) -> Array:
        corners = [np.argwhere(mask) * 2**level for level, mask in enumerate(masks)]
        boxes = np.concatenate([np.hstack([corner, corner + 2**level]) for level, corner in enumerate(corners)])
        return np.asarray(np.minimum(boxes, (*self._shape, *self._shape)))

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
            by_refine = gains - price * self._refine[level]
            restored.append(by_refine > covered)
            covered = np.where(inside, np.maximum(covered, by_refine), 0.0)
            by_base = covered - price * self._base[level]
            whole.append((by_base >= by_refine) & (by_base >= bare))
            refined.append((by_refine > by_base) & (by_refine >= bare))
            bare = np.where(inside, np.maximum(np.maximum(by_base, by_refine), bare), 0.0)
        return restored, whole, refined


def _filled(selection: Selection, gains: Array, costs: Costs, seconds: float) -> Selection:
    """What is left of the time goes to the best of the smallest blocks that are not refined."""
    rest = seconds - selection.seconds(costs)
    candidates = np.where(painted(selection.refine, gains.shape), 0.0, gains).ravel()
    count = min(int(max(rest, 0.0) / float(costs.refine[1, 1])), int((candidates > 0).sum()))
    more = np.argsort(-candidates, kind="stable")[:count]
    corners = np.stack(np.unravel_index(np.sort(more), gains.shape), axis=1)
    return Selection(selection.base, np.concatenate([selection.refine, np.hstack([corners, corners + 1])]))


def _sums(values: Array) -> Array:
    """Sum of the four parts of each block."""
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3)))


def _parts(mask: Array) -> Array:
    """Each block's four parts."""
    return mask.repeat(2, axis=0).repeat(2, axis=1)
