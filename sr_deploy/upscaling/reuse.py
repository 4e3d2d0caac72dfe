"""Exact temporal reuse: what a frame has in common with the frame before it is not computed again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.upscaling.tiling import Region, Tiling
from sr_deploy.upscaling.upscaler import Upscaler

Tile = tuple[Region, Region]

_PROBE_EVERY = 16
_MOST = 0.5
"""Small tiles cost up to half more than large ones, so they pay where clearly fewer than all are computed."""
_FRAMES_OF_A_CUT = 1
"""A cut changes one frame; the still picture after it is reused only if that frame was computed in small tiles."""


@dataclass(frozen=True)
class ReuseStats:
    """What was reused, and what that saved.

    frames: all of them. frames_reused: those that were equal to the frame before. tiles_computed, tiles_reused: of all frames.
    comparing: seconds spent on finding out. saved: seconds that the reused tiles would have taken, an estimate.
    """

    frames: int = 0
    frames_reused: int = 0
    tiles_computed: int = 0
    tiles_reused: int = 0
    comparing: float = 0.0
    saved: float = 0.0


class FrameReuse:
    """Upscales the frames of a stream, computing only those tiles that differ from the frame before.

        reuse = FrameReuse(upscaler)
        for frame in frames:
            large = reuse(frame)      # (H, W, 3) -> (sH, sW, 3), read-only

    A tile is reused when its window, halo included, is bit-equal to that of the frame before; where tiles cannot stand alone
    (`Upscaler._has_independent_tiles`), only whole frames are. While most of the picture moves, frames are cut into the large
    tiles of `Upscaler._plan`, and reuse costs next to nothing; else into the small ones of `Upscaler._plan_finely`. That choice
    depends on the frames since the start or `restart` alone, and is the same with `enabled=False`: so is every bit of the
    results.

    planes: what results are in place of RGB where a GPU can give them: the codes of that format, (n,), there or on the host.

    Results are read-only and never change: equal frames share one. Size and depth may change from frame to frame. Calls from
    several threads are fine on GPUs, where there is one choice of tiles; on a CPU, frames come in order, one at a time.
    """

    def __init__(self, upscaler: Upscaler, *, enabled: bool = True, planes: PlaneFormat | None = None) -> None:
        self._upscaler = upscaler
        self._enabled = enabled
        self._planes = planes
        self._tilings: dict[tuple[int, int, bool], Tiling] = {}
        self._moving = 0
        self._last: _Finished | None = None
        self._tile_seconds = 0.0
        self._stats = ReuseStats()
        self._lock = threading.Lock()

    @property
    def stats(self) -> ReuseStats:
        return self._stats

    def restart(self) -> None:
        """Forget all frames: results from here on are those of a stream that starts here, as when one is resumed."""
        with self._lock:
            self._moving = 0
            self._last = None

    def __call__(self, frame: Array) -> Array:
        """The frame at `scale` times its size, read-only.

        frame: (H,W,3) RGB or (H,W,1) gray, uint8 or uint16; nothing of it is kept.

        Raises: UsageError for another form; UnhealthyOutputError with the tile's box; EngineError.
        """
        if frame.ndim != 3 or frame.shape[2] not in (1, 3) or 0 in frame.shape or frame.dtype not in (np.uint8, np.uint16):
            raise UsageError(
                f"a frame of {frame.dtype} and shape {frame.shape} cannot be upscaled; "
                "expected uint8 or uint16 of shape (H,W,3) or (H,W,1)"
            )
        start = time.perf_counter()
        with self._lock:
            look = self._look(frame)
        kept = look.last.frame if look.last and not look.changed else frame.copy()
        comparing = time.perf_counter() - start
        large, tiling, computed = self._upscale(frame, look)
        computing = time.perf_counter() - start - comparing
        with self._lock:
            self._last = _Finished(kept, large, tiling, look.coarse)
            self._count(computed, len(tiling) - computed, comparing, computing)
        return large

    def _look(self, frame: Array) -> _Difference:
        """Compare the frame with the one before, and choose its tiles; an unchanged frame has those of the one before."""
        last, fine = self._last, self._tiling(frame, coarse=False)
        if last is None or not last.is_like(frame):
            return _Difference(None, fine, (), coarse=self._moving > _FRAMES_OF_A_CUT)
        changed = self._changed(last.frame, frame, fine)
        self._moving = self._moving + 1 if len(changed) > _MOST * len(fine) else 0
        return _Difference(last, fine, changed, coarse=self._moving > _FRAMES_OF_A_CUT if changed else last.coarse)

    def _changed(self, before: Array, frame: Array, tiling: Tiling) -> Sequence[Tile]:
        """The tiles whose windows differ; all or none, where tiles cannot stand alone."""
        tiles = tuple(tiling)
        if not self._upscaler._has_independent_tiles:
            return () if _equal(before, frame) else tiles
        tall, wide = tiling.window
        boxes = [np.s_[row.start : row.start + tall, column.start : column.start + wide] for row, column in tiles]
        return [tile for tile, box in zip(tiles, boxes, strict=True) if not _equal(before[box], frame[box])]

    def _upscale(self, frame: Array, look: _Difference) -> tuple[Array, Tiling, int]:
        """The result, the tiles it is made of, and how many of them were computed."""
        last, changed = look.last, look.changed
        while True:
            tiling = self._tiling(frame, coarse=look.coarse)
            try:
                if self._enabled and last is not None and last.tiling == tiling and (not changed or look.tiling == tiling):
                    return self._patched(last, frame, changed), tiling, len(changed)
                return self._whole(frame, tiling), tiling, len(tiling)
            except (OutOfMemoryError, MemoryError):
                smaller = self._upscaler._plan_smaller(tiling)
                if smaller is None:
                    raise
                self._tilings[(*frame.shape[:2], look.coarse)] = smaller

    def _patched(self, last: _Finished, frame: Array, changed: Sequence[Tile]) -> Array:
        """The last result with the changed tiles computed."""
        if not changed:
            return last.large
        if len(changed) == len(last.tiling):
            return self._whole(frame, last.tiling)
        scale = self._upscaler.scale
        large = last.large.copy()
        for row, column, window in self._upscaler._run_tiles(frame, last.tiling, changed):
            target = large[row.fade_from * scale : row.end * scale, column.fade_from * scale : column.end * scale]
            top, left = (row.fade_from - row.start) * scale, (column.fade_from - column.start) * scale
            target[...] = window[top : top + target.shape[0], left : left + target.shape[1]]
        return _frozen(large)

    def _whole(self, frame: Array, tiling: Tiling) -> Array:
        """All tiles computed."""
        codes = None if self._planes is None else self._upscaler._run_to_planes(frame, tiling, self._planes)
        return _frozen(self._upscaler._run_tiling(frame, tiling) if codes is None else codes)

    def _tiling(self, frame: Array, *, coarse: bool) -> Tiling:
        height, width = frame.shape[:2]
        if (height, width, coarse) not in self._tilings:
            plan = self._upscaler._plan if coarse else self._upscaler._plan_finely
            self._tilings[height, width, coarse] = plan(height, width)
        tiling = self._tilings[height, width, coarse]
        self._upscaler._settle(tiling)
        return tiling

    def _count(self, computed: int, reused: int, comparing: float, computing: float) -> None:
        if computed > 0:
            self._tile_seconds = computing / computed
        before = self._stats
        self._stats = ReuseStats(
            before.frames + 1,
            before.frames_reused + (computed == 0),
            before.tiles_computed + computed,
            before.tiles_reused + reused,
            before.comparing + comparing,
            before.saved + reused * self._tile_seconds,
        )


@dataclass(frozen=True)
class _Finished:
    """A frame, its result, and the tiles that was computed in; nobody changes the arrays any more."""

    frame: Array
    large: Array
    tiling: Tiling
    coarse: bool

    def is_like(self, frame: Array) -> bool:
        return frame.shape == self.frame.shape and frame.dtype == self.frame.dtype


@dataclass(frozen=True)
class _Difference:
    """What comparing a frame told: with which one, its tiles that changed, and whether to compute it in large ones."""

    last: _Finished | None
    tiling: Tiling
    changed: Sequence[Tile]
    coarse: bool


def _equal(first: Array, second: Array) -> bool:
    """Whether the arrays are bit-equal; where pictures differ, a few rows usually tell."""
    return np.array_equal(first[::_PROBE_EVERY], second[::_PROBE_EVERY]) and np.array_equal(first, second)


def _frozen(large: Array) -> Array:
    if isinstance(large, np.ndarray):
        large.flags.writeable = False
    return large
