"""Frames -> tile batch -> (an engine) -> frames on a device, and the health of what the engine gives.

    device = Device("cuda:0")                       # "cpu" runs the same kernels, for tests
    tiling = DeviceTiling(device, rows, columns, window=(272, 480), scale=4)
    tiles = device.empty((len(tiling), 3, 272, 480), "float16")
    tiling.gather(device.array(frames), tiles)      # then an engine reads `tiles.ptr`, on the same stream
    tiling.scatter(large_tiles, large_frames)

Nothing here allocates while it runs, so that a CUDA graph can record it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sr_deploy.device.device import Device, DeviceArray, Launch, chained, describe
from sr_deploy.device.streams import Stream
from sr_deploy.errors import FeedError, UsageError

_PARTIAL_SUMS = (16384, 128, 1)
"""Threads per tile, from pass to pass: enough for a GPU at first, few enough at last."""


class Span(Protocol):
    """One tile's share of an axis in LR pixels: seen from `start`, fading in over [fade_from, solid_from), solid to `end`."""

    @property
    def start(self) -> int: ...
    @property
    def fade_from(self) -> int: ...
    @property
    def solid_from(self) -> int: ...
    @property
    def end(self) -> int: ...


class DeviceTiling:
    """Tiles of frames, row by row: `rows` and `columns` as `runtime.tiling` plans them, `window` = (h,w) in LR pixels.

    Tiles are (N*T,C,h,w) fp16 or fp32 in [0,1], for graphs as they are, or (N*T,h,w,C) uint8, for graphs in pixel form. Those
    that an engine gives may be planes that a pixel shuffle would make larger, (N*T,C*r*r,h/r,w/r), for graphs in planes form.
    Tile t of frame n is number n * len(tiling) + t of a batch. An engine with a smaller batch runs on slices of it. Frames may
    be smaller than what was planned: they are mirrored at their last row and column, and the result is cropped.

    Raises: UsageError when the spans do not cover their axis, or reach out of it.
    """

    def __init__(
        self, device: Device, rows: Sequence[Span], columns: Sequence[Span], *, window: tuple[int, int], scale: int
    ) -> None:
        for spans, length in zip((rows, columns), window, strict=True):
            _check_spans(spans, length)
        self.window = window
        self.scale = scale
        self.size = (rows[-1].end, columns[-1].end)
        self._count = len(rows) * len(columns)
        self._device = device
        self._spans = [device.array(_table(spans)) for spans in (rows, columns)]
        self._owners = [device.array(_owners(spans)) for spans in (rows, columns)]

    def __len__(self) -> int:
        return self._count

    def gather(self, frames: DeviceArray, tiles: DeviceArray, *, stream: Stream = None) -> None:
        """Fill `tiles` from `frames` (N,H,W,C), uint8 for all tiles, or fp16 or fp32 in [0,1] for tiles of floats.

        A transposed view of an (N,C,H,W) array is as good as any.

        Raises: FeedError, EngineError.
        """
        self.gathering(frames, tiles)(stream)

    def gathering(self, frames: DeviceArray, tiles: DeviceArray) -> Launch:
        """`gather` of these arrays, to be put on streams again and again.

        Raises: as `gather`.
        """
        self._check_frames(frames, scale=1)
        planar, block = self._planar(tiles, frames, scale=1)
        if block != 1:
            raise FeedError(f"{describe(tiles)} are planes of smaller tiles; expected tiles of {self.window}")
        from sr_deploy.device import tiling_kernels as kernels

        batch, _, height, width = planar.shape
        factor = _white(planar) / _white(frames)
        return self._device.command(kernels.gather, (batch, height, width), [frames, *self._spans, factor, planar])

    def scatter(
        self,
        tiles: DeviceArray,
        frames: DeviceArray,
        *,
        white: float | None = None,
        magnitudes: DeviceArray = None,
        stream: Stream = None,
    ) -> None:
        """Fill `frames` (N,sH,sW,C), as `gather` takes them, from `tiles` that are `scale` times as large, faded in the seams.

        In uint8 values are rounded half to even and clamped, NaN is 0; floats stay what they are. Both are bit for bit what
        `Upscaler` makes of the same tiles. white: what stands for white in tiles of floats, 1 by default. magnitudes: fp32, as
        `magnitudes` makes them, gets what `HealthMeter` reads the health of the tiles from, so that it need not read the tiles.

        Raises: FeedError, EngineError.
        """
        self.scattering(tiles, frames, white=white, magnitudes=magnitudes)(stream)

    def scattering(
        self, tiles: DeviceArray, frames: DeviceArray, *, white: float | None = None, magnitudes: DeviceArray = None
    ) -> Launch:
        """`scatter` of these arrays, to be put on streams again and again.

        Raises: as `scatter`.
        """
        self._check_frames(frames, scale=self.scale)
        planar, block = self._planar(tiles, frames, scale=self.scale)
        batch = planar.shape[0]
        if magnitudes is not None:
            _expect(magnitudes, self._magnitudes_shape(batch), "float32")
        from sr_deploy.device import tiling_kernels as kernels

        factor = _white(frames) / (white or _white(planar))
        spans = [*self._spans, *self._owners]
        arguments = [planar, *spans, self.scale, block, factor, frames, magnitudes]
        return self._device.command(kernels.scatter, self._magnitudes_shape(batch), arguments)

    def magnitudes(self, batch: int) -> DeviceArray:
        """An array for the magnitudes of that many tiles, (batch,h,sw) fp32.

        `scatter` writes into each element the sum of |values| of the C*s pixels below it, so that they need not be read again.
        """
        return self._device.empty(self._magnitudes_shape(batch), "float32")

    def _magnitudes_shape(self, batch: int) -> tuple[int, int, int]:
        return batch, self.window[0], self.window[1] * self.scale

    def _check_frames(self, frames: DeviceArray, *, scale: int) -> None:
        _expect(frames, (-1, -1, -1, -1), "uint8", "float16", "float32")
        _, height, width, _ = frames.shape
        if height > self.size[0] * scale or width > self.size[1] * scale:
            raise FeedError(f"{describe(frames)} is larger than what these tiles cover; plan tiles for frames of that size")

    def _planar(self, tiles: DeviceArray, frames: DeviceArray, *, scale: int) -> tuple[DeviceArray, int]:
        """The tiles as (N*T,C*r*r,h/r,w/r), and r."""
        tall, wide = (side * scale for side in self.window)
        count, channels = frames.shape[0] * len(self), frames.shape[3]
        if frames.dtype.__name__ == tiles.dtype.__name__ == "uint8":
            _expect(tiles, (count, tall, wide, channels), "uint8")
            return tiles.transpose((0, 3, 1, 2)), 1
        block = max(1, tall // tiles.shape[2]) if len(tiles.shape) == 4 and tiles.shape[2] else 1
        _expect(tiles, (count, channels * block**2, tall // block, wide // block), "float16", "float32")
        return tiles, block


@dataclass(frozen=True)
class Measured:
    """What means of |value| are taken of, per tile: (batch,C,H,W) fp16 or fp32, (batch,H,W,C) uint8, or magnitudes; contiguous.

    white: the unit of the means. each: of how many values an element is the sum already, as in `DeviceTiling.magnitudes`.
    """

    values: DeviceArray
    white: float = 1.0
    each: int = 1


class HealthMeter:
    """Mean of |value| per tile for `batch` tiles, of one array or of several, in a fixed order of additions.

    One NaN or Inf anywhere makes a tile's mean non-finite. That tells only what was not clamped before.
    """

    def __init__(self, device: Device, batch: int) -> None:
        self._device = device
        self._sums = [device.empty((batch, parts), "float32") for parts in _PARTIAL_SUMS]
        self._ones = device.array(np.ones(batch, np.float32))

    @property
    def means(self) -> DeviceArray:
        """(batch,) fp32; the next `measure` overwrites it."""
        return self._sums[-1].reshape((self._sums[-1].shape[0],))

    def measure(self, tiles: DeviceArray, *, stream: Stream = None) -> None:
        """Fill `means` from `tiles` (batch,C,H,W) fp16 or fp32, or (batch,H,W,C) uint8, contiguous.

        Raises: FeedError, EngineError.
        """
        self.measuring(Measured(tiles))(stream)

    def measuring(self, *measured: Measured) -> Launch:
        """Fill `means` from these arrays, one after the other: to be put on streams again and again.

        Raises: FeedError unless they have `batch` tiles together; EngineError.
        """
        from sr_deploy.device import tiling_kernels as kernels

        first, second, last = self._sums
        flat = [_flat(one.values) for one in measured]
        if (batch := sum(values.shape[0] for values in flat)) != first.shape[0]:
            raise FeedError(f"got {batch} tiles to measure, expected {first.shape[0]}")
        commands: list[Launch] = []
        factors: list[float] = []
        for one, values in zip(measured, flat, strict=True):
            part = first[len(factors) : len(factors) + values.shape[0]]
            commands.append(self._device.command(kernels.sum_magnitudes, part.shape, [values, self._ones, part]))
            factors += [1.0 / (values.shape[1] * one.each * one.white)] * values.shape[0]
        units = self._device.array(np.array(factors, np.float32))
        for values, unit, sums in ((first, self._ones, second), (second, units, last)):
            commands.append(self._device.command(kernels.sum_magnitudes, sums.shape, [values, unit, sums]))
        return chained(commands)


def _flat(tiles: DeviceArray) -> DeviceArray:
    """(batch, all others) of an array that can be measured."""
    _expect(tiles, (-1, -1, -1, *(-1,) * (len(tiles.shape) == 4)), "uint8", "float16", "float32")
    if not tiles.is_contiguous:
        raise FeedError(f"{describe(tiles)} has gaps; health takes contiguous tiles")
    return tiles.reshape((tiles.shape[0], tiles.size // tiles.shape[0]))


def _white(array: DeviceArray) -> float:
    return 255.0 if array.dtype.__name__ == "uint8" else 1.0


def _table(spans: Sequence[Span]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([(span.start, span.fade_from, span.solid_from) for span in spans], np.int32)


def _owners(spans: Sequence[Span]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """For each LR pixel of an axis the last span that has a share in it."""
    starts = [span.fade_from for span in spans]
    return (np.searchsorted(starts, np.arange(spans[-1].end), side="right") - 1).astype(np.int32)


def _check_spans(spans: Sequence[Span], length: int) -> None:
    """Raise UsageError unless the kernels stay within the tiles, and each pixel has one or two per axis."""
    first = spans[0]
    good = first.start == first.fade_from == first.solid_from == 0 and spans[-1].start + length == spans[-1].end
    for before, after in itertools.pairwise(spans):
        good &= before.start <= after.start <= after.fade_from <= after.solid_from == before.end <= before.start + length
        good &= before.solid_from <= after.fade_from
    if not good:
        raise UsageError(f"{list(spans)} do not cover an axis by tiles of {length} pixels; expected what `plan_tiles` returns")


def _expect(array: DeviceArray, shape: tuple[int, ...], *dtypes: str) -> None:
    """Raise FeedError unless the array is of that shape (-1 is any side but 0) and one of these dtypes."""
    fits = len(array.shape) == len(shape) and all(
        want in (got, -1) and got > 0 for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.__name__ not in dtypes:
        sides = ", ".join("?" if side == -1 else str(side) for side in shape)
        raise FeedError(f"{describe(array)} has no place here; expected {' or '.join(dtypes)}[{sides}]")
