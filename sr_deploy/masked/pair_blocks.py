"""Pure geometry: the blocks of an image that two networks share, and the windows in which each network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.upscaling.tiling import Axis, Region, Tiling
from sr_deploy.upscaling.upscaler import Upscaler

_HALO = 4
"""LR pixels around a block that its network sees too; more cost more than they bring, even where attention reaches far."""

_LARGEST = 128
"""Side of the large blocks, unless an engine takes none but larger windows: beyond it they are no faster per pixel on a CPU."""


@dataclass(frozen=True)
class Side:
    """One side of an image in blocks between `edges`, each seen in a window of `length`; the network takes it `padded`."""

    edges: Array
    length: int
    padded: int
    multiple: int

    @staticmethod
    def of(edges: Array, padded: int, least: int, multiple: int) -> Side:
        halos = (edges[:-1] > 0).astype(int) + (edges[1:] < edges[-1])
        wanted = max(int((np.diff(edges) + halos * _HALO).max()) + multiple - 1, least)
        return Side(edges, min(-(-wanted // multiple) * multiple, padded), padded, multiple)

    def region(self, block: int) -> Region:
        first, end = self.edges[block : block + 2].tolist()
        start = max(0, first - _HALO) // self.multiple * self.multiple
        return Region(min(start, self.padded - self.length), first, first, end)


@dataclass(frozen=True)
class View:
    """An image as a network sees it: whole, by `plan`; and its (rows, columns) of the large and of the small blocks."""

    plan: Tiling
    sizes: tuple[tuple[Side, Side], ...]

    @staticmethod
    def of(network: Upscaler, plan: Tiling, rows: Array, columns: Array) -> View:
        multiple, least = network.card.size_multiple, [max(network.card.min_size, side) for side in network._window_limits()[0]]
        return View(
            plan,
            tuple(
                (
                    Side.of(rows[::step], plan.rows.size, least[0], multiple),
                    Side.of(columns[::step], plan.columns.size, least[1], multiple),
                )
                for step in (2, 1)
            ),
        )

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """(height, width) in LR pixels of those of large blocks, and of small ones."""
        return tuple((rows.length, columns.length) for rows, columns in self.sizes)

    def tiles(self, masks: Sequence[Array]) -> list[tuple[Tiling, list[tuple[Region, Region]]]]:
        """The large blocks in one mask, and the small ones in the other."""
        return [
            (
                Tiling(Axis(rows.padded, rows.length, (), ()), Axis(columns.padded, columns.length, (), ())),
                [(rows.region(row), columns.region(column)) for row, column in np.argwhere(mask)],
            )
            for (rows, columns), mask in zip(self.sizes, masks, strict=True)
            if mask.any()
        ]


@dataclass(frozen=True)
class Grid:
    """The edges of an image's small blocks; `views`: as the base and the refine network see it."""

    rows: Array
    columns: Array
    views: tuple[View, ...]

    @staticmethod
    def of(pixels: Array, networks: Sequence[Upscaler]) -> Grid:
        height, width = pixels.shape[:2]
        plans = [network._plan(height, width) for network in networks]
        tiled = [side for plan in plans if len(plan) > 1 for side in plan.window]
        multiple = max(network.card.size_multiple for network in networks)
        least = max(side for network in networks for side in network._window_limits()[0])
        largest = max(8, least - 2 * _HALO, min([_LARGEST, *(side - 2 * _HALO - 2 * multiple for side in tiled)]))
        rows, columns = _edges(height, largest), _edges(width, largest)
        views = (View.of(network, plan, rows, columns) for network, plan in zip(networks, plans, strict=True))
        return Grid(rows, columns, tuple(views))

    @property
    def areas(self) -> Array:
        """(rows, columns): LR pixels of each small block."""
        return np.outer(np.diff(self.rows), np.diff(self.columns))

    def sums(self, values: Array) -> Array:
        """Sum of (H,W) values over each of the small blocks."""
        down = np.add.reduceat(values, self.rows[:-1], axis=0, dtype=np.float64)
        return np.asarray(np.add.reduceat(down, self.columns[:-1], axis=1))


def _edges(length: int, largest: int) -> Array:
    """Where small blocks meet, two to a large one: the outer ones are as much longer as they need no halo."""
    count = max(1, -(-(length - 2 * _HALO) // largest))
    edges = np.linspace(_HALO, length - _HALO, 2 * count + 1).round().astype(int)
    return np.concatenate([[0], edges[1:-1], [length]])
