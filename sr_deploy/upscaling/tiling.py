"""Which windows of an image a network sees, as large as memory allows, and where their results go.

All windows of a run have one shape. Along each axis, windows start at the evenly spaced `starts` and neighbors meet in `seams`:
inside a seam [a, b) the result fades from one window to the next; an empty seam is a hard cut.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sr_deploy.card import ModelCard
from sr_deploy.upscaling.sentinel import CHROMA_REACH

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

FAST_MULTIPLE = 8
"""Convolutions are up to 1.8 times slower on windows of an odd width."""

SMALLEST_TILE = 32
_FINE_TILE = (96, 160)
_FINE_TILE_IN_HALOS = (6, 10)
_UNKNOWN_MEMORY = 4 << 30
_USUAL_MEMORY = 768 << 20

WindowLimits = tuple[tuple[int, int], tuple[int, int]]
"""Smallest and largest window (h,w)."""


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


class TilePlanner:
    """Plans tilings for images of any size.

    card: of the network. tile: side in LR pixels, 0 for the whole image; 'auto' is the largest that fits `memory`, in bytes.
    limits: of what the engines take. scheduled: the side, 0 for the whole image, that a measured schedule has for (h,w).
    """

    def __init__(
        self,
        card: ModelCard,
        tile: int | Literal["auto"],
        memory: int,
        *,
        limits: Callable[[], WindowLimits],
        scheduled: Callable[[int, int], int],
    ) -> None:
        self._card = card
        self._tile = tile
        self._memory = memory
        self._limits = limits
        self._scheduled = scheduled

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """At least the smallest size of the network and of its engines, and a multiple of what it takes."""
        multiple = self._card.size_multiple
        least_height, least_width = (max(self._card.min_size, side) for side in self._limits()[0])
        return -(-max(height, least_height) // multiple) * multiple, -(-max(width, least_width) // multiple) * multiple

    def plan(self, height: int, width: int) -> Tiling:
        """The tiles of an image of that size."""
        return self._plan(*self.padded_size(height, width), self._memory)

    def plan_finely(self, height: int, width: int, *, independent: bool) -> Tiling:
        """Small tiles, where they are `independent` and nobody said how large they are; else `plan`."""
        image = self.plan(height, width)
        if self._tile != "auto" or not independent:
            return image
        halo, multiple = self._halo, self._card.size_multiple
        tall, wide = (
            plan_tiles(
                image.rows.size, image.columns.size, tile=max(least, halos * halo), halo=halo, blend=False, multiple=multiple
            )
            for least, halos in zip(_FINE_TILE, _FINE_TILE_IN_HALOS, strict=True)
        )
        rows = tall.rows if tall.window[0] < image.window[0] else image.rows
        columns = wide.columns if wide.window[1] < image.window[1] else image.columns
        return Tiling(rows, columns)

    def plan_smaller(self, tiling: Tiling) -> Tiling | None:
        """A tiling that takes half the memory; None when the tiles are as small as can be."""
        tall, wide = tiling.window
        if max(tall, wide) <= SMALLEST_TILE + 2 * self._halo + FAST_MULTIPLE:
            return None
        return self._plan(tiling.rows.size, tiling.columns.size, tall * wide * self._bytes_per_pixel // 2)

    @property
    def _bytes_per_pixel(self) -> int:
        return self._card.activation_bytes + 2 * self._card.channels * (1 + self._card.scale**2)

    @property
    def _halo(self) -> int:
        """The network's reach; beside a luma network, chroma is resampled, which reaches further than a small network."""
        return self._card.halo if self._card.channels == 3 else max(self._card.halo, CHROMA_REACH)

    def _plan(self, height: int, width: int, memory: int) -> Tiling:
        halo, approximate = self._halo, self._card.tiling == "approximate"
        fitting = tile_for_memory(
            height, width, bytes_per_pixel=self._bytes_per_pixel, memory=memory, halo=halo, smallest=SMALLEST_TILE
        )
        _, largest = self._limits()
        if height > largest[0] or width > largest[1]:
            allowed = min(largest) // FAST_MULTIPLE * FAST_MULTIPLE - 2 * halo
            fitting = max(SMALLEST_TILE, min(fitting or allowed, allowed))
        wanted = self._wanted_tile(fitting, height, width)
        if memory < self._memory and fitting > 0:
            wanted = min(wanted or fitting, fitting)
        return plan_tiles(height, width, tile=wanted, halo=halo, blend=approximate, multiple=self._card.size_multiple)

    def _wanted_tile(self, fitting: int, height: int, width: int) -> int:
        if self._tile != "auto":
            return self._tile
        scheduled = self._scheduled(height, width)
        return min(scheduled or fitting, fitting or scheduled)


def usual_memory() -> int:
    """Bytes that an image's activations may take where nobody says: 768 MiB, at most half of what is free."""
    return min(_USUAL_MEMORY, available_memory() // 2)


def available_memory() -> int:
    """Bytes that are free for this process: what the system has available, within the limit of its control group."""
    return min(_of_system(), _of_control_group())


def _of_system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN_MEMORY


def _of_control_group() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        return max(0, limit - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return 1 << 62


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
