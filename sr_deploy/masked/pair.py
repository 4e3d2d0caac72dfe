"""Two networks of one scale on one image: the better one where it is seen most, as far as a budget of time goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.errors import UsageError
from sr_deploy.masked.pair_blocks import Grid, View
from sr_deploy.masked.pair_selection import Costs, Selection, select
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, MaskedStats, Progress
from sr_deploy.upscaling.tiling import Axis, Tiling, paste
from sr_deploy.upscaling.upscaler import Upscaler

_PROBED = ((72, 72), (136, 136))
_WHOLE = 264
"""A window of that side is as fast per pixel as a whole image."""

_ROUNDS = 3
_SETTLED_AT = 2_000_000
"""LR pixels of images of one size in a row from which on engines settle on their windows."""

_LARGE = 500_000
"""LR pixels of a first image that is taken for the first of many."""

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
        self._last: tuple[int, ...] = ()
        self._in_a_row = 0
        self._speeds: dict[tuple[str, tuple[int, ...]], tuple[_Speed, ...]] = {}
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
            grid = Grid.of(pixels, self._networks)
            speeds = self._measured(pixels, grid)
            start = time.perf_counter()
            base, refine = (speed.whole(view) for view, speed in zip(grid.views, speeds, strict=True))
            costs = Costs(base, *(speed.blocks(view) for view, speed in zip(grid.views, speeds, strict=True)))
            gains = grid.sums(_energy(pixels)) ** _EXPONENT
            allowed = self._budget * refine - (time.perf_counter() - start)
            return self._restore(pixels, grid, select(gains, costs, allowed), progress)

    def heat(self, image: Array) -> Array:
        """(H,W) float32 in [0,1]: how much each part of an image (H,W,C) or (H,W) has of what would be refined first."""
        pixels = image[..., None] if image.ndim == 2 else image
        grid = Grid.of(pixels, self._networks)
        heat = np.sqrt(grid.sums(_energy(pixels)) / np.maximum(grid.areas, 1))
        heat = heat.repeat(np.diff(grid.rows), axis=0).repeat(np.diff(grid.columns), axis=1)
        return (heat / max(float(heat.max()), 1e-12)).astype(np.float32)

    def last_heat(self, image: Array) -> Array:
        """`heat` of the image that was upscaled last; it takes no network."""
        return self.heat(image)

    def close(self) -> None:
        for network in self._networks:
            network.close()

    def _refine_all(self, pixels: Array, progress: Progress | None) -> Array:
        start = time.perf_counter()
        large = self._networks[1].upscale_pixels(pixels, progress)
        area = pixels.shape[0] * pixels.shape[1]
        self._own = self._own.plus(area, area, 0.0, time.perf_counter() - start)
        return large

    def _restore(self, pixels: Array, grid: Grid, selection: Selection, progress: Progress | None) -> Array:
        height, width, channels = pixels.shape
        start = time.perf_counter()
        if selection.whole:
            large = self._networks[0].upscale_pixels(pixels)
        else:
            large = np.empty((height * self.scale, width * self.scale, channels), pixels.dtype)
        chosen = [view.tiles(masks) for view, masks in zip(grid.views, (selection.base, selection.refine), strict=True)]
        total, done, seconds = sum(len(tiles) for sizes in chosen for _, tiles in sizes), 0, []
        for network, sizes in zip(self._networks, chosen, strict=True):
            for tiling, tiles in sizes:
                for row, column, window in network._run_tiles(pixels, tiling, tiles):
                    paste(large, window, row, column, self.scale)
                    done += 1
                    if progress is not None:
                        progress(done, total)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
        if progress is not None and total == 0:
            progress(1, 1)
        self._own = self._own.plus(height * width, int(grid.areas[selection.refined].sum()), *seconds)
        return large

    def _measured(self, pixels: Array, grid: Grid) -> tuple[_Speed, ...]:
        """How fast the networks are: for a size that comes often, on its own windows, on which engines settle.

        Else as fast as on the first image of that kind, on windows of the usual sizes.
        """
        area, first = pixels.shape[0] * pixels.shape[1], not self._last
        self._in_a_row = area + (self._in_a_row if pixels.shape == self._last else 0)
        self._last = pixels.shape
        own, kind = ((pixels.dtype.name, shape) for shape in (pixels.shape, pixels.shape[2:]))
        often = own in self._speeds or self._in_a_row >= _SETTLED_AT or (first and area >= _LARGE)
        key = own if often else kind
        if key not in self._speeds:
            tried = sum(network.stats.tiles for network in self._networks)
            self._speeds[key] = tuple(
                _Speed.measure(network, pixels, view.windows if often else _PROBED, settled=often)
                for network, view in zip(self._networks, grid.views, strict=True)
            )
            self._probes += sum(network.stats.tiles for network in self._networks) - tried
        return self._speeds[key]


@dataclass(frozen=True)
class _Speed:
    """Seconds per LR pixel of windows, by their area, increasing."""

    areas: tuple[int, ...]
    rates: tuple[float, ...]

    @staticmethod
    def measure(network: Upscaler, pixels: Array, windows: Sequence[tuple[int, int]], *, settled: bool) -> _Speed:
        """The fastest of a few rounds over all windows, but the first: what else the machine does meanwhile comes and goes."""
        probes = [_Probe.of(network, pixels, window) for window in (*windows, (_WHOLE, _WHOLE))]
        if settled:
            for probe in probes[:-1]:
                network._settle(probe.tiling)
        rounds = [[probe.run() for probe in probes] for _ in range(_ROUNDS)]
        rates = {probe.area: min(runs) / probe.area for probe, runs in zip(probes, zip(*rounds[1:], strict=True), strict=True)}
        return _Speed(tuple(sorted(rates)), tuple(rates[area] for area in sorted(rates)))

    def seconds(self, window: tuple[int, int]) -> float:
        area = window[0] * window[1]
        return float(np.interp(area, self.areas, self.rates)) * area

    def whole(self, view: View) -> float:
        """Of the whole image."""
        return len(view.plan) * self.seconds(view.plan.window)

    def blocks(self, view: View) -> tuple[float, float]:
        """Of a large block, and of a small one."""
        large, small = (self.seconds(window) for window in view.windows)
        return large, small


@dataclass(frozen=True)
class _Probe:
    """One window to try a network on."""

    network: Upscaler
    pixels: Array
    tiling: Tiling

    @staticmethod
    def of(network: Upscaler, pixels: Array, window: tuple[int, int]) -> _Probe:
        missing = [(0, max(0, wanted - length)) for wanted, length in zip(window, pixels.shape[:2], strict=True)]
        probe = np.ascontiguousarray(np.pad(pixels[: window[0], : window[1]], (*missing, (0, 0)), mode="wrap"))
        plan = network._plan(*window)
        rows, columns = (Axis(axis.size, axis.size, (0,), ()) for axis in (plan.rows, plan.columns))
        return _Probe(network, probe, Tiling(rows, columns))

    @property
    def area(self) -> int:
        tall, wide = self.tiling.window
        return tall * wide

    def run(self) -> float:
        """Seconds that the window takes; the first run also prepares the engine for its size."""
        start = time.perf_counter()
        for _, _, window in self.network._run_tiles(self.pixels, self.tiling, list(self.tiling)):
            window.copy()
        return time.perf_counter() - start


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
