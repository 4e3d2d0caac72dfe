"""Pure geometry: which windows of an image a network sees, and where their results go.

All windows of a run have one shape. Along each axis, windows start at the evenly spaced `starts` and neighbors meet in `seams`:
inside a seam [a, b) the result fades from one window to the next; an empty seam is a hard cut.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from sr_deploy.arrays import Array


FAST_MULTIPLE = 8
"""Convolutions are up to 1.8 times slower on windows of an odd width."""


@dataclass(frozen=True)
class Axis:
    """Windows of `length` along one axis of `size` LR pixels; `seams[i]` lies between windows i and i + 1."""

    size: int
    length: int
    starts: tuple[int, ...]
    seams: tuple[tuple[int, int], ...]

    def region(self, index: int) -> Region:
        """What window `index` contributes."""
        fade_from, solid_from = self.seams[index - 1] if index > 0 else (0, 0)
        _, end = self.seams[index] if index < len(self.seams) else (self.size, self.size)
        return Region(self.starts[index], fade_from, solid_from, end)


@dataclass(frozen=True)
class Region:
    """One window's share of an axis: seen from `start`, fading in over [fade_from, solid_from), then solid up to `end`."""

    start: int
    fade_from: int
    solid_from: int
    end: int


@dataclass(frozen=True)
class Tiling:
    """Windows of `window` = (height, width) that cover an image, row by row."""

    rows: Axis
    columns: Axis

    @property
    def window(self) -> tuple[int, int]:
        return self.rows.length, self.columns.length

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[tuple[Region, Region]]:
        for row in range(len(self.rows.starts)):
            for column in range(len(self.columns.starts)):
                yield self.rows.region(row), self.columns.region(column)


def plan_tiles(height: int, width: int, *, tile: int, halo: int, blend: bool, multiple: int = 1) -> Tiling:
    """Tiles of about `tile` LR pixels a side, each seen with `halo` pixels around it; `tile` 0 is the whole image.

    With `blend`, seams fade over `halo` pixels, or a whole tile if that is less; without, they are hard cuts at `halo` from the
    window's border, which is exact when `halo` covers the receptive field. Windows start and end at multiples of `multiple`,
    and so must the image.
    """
    halo = math.ceil(halo / multiple) * multiple
    rows, columns = (_plan_axis(size, tile=tile, halo=halo, blend=blend, multiple=multiple) for size in (height, width))
    return Tiling(rows, columns)


def _plan_axis(size: int, *, tile: int, halo: int, blend: bool, multiple: int) -> Axis:
    if tile == 0 or size <= tile + 2 * halo:
        return Axis(size, size, (0,), ())
    count = math.ceil((size - 2 * halo) / tile)
    aligned = math.lcm(multiple, FAST_MULTIPLE)
    length = math.ceil((math.ceil((size - 2 * halo) / count) + 2 * halo) / aligned) * aligned
    if length >= size:
        return Axis(size, size, (0,), ())
    last = size - length
    starts = (*(index * last // (count - 1) // multiple * multiple for index in range(count - 1)), last)
    pairs = list(itertools.pairwise(starts))
    fade = min(halo, *(following - before for before, following in pairs)) if blend else 0
    return Axis(size, length, starts, tuple(_seam(after, before + length, halo=halo, fade=fade) for before, after in pairs))


def _seam(first: int, last: int, *, halo: int, fade: int) -> tuple[int, int]:
    """Seam in the overlap [first, last) of two windows: a fade around its middle, or a cut at the halo."""
    if fade == 0:
        return first + halo, first + halo
    begin = (first + last - fade) // 2
    return begin, begin + fade


def tile_for_memory(height: int, width: int, *, bytes_per_pixel: int, memory: int, halo: int, smallest: int = 32) -> int:
    """Largest tile whose window fits into `memory` bytes; 0 when the whole image does."""
    pixels = memory // max(bytes_per_pixel, 1)
    if height * width <= pixels:
        return 0
    shorter = min(height, width)
    side = math.isqrt(pixels)
    if shorter < side:
        side = pixels // shorter
    return max(smallest, side // FAST_MULTIPLE * FAST_MULTIPLE - 2 * halo)


def paste(large: Array, window: Array, row: Region, column: Region, scale: int) -> None:
    """Put a window's share into `large`, fading from what its left neighbor put there."""
    share = window[
        (row.fade_from - row.start) * scale : (row.end - row.start) * scale,
        (column.fade_from - column.start) * scale : (column.end - column.start) * scale,
    ]
    rows = slice(row.fade_from * scale, row.end * scale)
    target = large[rows, column.fade_from * scale : column.end * scale]
    fading = target[:, : (column.solid_from - column.fade_from) * scale]
    left = fading.copy()
    target[...] = share
    fade(left, fading, axis=1)


def fade(first: Array, second: Array, *, axis: Literal[0, 1]) -> None:
    """Turn `second` into a linear fade along `axis` from `first` to itself."""
    length = second.shape[axis]
    if length == 0:
        return
    weights = (np.arange(length, dtype=np.float32) + 0.5) / length
    weights = weights[:, None, None] if axis == 0 else weights[None, :, None]
    mixed = first + weights * (second.astype(np.float32) - first)
    second[...] = np.round(mixed) if second.dtype != np.float32 else mixed
