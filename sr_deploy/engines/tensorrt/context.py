"""Execution contexts of TensorRT and TensorRT for RTX: what runs at once in one engine, each with memory of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sr_deploy.device.device import ALIGNMENT, Device, DeviceArray
from sr_deploy.device.streams import Stream, stream_handle
from sr_deploy.engines.engine import Shapes
from sr_deploy.engines.tensorrt.library import Library
from sr_deploy.errors import EngineError


class ExecutionContext:
    """One execution context with its scratch memory, for use inside the guard. It `is_fresh` until new shapes have run."""

    def __init__(self, context: Any, library: Library, device: Device, *, outputs: Sequence[str], largest_scratch: int) -> None:
        self.lock = threading.Lock()
        self.results: Shapes = {}
        self.is_fresh = False
        self._context = context
        self._library = library
        self._largest_scratch = largest_scratch
        self._device = device
        self._outputs = tuple(outputs)
        self._shapes: Shapes = {}
        self._known: list[Shapes] = []
        self._scratch: DeviceArray = None
        self._stand_ins: dict[str, DeviceArray] = {}
        self._last: Stream = None

    def is_ready_for(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes have run, and were the latest: nothing is to be made for them."""
        return shapes == self._shapes and not self.is_fresh

    def prepare(self, shapes: Shapes) -> None:
        """Take inputs of these shapes from now on."""
        if shapes == self._shapes:
            return
        context = self._context
        self._shapes = {}
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._library.error(f"refuses {list(shape)} for '{name}'")
        self._reserve(context.update_device_memory_size_for_shapes())
        self.results = {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
        self._shapes = shapes
        self.is_fresh = shapes not in self._known

    def enqueue(self, arrays: Mapping[str, DeviceArray], stream: Stream) -> None:
        if _handle(stream) != _handle(self._last):
            self.finish()
        placed = {name: self._placed(name, array) for name, array in arrays.items()}
        for name, array in placed.items():
            if not self._context.set_tensor_address(name, array.ptr):
                raise self._library.error(f"refuses the memory of '{name}'")
        self._last = stream
        moved = [name for name, array in placed.items() if array is not arrays[name]]
        for name in moved:
            if name not in self._outputs:
                self._device.copy(placed[name], arrays[name], stream=stream)
        self._execute(stream)
        for name in moved:
            if name in self._outputs:
                self._device.copy(arrays[name], placed[name], stream=stream)
        if self.is_fresh:
            self._known.append(self._shapes)

    def _execute(self, stream: Stream) -> None:
        """Run. The library tells two sizes for scratch memory: the larger one is for when it refuses the smaller."""
        if self._context.execute_async_v3(_handle(stream)):
            return
        refused = self._library.error("failed while running")
        if not self.is_fresh or self._scratch.size >= self._largest_scratch:
            raise refused
        self._reserve(self._largest_scratch)
        if not self._context.execute_async_v3(_handle(stream)):
            raise refused

    def _placed(self, name: str, array: DeviceArray) -> DeviceArray:
        """The array itself, or one of its kind where the library takes it."""
        if array.ptr % ALIGNMENT == 0:
            return array
        found = self._stand_ins.get(name)
        if found is None or found.shape != array.shape or found.dtype != array.dtype:
            self.finish()
            self._stand_ins[name] = found = self._device.empty(array.shape, array.dtype.__name__)
        return found

    def is_capturable(self, stream: Stream) -> bool:
        context = self._context
        return bool(context.is_stream_capturable(_handle(stream)))

    def finish(self) -> None:
        """Return when the last run is done; what failed in it has been told before, or nobody asks any more."""
        with contextlib.suppress(EngineError):
            self._device.synchronize(self._last)

    def _reserve(self, size: int) -> None:
        context = self._context
        if self._scratch is None or self._scratch.size < size:
            self.finish()
            self._scratch = None
            self._scratch = self._device.empty((max(size, 1),), np.uint8)
        context.set_device_memory(self._scratch.ptr, self._scratch.size)


def _handle(stream: Stream) -> int:
    return 0 if stream is None else stream_handle(stream)
