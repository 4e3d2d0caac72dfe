"""Upscaler: a bundle as a callable from image to image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from sr_deploy.bundle import Bundle
from sr_deploy.engines import select_backend
from sr_deploy.engines.engine import Array
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.runtime.color import bleed
from sr_deploy.runtime.image import Picture
from sr_deploy.runtime.memory import available_memory
from sr_deploy.runtime.resample import resample
from sr_deploy.runtime.size import TargetSize
from sr_deploy.runtime.tiling import FAST_MULTIPLE, Region, Tiling, plan_tiles, tile_for_memory
from sr_deploy.runtime.windows import CHROMA_REACH, OnFailure, Outcome, Precision, WindowRunner

Progress = Callable[[int, int], None]

_DEFAULT_MEMORY = 768 << 20
_SMALLEST_TILE = 32


@dataclass(frozen=True)
class Stats:
    """What the sentinel saw since the Upscaler was opened: windows run, recomputed in fp32, replaced by bicubic."""

    tiles: int = 0
    recomputed: int = 0
    replaced: int = 0


class Upscaler:
    """Upscales images by the network of a bundle.

        with Upscaler("rlfn_x4") as upscale:
            large = upscale(small)      # (H, W, 3) uint8 RGB -> (4H, 4W, 3) uint8 RGB

    May be called from several threads: the network runs one window at a time, the rest overlaps. Results belong to the caller.

    model: a bundle folder, an .onnx file, or an opened Bundle. precision: 'auto' is bf16 for 8-bit images where the CPU
    computes it natively, else fp32. tile: side of a tile in LR pixels, 0 for the whole image, 'auto' for the largest that fits
    `memory` bytes (default 768 MiB, at most half of what is free). on_failure: what happens to a window whose pixels are NaN,
    Inf or collapsed in fp32 too: 'raise', or 'bicubic' in its place. allow_cpu: whether backend 'auto' may take the CPU where
    there is a GPU that no backend can use.

    Raises: BundleError, BackendUnavailableError, UsageError.
    """

    def __init__(
        self,
        model: str | Path | Bundle,
        *,
        backend: str = "auto",
        precision: Precision = "auto",
        tile: int | Literal["auto"] = "auto",
        on_failure: OnFailure = "raise",
        memory: int | None = None,
        threads: int | None = None,
        allow_cpu: bool = False,
    ) -> None:
        if tile != "auto" and tile != 0 and tile < _SMALLEST_TILE:
            raise UsageError(f"a tile of {tile} pixels is too small; use 0 (whole image), 'auto', or {_SMALLEST_TILE} and more")
        self.bundle = model if isinstance(model, Bundle) else open_bundle(model)
        self.card = self.bundle.card
        self.scale = self.card.scale
        self._tile = tile
        self._memory = memory if memory is not None else min(_DEFAULT_MEMORY, available_memory() // 2)
        chosen = select_backend(backend, allow_cpu=allow_cpu)
        self._windows = WindowRunner(self.bundle, backend=chosen, precision=precision, on_failure=on_failure, threads=threads)
        self._stats = Stats()
        self._stats_lock = threading.Lock()

    @property
    def description(self) -> str:
        """Network, backend and precision in one line."""
        return f"{self.card.name} on {self._windows.description}"

    @property
    def stats(self) -> Stats:
        return self._stats

    def __call__(self, image: Array, *, progress: Progress | None = None) -> Array:
        """The image at `scale` times its size.

        image: (H,W,C) with C 3 (RGB), 1 (gray), 4 or 2 (with alpha last), or (H,W) gray; uint8, uint16, or float32, nominally
        in [0,1]: values beyond are scaled into it for the network and back. The result has the same form and dtype. progress:
        called as progress(windows done, windows in all).

        Raises: UsageError for another form; UnhealthyOutputError with the tile's box; EngineError.
        """
        planes = image[..., None] if image.ndim == 2 else image
        if planes.ndim != 3 or planes.shape[2] not in (1, 2, 3, 4) or 0 in planes.shape:
            raise UsageError(
                f"an image of shape {image.shape} cannot be upscaled; expected (H,W), or (H,W,C) with 1 to 4 channels"
            )
        if planes.dtype not in (np.uint8, np.uint16, np.float32):
            raise UsageError(f"an image of {image.dtype} cannot be upscaled; expected uint8, uint16 or float32 in [0,1]")
        if planes.shape[2] in (1, 3):
            large = self._upscale(planes, progress)
        else:
            alpha = planes[..., -1]
            color = self._upscale(bleed(np.ascontiguousarray(planes[..., :-1]), alpha), progress)
            large = np.concatenate([color, self._upscale_alpha(alpha)[..., None]], axis=2)
        return large[..., 0] if image.ndim == 2 else large

    def upscale_picture(self, picture: Picture, *, size: TargetSize | None = None, progress: Progress | None = None) -> Picture:
        """The picture upscaled, then resampled to `size` when that differs; metadata is kept.

        Raises: as `__call__`.
        """
        pixels, alpha = picture.pixels, picture.alpha
        large = self._upscale(pixels if alpha is None else bleed(pixels, alpha), progress)
        large_alpha = None if alpha is None else self._upscale_alpha(alpha)
        if size is not None:
            target = size.resolve(pixels.shape[0], pixels.shape[1], self.scale)
            large = resample(large, target)
            large_alpha = None if large_alpha is None else resample(large_alpha, target)
        return replace(picture, pixels=large, alpha=large_alpha)

    def close(self) -> None:
        """Release the engines; closing twice is fine."""
        self._windows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _upscale_alpha(self, alpha: Array) -> Array:
        """(H,W) -> (sH,sW); a constant plane needs no network."""
        if (alpha == alpha.flat[0]).all():
            return np.full([side * self.scale for side in alpha.shape], alpha.flat[0], dtype=alpha.dtype)
        return self._upscale(np.ascontiguousarray(alpha[..., None]), None)[..., 0]

    def _upscale(self, pixels: Array, progress: Progress | None) -> Array:
        """(H,W,C), C 3 or 1, of any depth; floats beyond [0,1] are scaled into it and back."""
        if pixels.dtype != np.float32:
            return self._upscale_tiles(pixels, progress)
        darkest, brightest = float(pixels.min()), float(pixels.max())
        if not np.isfinite(darkest + brightest):
            raise UsageError("the image holds NaN or Inf; replace these pixels first")
        low, high = min(0.0, darkest), max(1.0, brightest)
        if (low, high) == (0.0, 1.0):
            return self._upscale_tiles(pixels, progress)
        return self._upscale_tiles((pixels - low) / np.float32(high - low), progress) * np.float32(high - low) + np.float32(low)

    def _upscale_tiles(self, pixels: Array, progress: Progress | None) -> Array:
        padded = self._padded(pixels)
        height, width = pixels.shape[:2]
        memory = self._memory
        while True:
            tiling = self._plan(padded.shape[0], padded.shape[1], memory)
            try:
                large = self._run(padded, tiling, progress)
            except (OutOfMemoryError, MemoryError):
                if max(tiling.window) <= _SMALLEST_TILE + 2 * self._halo() + FAST_MULTIPLE:
                    raise
                memory = tiling.window[0] * tiling.window[1] * self._bytes_per_pixel() // 2
                continue
            return large if padded is pixels else np.ascontiguousarray(large[: height * self.scale, : width * self.scale])

    def _padded(self, pixels: Array) -> Array:
        """The image extended at the right and the bottom to the smallest size and the multiple that the network takes."""
        multiple = self.card.size_multiple
        missing = [-(-max(side, self.card.min_size) // multiple) * multiple - side for side in pixels.shape[:2]]
        if missing == [0, 0]:
            return pixels
        return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

    def _bytes_per_pixel(self) -> int:
        return self.card.activation_bytes + 2 * self.card.channels * (1 + self.scale**2)

    def _halo(self) -> int:
        """The network's reach; beside a luma network, chroma is resampled, which reaches further than a small network."""
        return self.card.halo if self.card.channels == 3 else max(self.card.halo, CHROMA_REACH)

    def _plan(self, height: int, width: int, memory: int) -> Tiling:
        halo, approximate = self._halo(), self.card.tiling == "approximate"
        fitting = tile_for_memory(
            height, width, bytes_per_pixel=self._bytes_per_pixel(), memory=memory, halo=halo, smallest=_SMALLEST_TILE
        )
        wanted = fitting if self._tile == "auto" else self._tile
        if memory < self._memory and fitting > 0:
            wanted = min(wanted or fitting, fitting)
        return plan_tiles(height, width, tile=wanted, halo=halo, blend=approximate, multiple=self.card.size_multiple)

    def _run(self, pixels: Array, tiling: Tiling, progress: Progress | None) -> Array:
        windows = self._run_windows(pixels, tiling, progress)
        if len(tiling) == 1:
            ((_, _, whole),) = windows
            return whole
        scale = self.scale
        height, width, channels = pixels.shape
        large = np.empty((height * scale, width * scale, channels), pixels.dtype)
        for row, column, window in windows:
            fading = large[row.fade_from * scale : row.solid_from * scale]
            if column.start == 0:
                above = fading.copy()
            _paste(large, window, row, column, scale)
            if column.end == width:
                _fade(above, fading, axis=0)
        return large

    def _run_windows(self, pixels: Array, tiling: Tiling, progress: Progress | None) -> Iterator[tuple[Region, Region, Array]]:
        """Every window of the tiling through the network: its rows, its columns, its result."""
        tall, wide = tiling.window
        for index, (row, column) in enumerate(tiling):
            box = pixels[row.start : row.start + tall, column.start : column.start + wide]
            window, outcome = self._windows.run(box, top=row.start, left=column.start)
            self._count(outcome)
            if progress is not None:
                progress(index + 1, len(tiling))
            yield row, column, window

    def _count(self, outcome: Outcome) -> None:
        with self._stats_lock:
            self._stats = Stats(
                self._stats.tiles + 1,
                self._stats.recomputed + (outcome != "good"),
                self._stats.replaced + (outcome == "replaced"),
            )


def _paste(large: Array, window: Array, row: Region, column: Region, scale: int) -> None:
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
    _fade(left, fading, axis=1)


def _fade(first: Array, second: Array, *, axis: Literal[0, 1]) -> None:
    """Turn `second` into a linear fade along `axis` from `first` to itself."""
    length = second.shape[axis]
    if length == 0:
        return
    weights = (np.arange(length, dtype=np.float32) + 0.5) / length
    weights = weights[:, None, None] if axis == 0 else weights[None, :, None]
    mixed = first + weights * (second.astype(np.float32) - first)
    second[...] = np.round(mixed) if second.dtype != np.float32 else mixed
