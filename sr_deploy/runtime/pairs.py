"""Two networks of one scale on one image: the better one where it is seen most, as far as a budget of time goes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.engines.engine import Array
from sr_deploy.errors import UsageError
from sr_deploy.runtime.forms import ImageUpscaler, MaskedStats, Progress
from sr_deploy.runtime.selection import Costs, Selection, select_blocks
from sr_deploy.runtime.tiling import FAST_MULTIPLE, Axis, Region, Tiling
from sr_deploy.runtime.upscaler import Upscaler, paste

_HALO = 4
"""LR pixels around a block that its network sees too; more cost more than they bring, even where attention reaches far."""

_LARGEST = 512
_SMALLEST = 24
_PROBED = (40, 72, 136, 264)
_TIMED = 4
_BATCHED_AREA = 100_000
_EXPONENT = 0.85
"""What refining brings falls a little behind the energy of the details."""


class PairUpscaler(ImageUpscaler):
    """Restores what has most detail by the `refine` network, and the rest by the `base` network.

    budget: share, above 0 and up to 1, of the time that the refine network alone would take for the image. At 1 it does just
    that. When the base network alone takes longer than the budget, nothing is refined. Both Upscalers are closed with this one.

    Raises: UsageError.
    """

    def __init__(self, base: Upscaler, refine: Upscaler, *, budget: float) -> None:
        if base.scale != refine.scale:
            raise UsageError(
                f"{base.card.name} is for x{base.scale} and {refine.card.name} for x{refine.scale}; a pair needs one scale"
            )
        if not 0 < budget <= 1:
            raise UsageError(f"a budget of {budget} is no share of a time; expected more than 0 and up to 1")
        self.bundle = refine.bundle
        self.scale = refine.scale
        self._networks = (base, refine)
        self._budget = budget
        self._speeds: dict[tuple[str, int], tuple[_Speed, _Speed]] = {}
        self._own = MaskedStats()
        self._probes = 0
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        base, refine = self._networks
        return f"{base.description}, refined by {refine.description} within {self._budget:.0%} of its time"

    @property
    def stats(self) -> MaskedStats:
        base, refine = (network.stats for network in self._networks)
        return MaskedStats(
            base.tiles + refine.tiles - self._probes,
            base.recomputed + refine.recomputed,
            base.replaced + refine.replaced,
            self._own.pixels,
            self._own.refined,
            self._own.base_seconds,
            self._own.refine_seconds,
        )

    def upscale_pixels(self, pixels: Array, progress: Progress | None = None) -> Array:
        with self._lock:
            if self._budget == 1:
                return self._refine_all(pixels, progress)
            speeds = self._measured(pixels)
            start = time.perf_counter()
            grid = _Grid.of(pixels, self._networks)
            costs = Costs(*(tuple(map(speed.seconds, sizes)) for speed, sizes in zip(speeds, grid.windows, strict=True)))
            whole = self._networks[1].plan(*pixels.shape[:2])
            allowed = self._budget * len(whole) * speeds[1].seconds(whole.window)
            gains = grid.sums(_energy(pixels)) ** _EXPONENT
            selection = select_blocks(gains, costs, allowed - (time.perf_counter() - start))
            return self._restore(pixels, grid, selection, progress)

    def heat(self, image: Array) -> Array:
        """(H,W) float32 in [0,1]: how much each part of an image (H,W,C) or (H,W) has of what would be refined first."""
        pixels = image[..., None] if image.ndim == 2 else image
        grid = _Grid.of(pixels, self._networks)
        heat = np.sqrt(grid.sums(_energy(pixels)))
        heat = heat.repeat(grid.leaf[0], axis=0).repeat(grid.leaf[1], axis=1)[: pixels.shape[0], : pixels.shape[1]]
        return (heat / max(float(heat.max()), 1e-12)).astype(np.float32)

    def close(self) -> None:
        for network in self._networks:
            network.close()

    def _refine_all(self, pixels: Array, progress: Progress | None) -> Array:
        start = time.perf_counter()
        large = self._networks[1].upscale_pixels(pixels, progress)
        area = pixels.shape[0] * pixels.shape[1]
        self._own = self._own.plus(area, area, 0.0, time.perf_counter() - start)
        return large

    def _restore(self, pixels: Array, grid: _Grid, selection: Selection, progress: Progress | None) -> Array:
        height, width, channels = pixels.shape
        base, start = self._networks[0], time.perf_counter()
        covered = bool(selection.base[-1].all())
        if covered:
            large = base.upscale_pixels(pixels)
        else:
            large = np.empty((height * self.scale, width * self.scale, channels), pixels.dtype)
        chosen = (() if covered else selection.base, selection.refine)
        total, done, seconds = sum(int(mask.sum()) for masks in chosen for mask in masks), 0, [0.0, 0.0]
        for index, (network, masks) in enumerate(zip(self._networks, chosen, strict=True)):
            for tiling, tiles in grid.tiles(masks, index):
                for row, column, window in network.run_tiles(pixels, tiling, tiles, batch=_batch(tiling)):
                    paste(large, window, row, column, self.scale)
                    done += 1
                    if progress is not None:
                        progress(done, total)
            seconds[index], start = time.perf_counter() - start, time.perf_counter()
        if progress is not None and total == 0:
            progress(1, 1)
        self._own = self._own.plus(height * width, grid.area(selection.refine), *seconds)
        return large

    def _measured(self, pixels: Array) -> tuple[_Speed, _Speed]:
        """How fast the networks are on pixels of that kind; tried on the first image."""
        key = (pixels.dtype.name, pixels.shape[2])
        if key not in self._speeds:
            tried = sum(network.stats.tiles for network in self._networks)
            base, refine = (_Speed.measure(network, pixels) for network in self._networks)
            self._probes += sum(network.stats.tiles for network in self._networks) - tried
            self._speeds[key] = (base, refine)
        return self._speeds[key]


@dataclass(frozen=True)
class _Speed:
    """Seconds per LR pixel of windows by their area, increasing."""

    areas: tuple[int, ...]
    rates: tuple[float, ...]

    @staticmethod
    def measure(network: Upscaler, pixels: Array) -> _Speed:
        """The fastest of a few rounds over all sizes: what else the machine does meanwhile comes and goes."""
        probes = [_Probe.of(network, pixels, side) for side in _PROBED]
        rounds = [[probe.run() for probe in probes] for _ in range(1 + _TIMED)]
        return _Speed(
            tuple(side * side for side in _PROBED),
            tuple(min(runs) / (side * side) for side, *runs in zip(_PROBED, *rounds[1:], strict=True)),
        )

    def seconds(self, window: tuple[int, int]) -> float:
        area = window[0] * window[1]
        return float(np.interp(area, self.areas, self.rates)) * area


@dataclass(frozen=True)
class _Probe:
    """A batch of one window to try a network on."""

    network: Upscaler
    pixels: Array
    tiling: Tiling
    tiles: list[tuple[Region, Region]]

    @staticmethod
    def of(network: Upscaler, pixels: Array, side: int) -> _Probe:
        missing = [(0, max(0, side - length)) for length in pixels.shape[:2]]
        probe = np.ascontiguousarray(np.pad(pixels[:side, :side], (*missing, (0, 0)), mode="wrap"))
        plan = network.plan(side, side)
        rows, columns = (Axis(axis.size, axis.size, (0,), ()) for axis in (plan.rows, plan.columns))
        tiling = Tiling(rows, columns)
        return _Probe(network, probe, tiling, list(tiling) * _batch(tiling))

    def run(self) -> float:
        """Seconds for each window; the first run also prepares the engine for that size."""
        start = time.perf_counter()
        for _, _, window in self.network.run_tiles(self.pixels, self.tiling, self.tiles, batch=len(self.tiles)):
            window.copy()
        return (time.perf_counter() - start) / len(self.tiles)


@dataclass(frozen=True)
class _Grid:
    """Blocks of an image of `size`: the smallest are `leaf` LR pixels, and twice that from size to size.

    By network, `windows` are what it sees of a block of each size, `padded` is the image that it takes, and windows start at
    multiples of `multiples`.
    """

    size: tuple[int, int]
    counts: tuple[int, int]
    leaf: tuple[int, int]
    windows: tuple[tuple[tuple[int, int], ...], ...]
    padded: tuple[tuple[int, int], ...]
    multiples: tuple[int, ...]

    @staticmethod
    def of(pixels: Array, networks: Sequence[Upscaler]) -> _Grid:
        height, width = pixels.shape[:2]
        plans = [network.plan(height, width) for network in networks]
        limits = [side - 4 * _HALO for plan in plans for side in plan.window if len(plan) > 1]
        largest = max(_SMALLEST, min([_LARGEST, *limits]))
        levels = 1 + max(0, int(math.log2(min(largest, max(height, width)) / _SMALLEST)))
        counts = [math.ceil(side / largest) * 2 ** (levels - 1) for side in (height, width)]
        leaf = [math.ceil(side / count) for side, count in zip((height, width), counts, strict=True)]
        padded = [(plan.rows.size, plan.columns.size) for plan in plans]
        multiples = [network.card.size_multiple for network in networks]
        windows = [
            tuple(_window(leaf, level, network, size) for level in range(levels))
            for network, size in zip(networks, padded, strict=True)
        ]
        return _Grid((height, width), _pair(counts), _pair(leaf), tuple(windows), tuple(padded), tuple(multiples))

    def sums(self, values: Array) -> Array:
        """Sum of (H,W) values over each of the smallest blocks."""
        whole = [length * count for length, count in zip(self.leaf, self.counts, strict=True)]
        padded = np.pad(values, [(0, side - length) for side, length in zip(whole, values.shape, strict=True)])
        across = padded.reshape(whole[0], self.counts[1], self.leaf[1]).sum(axis=2, dtype=np.float64)
        return np.asarray(across.reshape(self.counts[0], self.leaf[0], self.counts[1]).sum(axis=1))

    def area(self, masks: Iterable[Array]) -> int:
        """LR pixels of the blocks."""
        return sum(
            (bottom - top) * (right - left)
            for level, mask in enumerate(masks)
            for top, left, bottom, right in self._boxes(mask, level)
        )

    def tiles(self, masks: Iterable[Array], network: int) -> Iterator[tuple[Tiling, list[tuple[Region, Region]]]]:
        """The blocks as windows of one shape after the other."""
        (padded_height, padded_width), multiple = self.padded[network], self.multiples[network]
        for level, mask in enumerate(masks):
            tall, wide = self.windows[network][level]
            tiling = Tiling(Axis(padded_height, tall, (), ()), Axis(padded_width, wide, (), ()))
            yield (
                tiling,
                [
                    (_region(top, bottom, tall, padded_height, multiple), _region(left, right, wide, padded_width, multiple))
                    for top, left, bottom, right in self._boxes(mask, level)
                ],
            )

    def _boxes(self, mask: Array, level: int) -> Iterator[tuple[int, int, int, int]]:
        tall, wide = (side * 2**level for side in self.leaf)
        height, width = self.size
        for row, column in np.argwhere(mask).tolist():
            yield row * tall, column * wide, min((row + 1) * tall, height), min((column + 1) * wide, width)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _window(leaf: Sequence[int], level: int, network: Upscaler, padded: tuple[int, int]) -> tuple[int, int]:
    """What a network sees of a block: with a halo, of a size that it takes and is fast at, and within the image."""
    multiple = network.card.size_multiple
    step = math.lcm(multiple, FAST_MULTIPLE)
    least = [max(network.card.min_size, side) for side in network.window_limits()[0]]
    wanted = [max(side * 2**level + 2 * _HALO + multiple - 1, low) for side, low in zip(leaf, least, strict=True)]
    tall, wide = (min(math.ceil(side / step) * step, size) for side, size in zip(wanted, padded, strict=True))
    return tall, wide


def _batch(tiling: Tiling) -> int:
    """How many windows go through a network at once: as many as make a large one."""
    tall, wide = tiling.window
    return 1 << min(3, max(0, int(math.log2(_BATCHED_AREA / (tall * wide)))))


def _region(first: int, end: int, length: int, size: int, multiple: int) -> Region:
    start = (first + end - length) // 2 // multiple * multiple
    return Region(min(max(start, 0), size - length), first, first, end)


def _energy(pixels: Array) -> Array:
    """(H,W,C) -> (H,W): square of the Laplacian of the luma, with full scale 1."""
    import cv2

    if pixels.shape[2] >= 3:
        luma = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2GRAY)
    else:
        luma = np.ascontiguousarray(pixels[..., 0])
    edges = cv2.Laplacian(luma, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    full_scale = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    return np.asarray(edges * edges) * np.float32(1 / full_scale**2)
