"""One frame in flight over a GPU: a slot with a stream, a context of an engine, page-locked memory, and arrays on the device.

A CUDA graph holds all of its way but the copy of the result, which goes to another place each time.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.engines.device import Device, DeviceArray, Stream
from sr_deploy.engines.device_tiling import DeviceTiling, HealthMeter
from sr_deploy.engines.device_video import DevicePlanes, PlaneFormat
from sr_deploy.engines.engine import Array, DeviceEngine, TensorSpec
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.runtime.tiling import Tiling
from sr_deploy.runtime.windows import is_healthy

_LENT_AT_MOST = 8
"""Page-locked memory cannot be swapped out: whoever keeps more results than that gets ordinary copies."""


@dataclass(frozen=True)
class Health:
    """Per tile: mean of |output before the clamp| in [0,1], and mean of the tile's input in [0,1]."""

    output: Array
    input: Array

    @property
    def is_good(self) -> bool:
        """Whether every tile is."""
        return all(is_healthy(float(out), float(light)) for out, light in zip(self.output, self.input, strict=True))


class ContextPool:
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


CONTEXTS = ContextPool()


class Context:
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


class Slot:
    """One frame in flight. What frames of the host need is made when the first of them comes.

    planes: what results of frames of the host are, flat codes; by default they are RGB.
    """

    def __init__(self, context: Context, size: tuple[int, ...], scale: int, planes: PlaneFormat | None = None) -> None:
        self._context = context
        self._device = context.device
        self._planes = DevicePlanes(context.device, planes) if planes else None
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
        result = self._results.take()
        self._device.copy(result, self._large if self._planes is None else self._codes, stream=self._stream)
        self._device.synchronize(self._stream)
        return self._results.result(result)[0], self._context.read_health()

    def run_from_device(self, frame: DeviceArray) -> tuple[Array, Health]:
        assert self._planes is not None
        large = self._large if frame.dtype.__name__ == "uint8" else self._large_floats
        self._context.enqueue(frame, large, stream=self._stream)
        self._planes.from_rgb(large, self._codes[0], stream=self._stream)
        result = self._results.take()
        self._device.copy(result, self._codes, stream=self._stream)
        self._device.synchronize(self._stream)
        return self._results.result(result)[0], self._context.read_health()

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
        if self._planes is not None:
            self._planes.from_rgb(self._large, self._codes[0], stream=self._stream)

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
    def _large_floats(self) -> DeviceArray:
        """(1,sH,sW,3) of planes, as engines of floats write them."""
        batch, height, width, channels = self._large_shape
        return self._device.empty((batch, channels, height, width), np.float32).transpose((0, 2, 3, 1))

    @functools.cached_property
    def _results(self) -> _Lender:
        if self._planes is None:
            return _Lender(self._device, self._large_shape, np.uint8)
        return _Lender(self._device, self._codes.shape, self._planes.format.dtype)

    @functools.cached_property
    def _codes(self) -> DeviceArray:
        """(1,n) of the planes of the result."""
        assert self._planes is not None
        codes = self._planes.empty()
        return codes.reshape((1, *codes.shape))


class _Lender:
    """Page-locked arrays of one form, lent out as results, and used again when nobody holds them any more."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._new = functools.partial(device.host, shape, dtype)
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
