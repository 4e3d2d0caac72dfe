"""Whole frames through engines on GPUs: cut into tiles, run in batches and put together there, several frames in flight.

What one frame in flight needs is a slot: a stream, a context of an engine, page-locked memory, arrays on the device, and a CUDA
graph that holds all but the copy of the result, which goes to another place each time.
"""

from __future__ import annotations

import contextlib
import functools
import math
import queue
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.engines.device import Device, DeviceArray, Stream, describe
from sr_deploy.engines.device_tiling import DeviceTiling, HealthMeter
from sr_deploy.engines.engine import Array, DeviceEngine, TensorSpec
from sr_deploy.engines.gpu import survey
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.errors import FeedError
from sr_deploy.runtime.tiling import Tiling
from sr_deploy.runtime.windows import WindowRunner, is_healthy

_LENT_AT_MOST = 8
"""Page-locked memory cannot be swapped out: whoever keeps more results than that gets ordinary copies."""


_SIZES_KEPT = 2
"""A folder of pictures of many sizes must not fill the GPU."""

_UNKNOWN_MEMORY = 4 << 30


@dataclass(frozen=True)
class Schedule:
    """How frames go over a GPU.

    tile: its side in LR pixels, 0 for the whole frame. batch: tiles that the engine runs at once. slots: frames in flight.
    """

    tile: int = 0
    batch: int = 1
    slots: int = 2


def size_class(height: int, width: int) -> int:
    """Frames of one class are of about one size: their pixels differ by less than a factor of two."""
    return round(math.log2(height * width))


@dataclass(frozen=True)
class Health:
    """Per tile: mean of |output before the clamp| in [0,1], and mean of the tile's input in [0,1]."""

    output: Array
    input: Array

    @property
    def is_good(self) -> bool:
        """Whether every tile is."""
        return all(is_healthy(float(out), float(light)) for out, light in zip(self.output, self.input, strict=True))


class FrameRunner:
    """Runs frames of one size through engines, each on a GPU of its own.

    Methods may be called from `concurrency` threads at once; further ones wait for a slot. Results belong to the caller: no
    later frame changes them. `tiling` covers the frame; where it reaches beyond its right and lower border, pixels repeat.

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
    ) -> None:
        leases: list[tuple[DeviceEngine, int]] = []
        self._slots: list[_Slot] = []
        weakref.finalize(self, _release, self._slots, leases)
        for engine in engines:
            leases += [(engine, number) for number in _CONTEXTS.take(engine, slots)]
        self._idle: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for engine, number in sorted(leases, key=lambda lease: lease[1]):
            slot = _Slot(_Context(engine, number, tiling, size, scale=scale, batch=batch), size, scale)
            self._slots.append(slot)
            self._idle.put(slot)

    @property
    def concurrency(self) -> int:
        """How many frames are under way at most."""
        return len(self._slots)

    def run(self, frame: Array) -> tuple[Array, Health]:
        """(H,W,3) uint8 in the host's memory -> (sH,sW,3) uint8; for engines in pixel form.

        Raises: OutOfMemoryError, EngineError.
        """
        with self._slot() as slot:
            return slot.run(frame)

    def run_on_device(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream = None) -> Health:
        """Fill `large` (1,sH,sW,3) from `frame` (1,H,W,3), both on the engines' one device, by way of the stream or an own one.

        They are uint8 for engines in pixel form, else fp16 or fp32 in [0,1]; views of (1,3,H,W) arrays are as good as any.
        Returns when `large` is there, since its health is known only then.

        Raises: FeedError, OutOfMemoryError, EngineError.
        """
        with self._slot() as slot:
            return slot.run_on_device(frame, large, stream=stream)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[_Slot]:
        slot = self._idle.get()
        try:
            yield slot
        finally:
            self._idle.put(slot)


class _Contexts:
    """Which contexts of which engines are taken: what runs other shapes in one breaks what was recorded in it."""

    def __init__(self) -> None:
        self._taken: weakref.WeakKeyDictionary[DeviceEngine, set[int]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()  # a finalizer may run while the lock is held

    def take(self, engine: DeviceEngine, count: int) -> list[int]:
        """Up to `count` numbers of contexts, at least one; waits for one where all are taken."""
        while not (numbers := self._take(engine, count)):
            time.sleep(0.001)
        return numbers

    def has_free(self, engine: DeviceEngine) -> bool:
        with self._lock:
            return len(self._taken.get(engine, ())) < engine.contexts

    def _take(self, engine: DeviceEngine, count: int) -> list[int]:
        with self._lock:
            taken = self._taken.setdefault(engine, set())
            free = [number for number in range(engine.contexts) if number not in taken][:count]
            taken.update(free)
            return free

    def give_back(self, engine: DeviceEngine, number: int) -> None:
        with self._lock:
            self._taken[engine].discard(number)


_CONTEXTS = _Contexts()


def _release(slots: list[_Slot], leases: list[tuple[DeviceEngine, int]]) -> None:
    for slot in slots:
        slot.forget()
    for engine, number in leases:
        _CONTEXTS.give_back(engine, number)


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

    def schedule(self, height: int, width: int) -> Schedule:
        """How frames of that size go, or of the nearest that is known."""
        wanted = size_class(height, width)
        return self._schedules[min(self._schedules, key=lambda known: abs(known - wanted))]

    @property
    def memory(self) -> int:
        """Bytes that one frame may take on the smallest of the GPUs."""
        known = survey().gpus
        return min((known[gpu].memory for gpu in self._gpus if gpu < len(known)), default=_UNKNOWN_MEMORY) // 4

    @property
    def device(self) -> Device:
        """The first of the GPUs.

        Raises: as `runner`.
        """
        return self._windows.device_engine(np.uint8, self._gpus[0]).device

    def limits(self, dtype: DTypeLike) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest (h,w) that every engine for frames of that dtype takes.

        Raises: as `runner`.
        """
        limits = [_window_limits(self._windows.device_engine(dtype, gpu)) for gpu in self._gpus]
        least, most = zip(*limits, strict=True)
        return (max(h for h, _ in least), max(w for _, w in least)), (min(h for h, _ in most), min(w for _, w in most))

    def runner(self, tiling: Tiling, size: tuple[int, ...], dtype: DTypeLike = np.uint8, *, first: bool = False) -> FrameRunner:
        """For frames of that size (H,W) and dtype, on all GPUs or the `first` alone.

        Raises: BundleError, BackendUnavailableError, OutOfMemoryError, EngineError.
        """
        key = (tiling, size, np.dtype(dtype), first)
        with self._lock:
            runner = self._runners.pop(key, None)
            if runner is None:
                engines = [self._windows.device_engine(dtype, gpu) for gpu in (self._gpus[:1] if first else self._gpus)]
                self._make_room(engines)
                runner = self._new(engines, tiling, size)
            self._runners[key] = runner
            return runner

    def close(self) -> None:
        with self._lock:
            self._runners.clear()

    def _make_room(self, engines: Sequence[DeviceEngine]) -> None:
        """Let go of the oldest runners; those that are at work end by themselves."""
        while self._runners and not (len(self._runners) < _SIZES_KEPT and all(map(_CONTEXTS.has_free, engines))):
            del self._runners[next(iter(self._runners))]

    def _new(self, engines: Sequence[DeviceEngine], tiling: Tiling, size: tuple[int, ...]) -> FrameRunner:
        height, width = size
        schedule = self.schedule(height, width)
        batch = _batch(min(schedule.batch, len(tiling)), engines)
        return FrameRunner(engines, tiling, size, scale=self._scale, batch=batch, slots=schedule.slots)


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


class _Context:
    """A context of an engine, with the arrays that frames of one size need on their way through it."""

    def __init__(
        self, engine: DeviceEngine, index: int, tiling: Tiling, size: tuple[int, ...], *, scale: int, batch: int
    ) -> None:
        self.device = device = engine.device
        self._engine = engine
        self._index = index
        self._batch = batch
        self._count = count = len(tiling)
        self._padded = padded = -(-count // batch) * batch
        (self._input,) = engine.inputs
        self._output = next(spec for spec in engine.outputs if spec.name != HEALTH)
        self._window, self._large_window = tiling.window, tuple(side * scale for side in tiling.window)
        self._is_whole = count == 1 and tiling.window == size
        rows = [tiling.rows.region(index) for index in range(len(tiling.rows.starts))]
        columns = [tiling.columns.region(index) for index in range(len(tiling.columns.starts))]
        self._tiling = DeviceTiling(device, rows, columns, window=tiling.window, scale=scale)
        self._meter = HealthMeter(device, count)
        self._health = device.empty((padded,), np.float32)
        self._health_read, self._light_read = (device.host((length,), np.float32) for length in (padded, count))

    @property
    def capturable(self) -> bool:
        """Whether a graph can record `enqueue`; known for sure once it has run."""
        return self._engine.capturable

    def enqueue(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream) -> None:
        """Put it all on the stream: (1,H,W,3) -> (1,sH,sW,3). Allocates only when it runs for the first time."""
        if self._is_whole and self._is_native(frame, self._input) and self._is_native(large, self._output):
            tiles, large_tiles = self._native(frame), self._native(large)
            self._run_engine(tiles, large_tiles, stream)
        else:
            tiles = self._tiles
            self._tiling.gather(frame, tiles[: self._count], stream=stream)
            self._run_engine(tiles, self._large_tiles, stream)
            self._tiling.scatter(self._large_tiles[: self._count], large, stream=stream)
        self._meter.measure(tiles[: self._count], stream=stream)
        self.device.copy(self._health_read, self._health, stream=stream)
        self.device.copy(self._light_read, self._meter.means, stream=stream)

    def read_health(self) -> Health:
        """Of the latest frame, once the stream is done."""
        full_scale = np.float32(255.0 if self._input.dtype == np.uint8 else 1.0)
        return Health(self._health_read.numpy()[: self._count].copy(), self._light_read.numpy() / full_scale)

    @functools.cached_property
    def _tiles(self) -> DeviceArray:
        return self.device.empty(self._shape(*self._window), self._input.dtype)

    @functools.cached_property
    def _large_tiles(self) -> DeviceArray:
        return self.device.empty(self._shape(*self._large_window), self._output.dtype)

    def _shape(self, height: int, width: int) -> tuple[int, ...]:
        return (self._padded, height, width, 3) if self._input.dtype == np.uint8 else (self._padded, 3, height, width)

    def _run_engine(self, tiles: DeviceArray, large_tiles: DeviceArray, stream: Stream) -> None:
        for first in range(0, tiles.shape[0], self._batch):
            part = slice(first, first + self._batch)
            arrays = {
                self._input.name: tiles[part],
                self._output.name: large_tiles[part],
                HEALTH: self._health[part],
            }
            self._engine.enqueue(arrays, stream=stream, context=self._index)

    def _native(self, frame: DeviceArray) -> DeviceArray:
        """The frame as the engine takes it."""
        return frame if self._input.dtype == np.uint8 else frame.transpose((0, 3, 1, 2))

    def _is_native(self, frame: DeviceArray, spec: TensorSpec) -> bool:
        return frame.dtype.__name__ == spec.dtype.name and bool(self._native(frame).is_contiguous)


class _Slot:
    """One frame in flight. What frames of the host need is made when the first of them comes."""

    def __init__(self, context: _Context, size: tuple[int, ...], scale: int) -> None:
        self._context = context
        self._device = context.device
        self._shape = (1, *size, 3)
        self._large_shape = (1, *(side * scale for side in size), 3)
        self._stream = self._device.stream()
        self._go: Callable[[], None] | None = None

    def run(self, frame: Array) -> tuple[Array, Health]:
        self._source.numpy()[0] = frame
        if self._go is None:
            self._run_from_host()
            self._go = self._recorded()
        else:
            self._go()
        large = self._results.take()
        self._device.copy(large, self._large, stream=self._stream)
        self._device.synchronize(self._stream)
        return self._results.result(large)[0], self._context.read_health()

    def run_on_device(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream) -> Health:
        stream = stream or self._stream
        self._context.enqueue(frame, large, stream=stream)
        self._device.synchronize(stream)
        return self._context.read_health()

    def forget(self) -> None:
        """Let go of what was recorded; it refers to this slot."""
        self._go = None

    def _run_from_host(self) -> None:
        self._device.copy(self._frame, self._source, stream=self._stream)
        self._context.enqueue(self._frame, self._large, stream=self._stream)

    def _recorded(self) -> Callable[[], None]:
        """`_run_from_host` as one launch where the engine allows it; it has run once before."""
        if not self._context.capturable:
            return self._run_from_host
        return self._device.graph(self._run_from_host, stream=self._stream)

    @functools.cached_property
    def _source(self) -> DeviceArray:
        return self._device.host(self._shape, np.uint8)

    @functools.cached_property
    def _frame(self) -> DeviceArray:
        return self._device.empty(self._shape, np.uint8)

    @functools.cached_property
    def _large(self) -> DeviceArray:
        return self._device.empty(self._large_shape, np.uint8)

    @functools.cached_property
    def _results(self) -> _Lender:
        return _Lender(self._device, self._large_shape)


class _Lender:
    """Page-locked arrays of one shape, lent out as results, and used again when nobody holds them any more."""

    def __init__(self, device: Device, shape: tuple[int, ...]) -> None:
        self._new = functools.partial(device.host, shape, np.uint8)
        self._free: deque[DeviceArray] = deque()
        self._made = 0
        self._spare: DeviceArray = None

    def take(self) -> DeviceArray:
        """An array to write to; `result` makes a result of it."""
        if self._free:
            return self._free.popleft()
        if self._made < _LENT_AT_MOST:
            self._made += 1
            return self._new()
        if self._spare is None:
            self._spare = self._new()
        return self._spare

    def result(self, array: DeviceArray) -> Array:
        return array.numpy().copy() if array is self._spare else np.asarray(_Lent(array, self._free))


class _Lent:
    """A lent array, alive as long as any view of its result."""

    def __init__(self, array: DeviceArray, free: deque[DeviceArray]) -> None:
        self._array = array
        self._free = free
        self.__array_interface__ = array.numpy().__array_interface__

    def __del__(self) -> None:
        self._free.append(self._array)


def as_frames(array: DeviceArray) -> DeviceArray:
    """(N,H,W,3), a view of uint8 (H,W,3) or (N,H,W,3), or of floats (3,H,W) or (N,3,H,W)."""
    if len(array.shape) not in (3, 4) or 0 in array.shape:
        raise FeedError(f"{describe(array)} is no image; expected uint8 (H,W,3) or (N,H,W,3), or floats (3,H,W) or (N,3,H,W)")
    batch = array if len(array.shape) == 4 else array.contiguous().reshape((1, *array.shape))
    frames = batch if array.dtype.__name__ == "uint8" else batch.transpose((0, 2, 3, 1))
    if frames.shape[3] != 3:
        raise FeedError(f"{describe(array)} has {frames.shape[3]} channels; expected 3: RGB, last in uint8, first in floats")
    return frames
