"""Two networks of one scale on one image: the better one where it is seen most, as far as a budget of time goes."""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from sr_deploy.engines.engine import Array
from sr_deploy.errors import UsageError
from sr_deploy.runtime.forms import ImageUpscaler, MaskedStats, Progress
from sr_deploy.runtime.selection import Costs, Selection, painted, select
from sr_deploy.runtime.tiling import FAST_MULTIPLE, Axis, Region, Tiling
from sr_deploy.runtime.upscaler import Upscaler, paste

_HALO = 4
"""LR pixels around a block that its network sees too; more cost more than they bring, even where attention reaches far."""

_BLOCK = 32
"""Side of the smallest blocks, in LR pixels: with its halo a window is of a length that networks are fast at."""

_LARGEST = 512
_PROBED = (40, 72, 136, 264)
_TIMED = 4
_BATCHED_AREA = 100_000
_LATEST = 0.3
"""Share of the time by which images may seem late; more is the machine's unrest."""

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
        self._late = 0.0
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
            costs = Costs(*(grid.seconds(index, speed) for index, speed in enumerate(speeds)))
            whole = self._networks[1].plan(*pixels.shape[:2])
            allowed = self._budget * len(whole) * speeds[1].expected(whole.window)
            gains = grid.sums(_energy(pixels)) ** _EXPONENT
            allowed -= time.perf_counter() - start
            selection = select(gains, costs, allowed / (1 + self._late), sizes=grid.sizes)
            start, expected = time.perf_counter(), selection.seconds(costs)
            large = self._restore(pixels, grid, selection, speeds, progress)
            late = (time.perf_counter() - start) / max(expected, 1e-9) - 1
            self._late = min(max((self._late + late) / 2, 0.0), _LATEST)
            return large

    def heat(self, image: Array) -> Array:
        """(H,W) float32 in [0,1]: how much each part of an image (H,W,C) or (H,W) has of what would be refined first."""
        pixels = image[..., None] if image.ndim == 2 else image
        grid = _Grid.of(pixels, self._networks)
        heat = np.sqrt(grid.sums(_energy(pixels)))
        heat = heat.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[: pixels.shape[0], : pixels.shape[1]]
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

    def _restore(
        self, pixels: Array, grid: _Grid, selection: Selection, speeds: Sequence[_Speed], progress: Progress | None
    ) -> Array:
        height, width, channels = pixels.shape
        base, start = self._networks[0], time.perf_counter()
        chosen = [grid.tiles(boxes, index) for index, boxes in enumerate((selection.base, selection.refine))]
        if painted(selection.base, grid.counts).all():
            large = base.upscale_pixels(pixels)
            if len(selection.base) == 1:
                [(tiling, tiles)] = chosen[0]
                speeds[0].learn(tiling.window, (time.perf_counter() - start) / len(tiles))
            chosen[0] = []
        else:
            large = np.empty((height * self.scale, width * self.scale, channels), pixels.dtype)
        total, done, seconds = sum(len(tiles) for shapes in chosen for _, tiles in shapes), 0, [0.0, 0.0]
        for index, (network, shapes) in enumerate(zip(self._networks, chosen, strict=True)):
            for tiling, tiles in shapes:
                begun = time.perf_counter()
                for row, column, window in network.run_tiles(pixels, tiling, tiles, batch=_batch(tiling)):
                    paste(large, window, row, column, self.scale)
                    done += 1
                    if progress is not None:
                        progress(done, total)
                speeds[index].learn(tiling.window, (time.perf_counter() - begun) / len(tiles))
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
    """Seconds per LR pixel of windows by their area, increasing; `new`: what the first window of a shape takes more.

    `seen`: seconds of windows of the shapes that have run.
    """

    areas: tuple[int, ...]
    rates: tuple[float, ...]
    new: float
    seen: dict[tuple[int, int], float] = field(default_factory=dict)

    @staticmethod
    def measure(network: Upscaler, pixels: Array) -> _Speed:
        """The fastest of a few rounds over all sizes: what else the machine does meanwhile comes and goes."""
        probes = [_Probe.of(network, pixels, side) for side in _PROBED]
        rounds = [[probe.run() for probe in probes] for _ in range(1 + _TIMED)]
        fastest = [min(runs) for runs in zip(*rounds[1:], strict=True)]
        late = [len(probe.tiles) * (first - best) for probe, first, best in zip(probes, rounds[0], fastest, strict=True)]
        return _Speed(
            tuple(side * side for side in _PROBED),
            tuple(best / (side * side) for side, best in zip(_PROBED, fastest, strict=True)),
            max(0.0, statistics.median(late)),
            {probe.tiling.window: best for probe, best in zip(probes, fastest, strict=True)},
        )

    def expected(self, window: tuple[int, int]) -> float:
        """Seconds of a window, whether its shape has run or not."""
        area = window[0] * window[1]
        return float(np.interp(area, self.areas, self.rates)) * area

    def learn(self, window: tuple[int, int], seconds: float) -> None:
        """What a window took; the first one of a shape tells little about the next."""
        self.seen[window] = (self.seen[window] + seconds) / 2 if window in self.seen else self.expected(window)

    def seconds(self, tall: Array, wide: Array) -> Array:
        """What the next window of each height and each width takes: (heights, widths)."""
        areas = np.outer(tall, wide)
        seconds = np.interp(areas, self.areas, self.rates) * areas + self.new
        for (height, width), known in self.seen.items():
            seconds[np.ix_(tall == height, wide == width)] = known
        return np.asarray(seconds)


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
class _Lengths:
    """What a network sees of 0, 1, 2, ... blocks along one side of an image: `pieces` windows of `blocks` each, `window` long.

    `padded` is the side of the image that it takes; windows start at multiples of `multiple`.
    """

    blocks: Array
    pieces: Array
    window: Array
    padded: int
    multiple: int

    @staticmethod
    def of(count: int, axis: Axis, least: int, multiple: int) -> _Lengths:
        """A window has a halo, is of a length that a network takes and is fast at, and within the image."""
        numbers, step = np.arange(count + 1), math.lcm(multiple, FAST_MULTIPLE)
        wanted = np.maximum(numbers * _BLOCK + 2 * _HALO + multiple - 1, least)
        windows = np.minimum(-(-wanted // step) * step, axis.size)
        most = max(1, int((windows <= axis.length).sum()) - 1)
        pieces = -(-numbers // most)
        blocks = -(-numbers // np.maximum(pieces, 1))
        return _Lengths(blocks, pieces, windows[blocks], axis.size, multiple)

    def region(self, first: int, end: int, window: int) -> Region:
        start = (first + end - window) // 2 // self.multiple * self.multiple
        return Region(min(max(start, 0), self.padded - window), first, first, end)


@dataclass(frozen=True)
class _Grid:
    """The smallest blocks of an image of `size`, `counts` of them; blocks have `sizes` sizes, each twice the last.

    `lengths`, by network and axis: the windows that hold blocks.
    """

    size: tuple[int, int]
    counts: tuple[int, int]
    sizes: int
    lengths: tuple[tuple[_Lengths, ...], ...]

    @staticmethod
    def of(pixels: Array, networks: Sequence[Upscaler]) -> _Grid:
        height, width = pixels.shape[:2]
        plans = [network.plan(height, width) for network in networks]
        limits = [side - 4 * _HALO for plan in plans for side in plan.window if len(plan) > 1]
        sizes = 1 + int(math.log2(max(1, min([_LARGEST, max(height, width), *limits]) / _BLOCK)))
        counts = math.ceil(height / _BLOCK), math.ceil(width / _BLOCK)
        lengths = tuple(
            tuple(
                _Lengths.of(count, axis, max(network.card.min_size, least), network.card.size_multiple)
                for count, axis, least in zip(counts, (plan.rows, plan.columns), network.window_limits()[0], strict=True)
            )
            for network, plan in zip(networks, plans, strict=True)
        )
        return _Grid((height, width), counts, sizes, lengths)

    def sums(self, values: Array) -> Array:
        """Sum of (H,W) values over each of the smallest blocks."""
        rows, columns = self.counts
        padded = np.pad(values, [(0, -length % _BLOCK) for length in values.shape])
        across = padded.reshape(-1, columns, _BLOCK).sum(axis=2, dtype=np.float64)
        return np.asarray(across.reshape(rows, _BLOCK, columns).sum(axis=1))

    def seconds(self, network: int, speed: _Speed) -> Array:
        """(rows + 1, columns + 1): what boxes of that many blocks take."""
        rows, columns = self.lengths[network]
        return np.asarray(np.outer(rows.pieces, columns.pieces) * speed.seconds(rows.window, columns.window))

    def area(self, boxes: Array) -> int:
        """LR pixels of the boxes."""
        edges = np.minimum(boxes * _BLOCK, (*self.size, *self.size))
        return int(((edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])).sum())

    def tiles(self, boxes: Array, network: int) -> list[tuple[Tiling, list[tuple[Region, Region]]]]:
        """The boxes as windows of one shape after the other."""
        rows, columns = self.lengths[network]
        shapes: dict[tuple[int, int], list[tuple[Region, Region]]] = {}
        for top, left, bottom, right in boxes.tolist():
            tall, wide = int(rows.window[bottom - top]), int(columns.window[right - left])
            for (y, end_y), (x, end_x) in itertools.product(
                self._pieces(rows, 0, top, bottom), self._pieces(columns, 1, left, right)
            ):
                shapes.setdefault((tall, wide), []).append((rows.region(y, end_y, tall), columns.region(x, end_x, wide)))
        return [
            (Tiling(Axis(rows.padded, tall, (), ()), Axis(columns.padded, wide, (), ())), tiles)
            for (tall, wide), tiles in shapes.items()
        ]

    def _pieces(self, lengths: _Lengths, axis: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Where what each window of these blocks restores begins and ends, in LR pixels."""
        blocks = int(lengths.blocks[last - first])
        for block in range(first, last, blocks):
            yield block * _BLOCK, min(min(block + blocks, last) * _BLOCK, self.size[axis])


def _batch(tiling: Tiling) -> int:
    """How many windows go through a network at once: as many as make a large one."""
    tall, wide = tiling.window
    return 1 << min(3, max(0, int(math.log2(_BATCHED_AREA / (tall * wide)))))


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
