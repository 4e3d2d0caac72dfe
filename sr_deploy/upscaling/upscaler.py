"""Upscaler: a bundle as a callable from image to image."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sr_deploy.bundle import Bundle
from sr_deploy.card import PrecisionChoice
from sr_deploy.device.gpu import check_gpus
from sr_deploy.engines import Backend, select_backend
from sr_deploy.engines.open import open_bundle
from sr_deploy.errors import OutOfMemoryError, UsageError
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, Progress, Stats, check_options
from sr_deploy.upscaling.sentinel import OnFailure, TileOutcome, WindowRunner
from sr_deploy.upscaling.tiling import Region, TilePlanner, Tiling, fade, paste, usual_memory

if TYPE_CHECKING:
    from sr_deploy.arrays import Array
    from sr_deploy.device.device import Device, DeviceArray
    from sr_deploy.device.streams import Stream
    from sr_deploy.device.video_planes import PlaneFormat
    from sr_deploy.upscaling.gpu.frames import FrameRunners, Schedule

__all__ = ["Progress", "Stats", "Upscaler"]

_MANY_WINDOWS, _MANY_PIXELS = 4, 1 << 20
"""An image of so many windows and LR pixels pays for what it takes to prepare for their size."""


class Upscaler(ImageUpscaler):
    """Upscales images by the network of a bundle.

        with Upscaler() as upscale:
            large = upscale(small)      # (H, W, 3) uint8 RGB -> (4H, 4W, 3) uint8 RGB

    May be called from several threads: on a CPU the network runs one window at a time and the rest overlaps, on GPUs
    `concurrency` frames are under way at once. Results belong to the caller. `bundle` is what it runs, `scale` its factor.

    model: a bundle folder, an .onnx file, an opened Bundle, or a network in the box: by default `fast`, x4.
    backend: a name that `sr-deploy doctor` lists; 'auto' is the first usable one, on a GPU if there is one.
    precision: 'fp32', 'bf16', 'fp16', 'int8', on GPUs 'int8-symmetric'; 'auto' is, for 8-bit images, fp16 on a GPU, and on a
        CPU bf16 where that computes it natively, else 'int8' where the bundle has it.
    tile: side of a tile in LR pixels, 32 and more; 0 is the whole image, 'auto' the largest tile that fits `memory`.
    on_failure: for a window whose pixels are NaN, Inf or collapsed in fp32 too: 'raise', or 'bicubic' in its place.
    memory: bytes for a window's activations; None is 768 MiB, at most half of what is free; on a GPU a quarter of it.
    threads: of the CPU, for the network; None is all.
    allow_cpu: whether backend 'auto' may take the CPU where there is a GPU that no backend can use.
    gpus: numbers of those to use, which must be there; frames go to whichever is idle; None is GPU 0 if there is one.
    schedule: how frames go over a GPU; None is what `sr-deploy tune` found, or whole frames.

    Raises: BundleError, BackendUnavailableError, UsageError.
    """

    def __init__(
        self,
        model: str | Path | Bundle = "fast",
        *,
        backend: str = "auto",
        precision: PrecisionChoice = "auto",
        tile: int | Literal["auto"] = "auto",
        on_failure: OnFailure = "raise",
        memory: int | None = None,
        threads: int | None = None,
        allow_cpu: bool = False,
        gpus: Sequence[int] | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        check_options(precision=precision, tile=tile, on_failure=on_failure, memory=memory, threads=threads)
        self.bundle = model if isinstance(model, Bundle) else open_bundle(model)
        self.card = self.bundle.card
        self.scale = self.card.scale
        if gpus is not None:
            check_gpus(gpus)
        chosen = select_backend(backend, allow_cpu=allow_cpu)
        if gpus is not None and chosen.device == "cpu" and not allow_cpu:
            raise UsageError(f"backend '{chosen.name}' runs on the CPU, and GPUs are asked for; leave out one of the two")
        gpus = gpus or (0,)
        self._windows = self._new_windows(chosen, precision=precision, on_failure=on_failure, threads=threads, gpu=gpus[0])
        self._frames = None if chosen.device == "cpu" else self._new_frames(chosen, gpus, schedule)
        memory = memory if memory is not None else self._frames.memory if self._frames else usual_memory()
        self._planner = TilePlanner(
            self.card, tile, memory, limits=lambda: self._window_limits(), scheduled=self._scheduled_tile
        )
        self._stats = Stats()
        self._stats_lock = threading.Lock()
        self._of_thread = threading.local()

    @property
    def description(self) -> str:
        """Network, backend and precision in one line."""
        return f"{self.card.name} on {self._windows.description}"

    @property
    def concurrency(self) -> int:
        """How many calls from as many threads it works on at once."""
        return self._frames.concurrency if self._frames else 1

    @property
    def _has_independent_tiles(self) -> bool:
        """Whether each pixel depends on one window alone: on a CPU, with a network that is exact under tiling."""
        return self._frames is None and self.card.tiling == "exact"

    @property
    def _gives_planes(self) -> bool:
        """Whether `_run_to_planes` may give something: on a GPU, with a network of RGB."""
        return self._frames is not None and self.card.channels == 3

    @property
    def stats(self) -> Stats:
        """What the sentinel saw since it was opened."""
        return self._stats

    @property
    def stats_of_thread(self) -> Stats:
        stats: Stats = getattr(self._of_thread, "stats", Stats())
        return stats

    def on_device(self, image: Any, *, stream: Any = None) -> DeviceArray:
        """The image at `scale` times its size, from and to the memory of the first GPU, without a copy on the host.

        The result has the image's form and is there when the call returns; it is a Warp array that `from_dlpack` of other
        libraries and `to_pycuda` take as it is.

        image: whatever has DLPack or `__cuda_array_interface__`, such as arrays of torch, CuPy, PyCUDA, Numba and Warp: RGB,
            uint8 (H,W,3) or (N,H,W,3), or fp16 or fp32 (3,H,W) or (N,3,H,W) in [0,1]. fp16 is computed as 8-bit images are,
            fp32 as deep ones.
        stream: the caller's CUDA stream or its handle; what is on it comes first.

        Raises: FeedError for other arrays; UsageError without a GPU or for a luma network; UnhealthyOutputError; EngineError.
        """
        if self._frames is None or self.card.channels != 3:
            raise UsageError(f"{self.description} does not run on arrays of a GPU; give numpy arrays to the Upscaler itself")
        from sr_deploy.upscaling.gpu.frames import as_frames

        device = self._frames.device
        theirs = None if stream is None else device.stream(stream)
        source = device.array(image, stream=theirs)
        device.synchronize(theirs)
        frames = as_frames(source)
        device.synchronize()
        count, height, width, _ = frames.shape
        large_shape = (height * self.scale, width * self.scale)
        planar = source.dtype.__name__ != "uint8"
        large = device.empty((count, 3, *large_shape) if planar else (count, *large_shape, 3), source.dtype.__name__)
        for index in range(count):
            part = slice(index, index + 1)
            self._run_on_device(frames[part], as_frames(large)[part], theirs)
        return large.reshape(large.shape[4 - len(source.shape) :])

    def _plan(self, height: int, width: int) -> Tiling:
        """The tiles of an image of that size."""
        return self._planner.plan(height, width)

    def _plan_finely(self, height: int, width: int) -> Tiling:
        """Tiles so small that a change in a frame of that size touches few of them; where tiles cannot stand alone, `_plan`.

        All of them together cost more than those of `_plan`: `benchmarks/reuse.py` measures both.
        """
        return self._planner.plan_finely(height, width, independent=self._has_independent_tiles)

    def _plan_smaller(self, tiling: Tiling) -> Tiling | None:
        """A tiling that takes half the memory, for when memory has run out; None when the tiles are as small as can be."""
        return self._planner.plan_smaller(tiling)

    def _settle(self, tiling: Tiling) -> None:
        """Be told that many images will come in these tiles: preparing for their windows takes a moment, and pays."""
        self._windows.settle(*tiling.window)

    def _run_tiling(self, pixels: Array, tiling: Tiling, progress: Progress | None = None) -> Array:
        """The image upscaled by a tiling for its size; (H,W,C), C 3 or 1, uint8, uint16 or float32 in [0,1].

        Raises: UnhealthyOutputError with the tile's box; EngineError.
        """
        if (whole := self._run_frame(pixels, tiling, progress)) is not None:
            return whole
        padded = self._padded(pixels)
        large = self._run(padded, tiling, progress)
        height, width = (side * self.scale for side in pixels.shape[:2])
        return large if padded is pixels else np.ascontiguousarray(large[:height, :width])

    def _run_to_planes(self, pixels: Array, tiling: Tiling, planes: PlaneFormat) -> Array | None:
        """The frame (H,W,3) uint8 upscaled by a tiling for its size, as an encoder takes it: all codes of `planes`, flat.

        None where it does not go in one go over a GPU, or a tile of it is not healthy: `_run_tiling` computes it then.

        Raises: EngineError.
        """
        return self._run_frame(pixels, tiling, None, planes)

    def _frames_device(self) -> Device | None:
        """The GPU that frames may lie on for `_run_from_device`; None without a GPU, and where several take turns.

        Raises: BackendUnavailableError, EngineError.
        """
        return self._frames.device if self._frames is not None and self._frames.is_single and self._gives_planes else None

    def _run_from_device(self, frame: DeviceArray, planes: PlaneFormat) -> Array | None:
        """A frame (1,H,W,3) that lies on `_frames_device`, uint8, or fp32 in [0,1], upscaled: all codes of `planes`, flat.

        None where a tile of it is not healthy.

        Raises: EngineError.
        """
        assert self._frames is not None
        _, height, width, _ = frame.shape
        tiling = self._plan(height, width)
        runner = self._frames.runner(tiling, (height, width), frame.dtype.__name__, first=True, planes=planes)
        codes, health = runner.run_from_device(frame)
        if not health.is_good:
            return None
        self._count("good", len(tiling))
        return codes

    def _run_tiles(
        self, pixels: Array, tiling: Tiling, tiles: Sequence[tuple[Region, Region]]
    ) -> Iterator[tuple[Region, Region, Array]]:
        """Some tiles of a tiling for the image's size: of each its rows, its columns, and its whole window upscaled.

        Raises: as `_run_tiling`.
        """
        return self._run_windows(self._padded(pixels), tiling, tiles, None)

    def _window_limits(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest window (h,w) that the engines take."""
        if self._frames is None:
            return (0, 0), (sys.maxsize, sys.maxsize)
        return self._frames.limits(np.uint8 if self.card.channels == 3 else np.float32)

    def close(self) -> None:
        """Release the engines; closing twice is fine."""
        if self._frames is not None:
            self._frames.close()
        self._windows.close()

    def upscale_pixels(self, pixels: Array, progress: Progress | None = None) -> Array:
        tiling = self._plan(pixels.shape[0], pixels.shape[1])
        while True:
            try:
                return self._run_tiling(pixels, tiling, progress)
            except (OutOfMemoryError, MemoryError):
                smaller = self._plan_smaller(tiling)
                if smaller is None:
                    raise
                tiling = smaller

    def _new_windows(
        self, backend: Backend, *, precision: PrecisionChoice, on_failure: OnFailure, threads: int | None, gpu: int
    ) -> WindowRunner:
        return WindowRunner(self.bundle, backend=backend, precision=precision, on_failure=on_failure, threads=threads, gpu=gpu)

    def _padded(self, pixels: Array) -> Array:
        """The image mirrored at the right and the bottom up to the size that the network takes."""
        height, width = pixels.shape[:2]
        tall, wide = self._planner.padded_size(height, width)
        if (tall, wide) == (height, width):
            return pixels
        return np.pad(pixels, ((0, tall - height), (0, wide - width), (0, 0)), mode="symmetric")

    def _new_frames(self, backend: Backend, gpus: Sequence[int], schedule: Schedule | None) -> FrameRunners:
        """Frames on GPUs, by the schedule or by those that are kept."""
        from sr_deploy.upscaling.gpu.frames import FrameRunners, Schedule
        from sr_deploy.upscaling.gpu.schedules import kept_schedules

        schedules = {0: schedule} if schedule else kept_schedules(self.bundle, backend, self._windows.precision, gpus[0])
        return FrameRunners(self._windows, gpus, schedules or {0: Schedule()}, self.scale)

    def _scheduled_tile(self, height: int, width: int) -> int:
        return self._frames.schedule(height, width).tile if self._frames else 0

    def _run_frame(
        self, pixels: Array, tiling: Tiling, progress: Progress | None, planes: PlaneFormat | None = None
    ) -> Array | None:
        """The frame in one go over a GPU; None where its form does not allow that, or a tile of it is not healthy."""
        if self._frames is None or pixels.dtype != np.uint8 or pixels.shape[2] != 3 or self.card.channels != 3:
            return None
        large, health = self._frames.runner(tiling, pixels.shape[:2], planes=planes).run(pixels)
        if not health.is_good:
            return None
        self._count("good", len(tiling))
        if progress is not None:
            progress(len(tiling), len(tiling))
        return large

    def _run_on_device(self, frame: DeviceArray, large: DeviceArray, stream: Stream) -> None:
        """Fill `large` from `frame`, both (1,H,W,3); where a tile is not healthy, as images of the host are upscaled."""
        assert self._frames is not None
        _, height, width, _ = frame.shape
        tiling = self._plan(height, width)
        runner = self._frames.runner(tiling, (height, width), frame.dtype.__name__, first=True)
        health = runner.run_on_device(frame, large, stream=stream)
        if health.is_good:
            self._count("good", len(tiling))
            return
        pixels = np.ascontiguousarray(frame.numpy()[0])
        repaired = self._run(self._padded(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)), tiling, None)
        repaired = repaired[: height * self.scale, : width * self.scale].astype(pixels.dtype)
        device = self._frames.device
        device.copy(large, device.array(np.ascontiguousarray(repaired)[None]), stream=stream)
        device.synchronize(stream)

    def _run(self, pixels: Array, tiling: Tiling, progress: Progress | None) -> Array:
        if len(tiling) >= _MANY_WINDOWS and len(tiling) * math.prod(tiling.window) >= _MANY_PIXELS:
            self._settle(tiling)
        windows = self._run_windows(pixels, tiling, list(tiling), progress)
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
            paste(large, window, row, column, scale)
            if column.end == width:
                fade(above, fading, axis=0)
        return large

    def _run_windows(
        self, pixels: Array, tiling: Tiling, tiles: Sequence[tuple[Region, Region]], progress: Progress | None
    ) -> Iterator[tuple[Region, Region, Array]]:
        """These tiles of the tiling through the network: of each its rows, its columns, and its window's result."""
        tall, wide = tiling.window
        for done, (row, column) in enumerate(tiles, start=1):
            box = pixels[row.start : row.start + tall, column.start : column.start + wide]
            window, outcome = self._windows.run(box, top=row.start, left=column.start)
            self._count(outcome)
            if progress is not None:
                progress(done, len(tiles))
            yield row, column, window

    def _count(self, outcome: TileOutcome, tiles: int = 1) -> None:
        seen = Stats(tiles, int(outcome != "good"), int(outcome == "replaced"))
        self._of_thread.stats = self.stats_of_thread + seen
        with self._stats_lock:
            self._stats += seen
