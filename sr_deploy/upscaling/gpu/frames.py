"""Whole frames through engines on GPUs: cut into tiles, run in batches and put together there, several frames in flight."""

from __future__ import annotations

import contextlib
import math
import queue
import sys
import threading
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray, describe
from sr_deploy.device.gpu import free_memory
from sr_deploy.device.streams import Stream
from sr_deploy.device.video_planes import PlaneFormat
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.errors import FeedError
from sr_deploy.upscaling.gpu.slots import CONTEXTS, Context, Health, Slot
from sr_deploy.upscaling.sentinel import WindowRunner
from sr_deploy.upscaling.tiling import Tiling

_SIZES_KEPT = 2
"""A folder of pictures of many sizes must not fill the GPU."""

_UNKNOWN_MEMORY = 4 << 30


@dataclass(frozen=True)
class Schedule:
    """How frames go over a GPU.

    tile: its side in LR pixels, 0 for the whole frame. batch: tiles that the engine runs at once. slots: frames in flight.
    options: some of `Backend.options`.
    """

    tile: int = 0
    batch: int = 1
    slots: int = 2
    options: tuple[str, ...] = ()


def size_class(height: int, width: int) -> int:
    """Frames of one class are of about one size: their pixels differ by less than a factor of two."""
    return round(math.log2(height * width))


class FrameRunner:
    """Runs frames of one size through engines, each on a GPU of its own.

    Methods may be called from `concurrency` threads at once; further ones wait for a slot. Results belong to the caller: no
    later frame changes them. `tiling` covers the frame, which is mirrored where tiles reach beyond its right or lower border.
    `planes`: what `run` gives in place of RGB: the codes of that format, flat.

    Raises: OutOfMemoryError, EngineError.
    """

    def __init__(
        self,
        engines: Sequence[DeviceEngine],
        tiling: Tiling,
        size: tuple[int, ...],
        *,
        scale: int,
        batch: int = 1,
        slots: int = 2,
        planes: PlaneFormat | None = None,
    ) -> None:
        leases: list[tuple[DeviceEngine, int]] = []
        self._slots: list[Slot] = []
        weakref.finalize(self, _release, self._slots, leases)
        for engine in engines:
            leases += [(engine, number) for number in CONTEXTS.take(engine, slots)]
        self._idle: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for engine, number in sorted(leases, key=lambda lease: lease[1]):
            slot = Slot(Context(engine, number, tiling, size, scale=scale, batch=batch), size, scale, planes)
            self._slots.append(slot)
            self._idle.put(slot)

    @property
    def concurrency(self) -> int:
        """How many frames are under way at most."""
        return len(self._slots)

    def run(self, frame: Array) -> tuple[Array, Health]:
        """(H,W,3) uint8 in the host's memory -> (sH,sW,3) uint8, or the codes of `planes`; for engines in pixel form.

        Raises: OutOfMemoryError, EngineError.
        """
        with self._slot() as slot:
            return slot.run(frame)

    def run_from_device(self, frame: DeviceArray) -> tuple[Array, Health]:
        """(1,H,W,3) on the first of the devices, uint8, or fp32 in [0,1] for engines of floats -> the codes of `planes`.

        Raises: OutOfMemoryError, EngineError.
        """
        with self._slot() as slot:
            return slot.run_from_device(frame)

    def run_on_device(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream = None) -> Health:
        """Fill `large` (1,sH,sW,3) from `frame` (1,H,W,3), both on the engines' one device, by way of the stream or an own one.

        They are uint8 for engines in pixel form, else fp16 or fp32 in [0,1]; views of (1,3,H,W) arrays are as good as any.
        Returns when `large` is there, since its health is known only then.

        Raises: FeedError, OutOfMemoryError, EngineError.
        """
        with self._slot() as slot:
            return slot.run_on_device(frame, large, stream=stream)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[Slot]:
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)


def _release(slots: list[Slot], leases: list[tuple[DeviceEngine, int]]) -> None:
    for slot in slots:
        slot.forget()
    for engine, number in leases:
        CONTEXTS.give_back(engine, number)


class FrameRunners:
    """FrameRunners for the sizes that came last, on the GPUs of that number; `schedules` by size class, at least one."""

    def __init__(self, windows: WindowRunner, gpus: Sequence[int], schedules: Mapping[int, Schedule], scale: int) -> None:
        self._schedules = schedules
        self._windows = windows
        self._gpus = tuple(gpus)
        self._scale = scale
        self._runners: dict[tuple[Hashable, ...], FrameRunner] = {}
        self._lock = threading.Lock()

    @property
    def concurrency(self) -> int:
        """How many frames are under way at most."""
        return max(schedule.slots for schedule in self._schedules.values()) * len(self._gpus)

    @property
    def is_single(self) -> bool:
        """Whether all frames go over one GPU."""
        return len(self._gpus) == 1

    def schedule(self, height: int, width: int) -> Schedule:
        """How frames of that size go, or of the nearest that is known."""
        wanted = size_class(height, width)
        return self._schedules[min(self._schedules, key=lambda known: abs(known - wanted))]

    @property
    def memory(self) -> int:
        """Bytes that one frame may take, on the GPU that has least to spare: a quarter of what is free there now."""
        return min(free_memory(gpu) or _UNKNOWN_MEMORY for gpu in self._gpus) // 4

    @property
    def device(self) -> Device:
        """The first of the GPUs.

        Raises: as `runner`.
        """
        return self._engine(np.uint8, self._gpus[0], self._any_schedule).device

    def limits(self, dtype: DTypeLike) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest (h,w) that every engine for frames of that dtype takes.

        Raises: as `runner`.
        """
        limits = [_window_limits(self._engine(dtype, gpu, self._any_schedule)) for gpu in self._gpus]
        least, most = zip(*limits, strict=True)
        return (max(h for h, _ in least), max(w for _, w in least)), (min(h for h, _ in most), min(w for _, w in most))

    def runner(
        self,
        tiling: Tiling,
        size: tuple[int, ...],
        dtype: DTypeLike = np.uint8,
        *,
        first: bool = False,
        planes: PlaneFormat | None = None,
    ) -> FrameRunner:
        """For frames of that size (H,W) and dtype, on all GPUs or the `first` alone; with results in `planes`.

        Raises: BundleError, BackendUnavailableError, OutOfMemoryError, EngineError.
        """
        key = (tiling, size, np.dtype(dtype), first, planes)
        with self._lock:
            runner = self._runners.pop(key, None)
            if runner is None:
                gpus = self._gpus[:1] if first else self._gpus
                engines = [self._engine(dtype, gpu, self.schedule(*size)) for gpu in gpus]
                self._make_room(engines)
                runner = self._new(engines, tiling, size, planes)
            self._runners[key] = runner
            return runner

    def close(self) -> None:
        with self._lock:
            self._runners.clear()

    @property
    def _any_schedule(self) -> Schedule:
        """One whose engines take what those of the others take."""
        return next(iter(self._schedules.values()))

    def _engine(self, dtype: DTypeLike, gpu: int, schedule: Schedule) -> DeviceEngine:
        return self._windows.device_engine(dtype, gpu, schedule.options)

    def _make_room(self, engines: Sequence[DeviceEngine]) -> None:
        """Let go of the oldest runners; those that are at work end by themselves."""
        while self._runners and not (len(self._runners) < _SIZES_KEPT and all(map(CONTEXTS.has_free, engines))):
            del self._runners[next(iter(self._runners))]

    def _new(
        self, engines: Sequence[DeviceEngine], tiling: Tiling, size: tuple[int, ...], planes: PlaneFormat | None
    ) -> FrameRunner:
        height, width = size
        schedule = self.schedule(height, width)
        batch = _batch(min(schedule.batch, len(tiling)), engines)
        return FrameRunner(engines, tiling, size, scale=self._scale, batch=batch, slots=schedule.slots, planes=planes)


def _batch(wanted: int, engines: Sequence[DeviceEngine]) -> int:
    """The nearest number of tiles that every engine takes at once."""
    ranges = [engine.limits[engine.inputs[0].name] for engine in engines if engine.limits]
    return max(min(wanted, *(most[0] for _, most in ranges)), *(least[0] for least, _ in ranges)) if ranges else wanted


def _window_limits(engine: DeviceEngine) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest (h,w) of the engine's one input: (N,h,w,3) uint8 or (N,C,h,w) floats."""
    (spec,) = engine.inputs
    least, most = engine.limits.get(spec.name, ((0,) * 4, (sys.maxsize,) * 4))
    height, width = (1, 2) if spec.dtype == np.uint8 else (2, 3)
    return (least[height], least[width]), (most[height], most[width])


def as_frames(array: DeviceArray) -> DeviceArray:
    """(N,H,W,3), a view of uint8 (H,W,3) or (N,H,W,3), or of floats (3,H,W) or (N,3,H,W)."""
    if len(array.shape) not in (3, 4) or 0 in array.shape:
        raise FeedError(f"{describe(array)} is no image; expected uint8 (H,W,3) or (N,H,W,3), or floats (3,H,W) or (N,3,H,W)")
    batch = array if len(array.shape) == 4 else array.contiguous().reshape((1, *array.shape))
    frames = batch if array.dtype.__name__ == "uint8" else batch.transpose((0, 2, 3, 1))
    if frames.shape[3] != 3:
        raise FeedError(f"{describe(array)} has {frames.shape[3]} channels; expected 3: RGB, last in uint8, first in floats")
    return frames
