"""Which tiles an image gets: as large as memory allows, within what the network and its engines take."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from sr_deploy.bundle import ModelCard
from sr_deploy.upscaling.sentinel import CHROMA_REACH
from sr_deploy.upscaling.tiling import FAST_MULTIPLE, Tiling, plan_tiles, tile_for_memory

SMALLEST_TILE = 32
_FINE_TILE = (96, 160)
_FINE_TILE_IN_HALOS = (6, 10)
_UNKNOWN = 4 << 30
_USUAL = 768 << 20

WindowLimits = tuple[tuple[int, int], tuple[int, int]]
"""Smallest and largest window (h,w)."""


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
    return min(_USUAL, available_memory() // 2)


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
        return _UNKNOWN


def _of_control_group() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        return max(0, limit - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        return 1 << 62
