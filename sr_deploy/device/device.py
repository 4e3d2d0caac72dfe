"""Device arrays, streams and the launching of our kernels, on NVIDIA Warp.

Arrays are Warp's: they carry `ptr`, `shape`, `numpy()`, DLPack and `__cuda_array_interface__`. A new array can be used on any
stream. Copies and kernels are put on a stream and not waited for: keep their arrays until it is done.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.device.gpu import find_gpus
from sr_deploy.device.interface import EXPECTED, DeviceMemory, read_interface
from sr_deploy.device.kernel_files import block_dim_of, load_compiled
from sr_deploy.device.streams import LEGACY, Graph, Recordings, Stream, new_stream, stream_handle, translated
from sr_deploy.errors import BackendUnavailableError, FeedError, MissingDependencyError

DeviceArray = Any
"""A `warp.array`."""

Event = Any
"""A `warp.Event`; None on the CPU, where everything is done when its call returns."""

Launch = Callable[[Stream], None]
"""Puts its work on a stream; what it costs the host to prepare it has been paid."""

_INSTALL = 'pip install "sr-deploy[gpu]"'
_DTYPES = ("uint8", "float16", "float32")
_ON_GPU = (2, 13)
"""DLPack's codes for CUDA memory and managed CUDA memory."""

ALIGNMENT = 256
"""Arrays made here begin at multiples of so many bytes, as TensorRT wants it."""

_POOL_KEPT = 1 << 30
"""Bytes that a GPU's pool keeps of what was given back: results come and go, and asking the driver again takes longer."""

_RECORDINGS = Recordings()

_CPU_LAUNCHES = threading.Lock()
"""On the CPU, what the threads of a block share has one place in the whole process, which every kernel of its module sets."""


class Device:
    """A GPU, 'cuda:N', or 'cpu'.

    Raises: BackendUnavailableError when Warp, the driver or that GPU is missing.
    """

    def __init__(self, name: str = "cuda:0") -> None:
        if name != "cpu":
            find_gpus()
        self._warp = load_warp()
        self.name = name
        try:
            self._device = self._warp.get_device(name)
        except (ValueError, RuntimeError) as exc:
            known = ", ".join(str(device) for device in self._warp.get_devices())
            raise BackendUnavailableError(f"there is no device '{name}' here; there are: {known}") from exc
        if self.is_gpu and self._warp.is_mempool_enabled(self._device):
            kept = max(self._warp.get_mempool_release_threshold(self._device), _POOL_KEPT)
            self._warp.set_mempool_release_threshold(self._device, kept)

    @property
    def is_gpu(self) -> bool:
        return bool(self._device.is_cuda)

    @property
    def number(self) -> int:
        """Of the GPU; 0 for the CPU."""
        return int(self._device.ordinal) if self.is_gpu else 0

    @property
    def context(self) -> int:
        """The CUDA handle of its primary context, which libraries share; 0 for the CPU."""
        return stream_handle(self._device.context) if self.is_gpu else 0

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array on the device, of undefined contents, at a multiple of `ALIGNMENT` bytes.

        Raises: OutOfMemoryError.
        """
        if self.is_gpu:
            return self._empty(shape, dtype, device=self._device)
        with translated():
            return self._warp.array(_aligned(shape, dtype), device="cpu", copy=False)

    def host(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array in the host's memory, page-locked when the device is a GPU; `numpy()` is a view of it.

        Raises: OutOfMemoryError.
        """
        with self.current():
            return self._empty(shape, dtype, device="cpu", pinned=self.is_gpu)

    def stream(self, source: Any = None) -> Stream:
        """A new stream, or the caller's own, as `stream_handle` reads it; None on the CPU. The caller's stream must outlive it.

        A new one does not wait for the legacy default stream.

        Raises: UsageError for what is no stream; EngineError.
        """
        if not self.is_gpu:
            return None
        with translated():
            if source is None:
                return new_stream(self._warp, self._device)
            return self._warp.Stream(self._device, cuda_stream=stream_handle(source))

    def current(self) -> AbstractContextManager[None]:
        """Inside the block, this device is the thread's current one for every library, whichever it was before."""
        guard: AbstractContextManager[None] = self._device.context_guard
        return guard

    def preparing(self) -> AbstractContextManager[None]:
        """Nobody records a graph inside the block: for first runs, and for what makes contexts or loads kernels."""
        return _RECORDINGS.kept_out()

    def synchronize(self, stream: Stream = None) -> None:
        """Return when everything on the stream is done.

        Raises: EngineError, also for what failed on the stream before.
        """
        if self.is_gpu:
            with translated(), _RECORDINGS.kept_out():
                self._warp.synchronize_stream(stream or self._device.stream)

    def record_event(self, stream: Stream = None) -> Event:
        """What `wait_event` waits for: everything that is on the stream by now."""
        return (stream or self._device.stream).record_event() if self.is_gpu else None

    def wait_event(self, event: Event, stream: Stream = None) -> None:
        """Let all that comes on the stream from now on wait for the event; the caller does not wait."""
        if self.is_gpu:
            (stream or self._device.stream).wait_event(event)

    def graph(self, function: Callable[[], None], stream: Stream = None) -> Callable[[], None]:
        """What puts the work of `function` on the stream in one call: a CUDA graph of it; on the CPU `function` itself.

        On a GPU `function` runs once, now, for the record; nothing is computed. It may neither allocate nor wait, and has run
        before, so that its kernels are loaded. `stream` is one of `stream()`. The graph keeps `function` alive. Where none can
        be recorded, that is noted once, and the work is enqueued as ever.
        """
        if not self.is_gpu:
            return function
        return Graph(self._warp, stream or self._device.stream, function, _RECORDINGS)

    def array(self, source: Any, *, stream: Stream = None) -> DeviceArray:
        """`source` on this device: what lies here already is not copied, and is kept alive.

        source: a Warp array, or anything with DLPack, `__cuda_array_interface__` or numpy's interface. DLPack comes first: it
        lets torch and CuPy order what they have put on their current stream before what comes on `stream`. The other interface
        does so where it names a stream; torch's and PyCUDA's do not, and are read after what is on the legacy default stream.

        Raises: FeedError for anything else, and for GPU memory when this device is the CPU.
        """
        wp = self._warp
        if isinstance(source, wp.array) and source.device == self._device:
            return source
        try:
            if hasattr(source, "__dlpack_device__") and int(source.__dlpack_device__()[0]) in _ON_GPU:
                return self._of_dlpack(source, stream)
            if hasattr(source, "__cuda_array_interface__"):
                return self._of_interface(source, stream)
            return self._allocated(lambda: wp.array(_host_array(source), device=self._device, copy=self.is_gpu))
        except (RuntimeError, TypeError, ValueError, BufferError) as exc:
            raise FeedError(f"a {type(source).__name__} cannot be read as an array ({exc}); {EXPECTED}") from exc

    def memory(self, pointer: int, shape: Sequence[int], dtype: DTypeLike, *, keep: object) -> DeviceArray:
        """Memory of this device that another library owns, without gaps; the array keeps `keep` alive."""
        kind = np.dtype(dtype)
        sides = tuple(shape)
        strides = tuple(math.prod(sides[axis + 1 :]) * kind.itemsize for axis in range(len(sides)))
        return DeviceMemory(pointer, sides, strides, kind, None).view(self._warp, self._device, keep=keep)

    def copy(self, target: DeviceArray, source: DeviceArray, *, stream: Stream = None) -> None:
        """Copy between arrays of one shape and dtype, from and to the host too.

        Raises: FeedError.
        """
        if target.shape != source.shape or target.dtype != source.dtype:
            raise FeedError(f"{describe(source)} cannot be copied to {describe(target)}; expected one shape and dtype")
        with translated():
            self._warp.copy(target, source, stream=stream)

    def launch(self, kernel: Any, dim: Sequence[int], arguments: Sequence[Any], *, stream: Stream = None) -> None:
        """Put a kernel of `kernels.py` on the stream.

        Raises: EngineError.
        """
        with self._launching():
            load_compiled(kernel.module, self._device)
            self._warp.launch(kernel, dim=tuple(dim), inputs=list(arguments), device=self._device, stream=stream)

    def command(self, kernel: Any, dim: Sequence[int], arguments: Sequence[Any]) -> Launch:
        """`launch` of a kernel with these arguments, for many times; it keeps its arrays alive.

        Raises: EngineError, now and whenever it is launched.
        """
        with translated():
            load_compiled(kernel.module, self._device)
            launch = self._warp.launch(kernel, dim=tuple(dim), inputs=list(arguments), device=self._device, record_cmd=True)
        return functools.partial(self._put, launch)

    def launch_blocks(self, kernel: Any, count: int, arguments: Sequence[Any], *, stream: Stream = None) -> None:
        """Put `count` blocks of a kernel on the stream, as large as its module says; on the CPU a block is one thread.

        Raises: EngineError.
        """
        block = block_dim_of(kernel.module)
        with self._launching():
            load_compiled(kernel.module, self._device)
            self._warp.launch_tiled(
                kernel, dim=(count,), inputs=list(arguments), device=self._device, stream=stream, block_dim=block
            )

    def _put(self, launch: Any, stream: Stream) -> None:
        with self._launching():
            launch.launch(stream)

    @contextlib.contextmanager
    def _launching(self) -> Iterator[None]:
        with translated(), contextlib.nullcontext() if self.is_gpu else _CPU_LAUNCHES:
            yield

    def _empty(self, shape: Sequence[int], dtype: DTypeLike, **where: Any) -> DeviceArray:
        kind = self._warp.dtype_from_numpy(np.dtype(dtype))
        with translated():
            return self._allocated(lambda: self._warp.empty(tuple(shape), dtype=kind, **where))

    def _allocated(self, make: Callable[[], DeviceArray]) -> DeviceArray:
        """What `make` makes; memory from a stream's pool is another stream's only after the first has come to it."""
        with _RECORDINGS.kept_out():
            array = make()
            self.synchronize()
        return array

    def _of_dlpack(self, source: Any, stream: Stream) -> DeviceArray:
        """The producer lets our stream wait for its own; which one is current for others stays as it was."""
        self._refuse_on_cpu(source)
        handle = stream_handle(stream or self._device.stream) or LEGACY
        array = self._warp.from_dlpack(source.__dlpack__(stream=handle))
        if array.device != self._device:
            raise ValueError(f"it lies on {array.device}, not on {self.name}")
        if array.dtype.__name__ not in _DTYPES:
            raise TypeError(f"its dtype is {array.dtype.__name__}")
        return array

    def _of_interface(self, source: Any, stream: Stream) -> DeviceArray:
        """A producer that names no stream may have used the legacy default one, which ours do not wait for by themselves."""
        self._refuse_on_cpu(source)
        memory = read_interface(source.__cuda_array_interface__)
        producer = self.stream(LEGACY if memory.stream is None else memory.stream)
        (stream or self._device.stream).wait_stream(producer)
        return memory.view(self._warp, self._device, keep=source)

    def _refuse_on_cpu(self, source: Any) -> None:
        if not self.is_gpu:
            raise FeedError(f"a {type(source).__name__} lies on a GPU, and this device is the CPU; open Device('cuda:0')")


def to_pycuda(array: DeviceArray) -> Any:
    """The same memory as a `pycuda.gpuarray.GPUArray`, which keeps `array` alive.

    The current CUDA context must be the GPU's primary one: the program imports `pycuda.autoprimaryctx`, not `pycuda.autoinit`.

    Raises: FeedError for an array that lies on the CPU; MissingDependencyError without PyCUDA.
    """
    if not hasattr(array, "__cuda_array_interface__"):
        raise FeedError(f"a {type(array).__name__} on the CPU is no array of PyCUDA's; use its numpy()")
    try:
        pycuda = importlib.import_module("pycuda.gpuarray")
    except ImportError as exc:
        raise MissingDependencyError(f"PyCUDA cannot be loaded ({exc}); install it with `pip install pycuda`") from exc
    memory = read_interface(array.__cuda_array_interface__)
    return pycuda.GPUArray(memory.shape, memory.dtype, base=array, gpudata=memory.pointer, strides=memory.strides)


@functools.cache
def load_warp() -> Any:
    """Warp, imported and started; it greets nobody unless the program uses it for itself.

    Raises: BackendUnavailableError with the line that installs it.
    """
    is_ours = "warp" not in sys.modules
    try:
        import warp
    except ImportError as exc:
        raise BackendUnavailableError(f"NVIDIA Warp cannot be loaded ({exc}); install it with `{_INSTALL}`") from exc
    if is_ours:
        warp.config.log_level = warp.LOG_WARNING
    warp.init()
    return warp


def _aligned(shape: Sequence[int], dtype: DTypeLike) -> np.ndarray[Any, np.dtype[Any]]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def chained(commands: Sequence[Launch]) -> Launch:
    """These commands, one after the other on one stream."""

    def put_all(stream: Stream) -> None:
        for command in commands:
            command(stream)

    return put_all


def _host_array(source: Any) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.asarray(source)
    if array.dtype not in (np.uint8, np.float16, np.float32, np.int32):
        raise TypeError(f"its dtype is {array.dtype}")
    return array


def describe(array: DeviceArray) -> str:
    """Dtype and shape of an array."""
    return f"{array.dtype.__name__}{list(array.shape)}"
