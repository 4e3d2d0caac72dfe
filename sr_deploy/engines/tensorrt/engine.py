"""TensorRT and TensorRT for RTX on a GPU: one engine, several execution contexts."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray, load_warp
from sr_deploy.device.streams import Stream
from sr_deploy.engines.engine import DeviceEngine, Shapes, TensorSpec, check_arrays
from sr_deploy.engines.tensorrt.cache import write_whole
from sr_deploy.engines.tensorrt.context import ExecutionContext
from sr_deploy.engines.tensorrt.library import Library
from sr_deploy.errors import EngineError, FeedError

CONTEXTS = 8
"""How many runs may be under way at once: a few sizes of frames, each in a few slots. Unused contexts take no memory."""

_HOST = -1
"""The context of `run`, beside those of `enqueue`."""

_PROFILE = 0

_log = logging.getLogger(__name__)

_SAVING = threading.Lock()
"""Contexts, and engines on GPUs of one model, keep their kernels in one file."""


class TensorRTEngine(DeviceEngine):
    """A deserialized engine. Contexts are made when they are first used, and so are the buffers of `run`.

    A context's scratch memory fits the shapes that it runs, and grows with them. Its runs wait for each other, from whatever
    thread and on whatever stream. Those of a CUDA graph do not: nothing else may run in its context as long as it is used.
    Arrays that do not begin at a multiple of `ALIGNMENT` bytes go by way of one that does.

    TensorRT for RTX compiles kernels when a context meets new shapes, which takes seconds; `kernels` is the file that keeps
    them for the next process.

    Raises: OutOfMemoryError; EngineError when the library does not load the engine.
    """

    def __init__(
        self,
        engine: bytes,
        library: Library,
        device: Device,
        *,
        contexts: int = CONTEXTS,
        kernels: Path | None = None,
        description: str = "",
    ) -> None:
        super().__init__()
        self.device = device
        self.contexts = contexts
        self.description = description or library.flavour.name
        self.capturable = True
        self._library = library
        self._making = threading.Lock()
        self._contexts: dict[int, ExecutionContext] = {}
        self._buffers: _Buffers | None = None
        self._stream = device.stream()
        with self._inside("does not load the engine"):
            self._runtime = library.module.Runtime(library.logger)
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise library.error("does not load the engine")
            self.inputs, self.outputs = _specs(library, self._engine)
            self.limits = {spec.name: _limits(self._engine, spec.name) for spec in self.inputs}
            self._config = _runtime_config(library, self._engine)
            self._kernels = _Kernels(self._config, kernels) if library.flavour.compiles_at_run and kernels else None

    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        """As `DeviceEngine.enqueue`; on a GPU without a `stream`, on the stream that Warp made for the device."""
        self._refuse_if_closed()
        check_arrays(self, arrays, context)
        self._enqueue(self._context(context), arrays, stream)

    def _enqueue(self, slot: ExecutionContext, arrays: Mapping[str, DeviceArray], stream: Stream) -> None:
        shapes = {spec.name: tuple(arrays[spec.name].shape) for spec in self.inputs}
        apart = contextlib.nullcontext() if slot.is_ready_for(shapes) else self.device.preparing()
        with slot.lock, apart, self._inside("failed while running"):
            slot.prepare(shapes)
            self._check_results(slot, arrays)
            stream = self._stream_of(stream)
            slot.enqueue(arrays, stream)
            if slot.is_fresh:
                self._after_first_run(slot, stream)

    def _after_first_run(self, slot: ExecutionContext, stream: Stream) -> None:
        slot.is_fresh = False
        if self._library.flavour.compiles_at_run:
            self.capturable = self.capturable and slot.is_capturable(stream)
        if self._kernels is not None:
            self._kernels.save()

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self._check_limits(feeds)
        buffers = self._buffers_for({spec.name: feeds[spec.name].shape for spec in self.inputs})
        for spec in self.inputs:
            np.copyto(buffers.host[spec.name].numpy(), feeds[spec.name])
            self.device.copy(buffers.device[spec.name], buffers.host[spec.name], stream=self._stream)
        self._enqueue(self._context(_HOST), buffers.device, self._stream)
        for spec in self.outputs:
            self.device.copy(buffers.host[spec.name], buffers.device[spec.name], stream=self._stream)
        self.device.synchronize(self._stream)
        return {spec.name: buffers.host[spec.name].numpy().copy() for spec in self.outputs}

    def _buffers_for(self, shapes: Shapes) -> _Buffers:
        if self._buffers is None or self._buffers.shapes != shapes:
            self._buffers = None
            slot = self._context(_HOST)
            with self.device.preparing(), self._inside("cannot prepare a run"):
                slot.prepare(shapes)
            self._buffers = _Buffers.of(self, shapes, slot.results)
        return self._buffers

    def _context(self, number: int) -> ExecutionContext:
        if (known := self._contexts.get(number)) is not None:
            return known
        with self.device.preparing(), self._making:
            if number not in self._contexts:
                with self._inside("cannot make an execution context"):
                    context = self._engine.create_execution_context(self._config)
                    if context is None:
                        raise self._library.error("cannot make an execution context")
                self._contexts[number] = ExecutionContext(
                    context,
                    self._library,
                    self.device,
                    outputs=[spec.name for spec in self.outputs],
                    largest_scratch=int(self._engine.device_memory_size_v2),
                )
            return self._contexts[number]

    def _check_limits(self, feeds: Mapping[str, Array]) -> None:
        for name, (smallest, largest) in self.limits.items():
            shape = feeds[name].shape
            if not all(low <= side <= high for low, side, high in zip(smallest, shape, largest, strict=True)):
                raise FeedError(
                    f"{self.description}: '{name}' is {list(shape)}, expected {list(smallest)} to {list(largest)}; use other "
                    "tiles, or build an engine for this size with `sr-deploy build`"
                )

    def _check_results(self, slot: ExecutionContext, arrays: Mapping[str, DeviceArray]) -> None:
        for name, shape in slot.results.items():
            if tuple(arrays[name].shape) != shape:
                raise FeedError(f"{self.description}: gives {list(shape)} for '{name}', not {list(arrays[name].shape)}")

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise EngineError(f"{self.description}: run after close; open a new engine")

    def _stream_of(self, stream: Stream) -> Stream:
        return stream or (load_warp().get_stream(self.device.name) if self.device.is_gpu else None)

    @contextlib.contextmanager
    def _inside(self, what: str) -> Iterator[None]:
        """This device is the thread's current one, and the library's failures become ours."""
        with self._library.translated(what), self.device.current():
            yield

    def _close(self) -> None:
        """Wait for what is under way, then release contexts before the engine, and the engine before the runtime."""
        self._wait()
        with self._inside("cannot be closed"):
            self._contexts.clear()
            self._buffers = self._kernels = self._config = None
            self._engine = None
            self._runtime = None

    def _wait(self) -> None:
        for slot in self._contexts.values():
            slot.finish()


@dataclass(frozen=True)
class _Buffers:
    """Memory of `run` for inputs of these shapes, by name: on the device, and page-locked on the host."""

    shapes: Shapes
    device: dict[str, DeviceArray]
    host: dict[str, DeviceArray]

    @staticmethod
    def of(owner: TensorRTEngine, shapes: Shapes, results: Shapes) -> _Buffers:
        every = [(spec.name, {**shapes, **results}[spec.name], spec.dtype) for spec in (*owner.inputs, *owner.outputs)]
        return _Buffers(
            shapes,
            {name: owner.device.empty(shape, dtype) for name, shape, dtype in every},
            {name: owner.device.host(shape, dtype) for name, shape, dtype in every},
        )


class _Kernels:
    """Kernels that TensorRT for RTX compiled on this GPU, in a file. What fails here costs time, and fails no run."""

    def __init__(self, config: Any, path: Path) -> None:
        self._path = path
        self._saved = b""
        self._cache = config.create_runtime_cache()
        with contextlib.suppress(FileNotFoundError), self._harmless():
            contents = path.read_bytes()
            if self._cache.deserialize(contents):
                self._saved = contents
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        with _SAVING, self._harmless():
            contents = bytes(self._cache.serialize())
            if contents != self._saved:
                write_whole(self._path, contents)
                self._saved = contents

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (EngineError, OSError, RuntimeError, TypeError, ValueError) as exc:
            _log.warning("%s: compiled kernels are not kept (%s)", self._path, exc)


def _runtime_config(library: Library, engine: Any) -> Any:
    """Scratch memory is ours, and kernels are made for the shapes at once: a fallback that is replaced later runs slower, and
    a CUDA graph would keep it."""
    module = library.module
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(module.ExecutionContextAllocationStrategy.USER_MANAGED)
    if library.flavour.compiles_at_run:
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
    return config


def _specs(library: Library, engine: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    module = library.module
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    modes = {name: engine.get_tensor_mode(name) for name in names}
    specs = {
        name: TensorSpec(name, np.dtype(module.nptype(engine.get_tensor_dtype(name))), tuple(engine.get_tensor_shape(name)))
        for name in names
    }
    inputs, outputs = (
        tuple(specs[name] for name in names if modes[name] == mode)
        for mode in (module.TensorIOMode.INPUT, module.TensorIOMode.OUTPUT)
    )
    return inputs, outputs


def _limits(engine: Any, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, _PROFILE))
    return smallest, largest
