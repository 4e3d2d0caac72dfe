"""One frame in flight over a GPU: a slot with a stream, a context of an engine, page-locked memory, and arrays on the device.

A CUDA graph holds all of its way but the copy of the result, which goes to another place each time.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.device import DeviceArray, Launch, chained
from sr_deploy.device.health import are_healthy
from sr_deploy.device.streams import Stream
from sr_deploy.device.tiling import DeviceTiling, HealthMeter, Measured
from sr_deploy.device.video_planes import DevicePlanes, PlaneFormat
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.engines.pixels import HEALTH
from sr_deploy.engines.planes import WHITE
from sr_deploy.errors import EngineError
from sr_deploy.upscaling.gpu.lending import Lender
from sr_deploy.upscaling.tiling import Tiling


@dataclass(frozen=True)
class Health:
    """Per tile: mean of |output before the clamp| in [0,1], and mean of the tile's input in [0,1]."""

    output: Array
    input: Array

    @property
    def is_good(self) -> bool:
        """Whether every tile is."""
        return bool(are_healthy(self.output.astype(np.float64), self.input.astype(np.float64)).all())


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
    """A context of an engine, with the arrays that frames of one size need on their way through it.

    The engine takes the pixel form or the float form, which give their health, or the planes form, whose health is measured.
    """

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
        self._window, self._scale = tiling.window, scale
        self._gives_health = len(engine.outputs) > 1
        self._white = WHITE.get(self._output.name)
        self._is_whole = count == 1 and tiling.window == size
        rows = [tiling.rows.region(index) for index in range(len(tiling.rows.starts))]
        columns = [tiling.columns.region(index) for index in range(len(tiling.columns.starts))]
        self._tiling = DeviceTiling(device, rows, columns, window=tiling.window, scale=scale)
        self._magnitudes = None if self._gives_health else self._tiling.magnitudes(count)
        self._meter = HealthMeter(device, count if self._gives_health else 2 * count)
        self._means_read = device.host(self._meter.means.shape, np.float32)
        self._health = device.empty((padded,), np.float32)
        self._health_read = device.host((padded,), np.float32)

    @property
    def capturable(self) -> bool:
        """Whether a graph can record `enqueue`; known for sure once it has run."""
        return self._engine.capturable

    def enqueue(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream) -> None:
        """Put it all on the stream: (1,H,W,3) -> (1,sH,sW,3). Allocates only when it runs for the first time."""
        self.bound(frame, large)(stream)

    def bound(self, frame: DeviceArray, large: DeviceArray) -> Launch:
        """`enqueue` of these arrays for many times, prepared once; it keeps them alive."""
        if self._is_native(frame, large):
            tiles = self._native(frame)
            commands = self._runs(tiles, self._native(large))
        else:
            tiles, large_tiles = self._tiles, self._large_tiles
            commands = [
                self._tiling.gathering(frame, tiles[: self._count]),
                *self._runs(tiles, large_tiles),
                self._tiling.scattering(large_tiles[: self._count], large, white=self._white, magnitudes=self._magnitudes),
            ]
        measured = [Measured(tiles[: self._count], white=255.0 if self._takes_bytes else 1.0)]
        copies = [(self._means_read, self._meter.means)]
        if self._gives_health:
            copies.append((self._health_read, self._health))
        else:
            measured.append(Measured(self._magnitudes, white=self._white or 1.0, each=3 * self._scale))
        commands.append(self._meter.measuring(*measured))
        return chained([*commands, *(functools.partial(self._copy, target, source) for target, source in copies)])

    def read_health(self) -> Health:
        """Of the latest frame, once the stream is done."""
        means = self._means_read.numpy().copy()
        health = self._health_read.numpy().copy() if self._gives_health else means[self._count :]
        return Health(health[: self._count], means[: self._count])

    @functools.cached_property
    def _tiles(self) -> DeviceArray:
        height, width = self._window
        shape = (height, width, 3) if self._takes_bytes else (3, height, width)
        return self.device.empty((self._padded, *shape), self._input.dtype)

    @functools.cached_property
    def _large_tiles(self) -> DeviceArray:
        height, width = (side * self._scale for side in self._window)
        if self._output.dtype == np.uint8:
            return self.device.empty((self._padded, height, width, 3), np.uint8)
        channels = max(3, self._output.shape[1])
        block = math.isqrt(channels // 3)
        return self.device.empty((self._padded, channels, height // block, width // block), self._output.dtype)

    @property
    def _takes_bytes(self) -> bool:
        return self._input.dtype == np.uint8

    def _runs(self, tiles: DeviceArray, large_tiles: DeviceArray) -> list[Launch]:
        """Of the engine, batch by batch."""
        commands: list[Launch] = []
        for first in range(0, self._padded, self._batch):
            part = slice(first, first + self._batch)
            arrays = {self._input.name: tiles[part], self._output.name: large_tiles[part]}
            if self._gives_health:
                arrays[HEALTH] = self._health[part]
            commands.append(functools.partial(self._run_engine, arrays))
        return commands

    def _run_engine(self, arrays: Mapping[str, DeviceArray], stream: Stream) -> None:
        self._engine.enqueue(arrays, stream=stream, context=self._index)

    def _copy(self, target: DeviceArray, source: DeviceArray, stream: Stream) -> None:
        self.device.copy(target, source, stream=stream)

    def _is_native(self, frame: DeviceArray, large: DeviceArray) -> bool:
        """Whether the engine can read and write frames where they lie."""
        pairs = ((frame, self._input), (large, self._output))
        return (
            self._is_whole
            and self._gives_health
            and all(
                array.dtype.__name__ == spec.dtype.name and bool(self._native(array).is_contiguous) for array, spec in pairs
            )
        )

    def _native(self, frame: DeviceArray) -> DeviceArray:
        """The frame as the engine takes it."""
        return frame if self._takes_bytes else frame.transpose((0, 3, 1, 2))


class Slot:
    """One frame in flight. What frames of the host need is made when the first of them comes.

    The stream is idle whenever a run has ended, however it ended: arrays may go, or be used for the next frame.

    planes: what results are, flat codes; by default they are RGB.
    """

    def __init__(self, context: Context, size: tuple[int, ...], scale: int, planes: PlaneFormat | None = None) -> None:
        self._context = context
        self._device = context.device
        self._planes = DevicePlanes(context.device, planes) if planes else None
        self._shape = (1, *size, 3)
        self._large_shape = (1, *(side * scale for side in size), 3)
        self._stream = self._device.stream()
        self._has_run = False
        self._go: Callable[[], None] | None = None

    def run(self, frame: Array) -> tuple[Array, Health]:
        self._source.numpy()[0] = frame
        return self._result_of(self._put_on_stream)

    def run_from_device(self, frame: DeviceArray) -> tuple[Array, Health]:
        """As `run`, of a frame on the device, into planes; its arrays may lie elsewhere each time, so nothing is recorded."""
        assert self._planes is not None
        large = self._large if frame.dtype.__name__ == "uint8" else self._large_floats
        return self._result_of(lambda: self._enqueue_to_planes(frame, large))

    def run_on_device(self, frame: DeviceArray, large: DeviceArray, *, stream: Stream) -> Health:
        stream = stream or self._stream
        with self._finished(stream), self._device.preparing():
            self._context.enqueue(frame, large, stream=stream)
        return self._context.read_health()

    def forget(self) -> None:
        """Let go of what was recorded; it refers to this slot."""
        self._go = None

    def _result_of(self, enqueue: Callable[[], None]) -> tuple[Array, Health]:
        """What is in the host's memory, or on the device, after the work that `enqueue` puts on the stream."""
        if self._planes is not None and self._planes.format.on_device:
            codes: DeviceArray = self._device.empty(self._codes.shape, self._planes.format.dtype)
            with self._finished(self._stream):
                enqueue()
                self._device.copy(codes, self._codes, stream=self._stream)
            return codes[0], self._context.read_health()
        result = self._results.take()
        try:
            with self._finished(self._stream):
                enqueue()
                self._device.copy(result, self._large if self._planes is None else self._codes, stream=self._stream)
        except BaseException:
            self._results.give_back(result)
            raise
        return self._results.result(result)[0], self._context.read_health()

    @contextlib.contextmanager
    def _finished(self, stream: Stream) -> Iterator[None]:
        """What the block puts on the stream is done after it, also when the block fails; then its failure is told."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(EngineError):
                self._device.synchronize(stream)
            raise
        self._device.synchronize(stream)

    def _put_on_stream(self) -> None:
        """The way of a frame, from the second one on as one launch where the engine allows it: some sizes come only once."""
        if not self._has_run:
            with self._device.preparing():
                self._enqueue()
            self._has_run = True
            return
        if self._go is None:
            is_recorded = self._context.capturable
            self._go = self._device.graph(self._enqueue, stream=self._stream) if is_recorded else self._enqueue
        self._go()

    def _enqueue(self) -> None:
        self._device.copy(self._frame, self._source, stream=self._stream)
        self._bound(self._stream)
        if self._planes is not None:
            self._planes.from_rgb(self._large, self._codes[0], stream=self._stream)

    def _enqueue_to_planes(self, frame: DeviceArray, large: DeviceArray) -> None:
        assert self._planes is not None
        with self._device.preparing():
            self._context.enqueue(frame, large, stream=self._stream)
            self._planes.from_rgb(large, self._codes[0], stream=self._stream)

    @functools.cached_property
    def _bound(self) -> Launch:
        return self._context.bound(self._frame, self._large)

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
    def _results(self) -> Lender:
        if self._planes is None:
            return Lender(self._device, self._large_shape, np.uint8)
        return Lender(self._device, self._codes.shape, self._planes.format.dtype)

    @functools.cached_property
    def _codes(self) -> DeviceArray:
        """(1,n) of the planes of the result."""
        assert self._planes is not None
        codes = self._planes.empty()
        return codes.reshape((1, *codes.shape))
