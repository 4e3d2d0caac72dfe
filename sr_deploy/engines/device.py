"""Device arrays, streams and the compilation of our kernels, on NVIDIA Warp.

Arrays are Warp's: they carry `ptr`, `shape`, `numpy()`, DLPack and `__cuda_array_interface__`. A new array can be used on any
stream. Copies and kernels are put on a stream and not waited for: keep their arrays until it is done.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.engines.gpu import find_gpus
from sr_deploy.errors import BackendUnavailableError, EngineError, FeedError, OutOfMemoryError

DeviceArray = Any
"""A `warp.array`."""

Stream = Any
"""A `warp.Stream`; None is the device's own stream, and the only one on the CPU."""

_INSTALL = 'pip install "sr-deploy[gpu]"'
_ON_GPU = (2, 13)
"""DLPack's codes for CUDA memory and managed CUDA memory."""


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

    @property
    def is_gpu(self) -> bool:
        return bool(self._device.is_cuda)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array on the device, of undefined contents.

        Raises: OutOfMemoryError.
        """
        return self._empty(shape, dtype, device=self._device)

    def host(self, shape: Sequence[int], dtype: DTypeLike) -> DeviceArray:
        """An array in the host's memory, page-locked when the device is a GPU; `numpy()` is a view of it.

        Raises: OutOfMemoryError.
        """
        return self._empty(shape, dtype, device="cpu", pinned=self.is_gpu)

    def stream(self, handle: int | None = None) -> Stream:
        """A new stream, or the caller's own by its CUDA handle; None on the CPU. The caller's stream must outlive it."""
        if not self.is_gpu:
            return None
        return self._warp.Stream(self._device) if handle is None else self._warp.Stream(self._device, cuda_stream=handle)

    def array(self, source: Any, *, stream: Stream = None) -> DeviceArray:
        """`source` on this device: what lies here already is not copied, and is kept alive.

        source: a Warp array, or anything with `__cuda_array_interface__`, DLPack or numpy's interface. What `source`'s producer
        has put on its own stream is done before what comes on `stream`.

        Raises: FeedError for anything else, and for GPU memory when this device is the CPU.
        """
        wp = self._warp
        if isinstance(source, wp.array) and source.device == self._device:
            return source
        if hasattr(source, "__cuda_array_interface__"):
            return self._of_interface(source, stream)
        try:
            if hasattr(source, "__dlpack_device__") and int(source.__dlpack_device__()[0]) in _ON_GPU:
                self._refuse_on_cpu(source)
                with wp.ScopedStream(stream):
                    array = wp.from_dlpack(source)
                if array.device != self._device:
                    raise ValueError(f"it lies on {array.device}, not on {self.name}")
                return array
            return self._ready(wp.array(_host_array(source), device=self._device, copy=self.is_gpu))
        except (RuntimeError, TypeError, ValueError, BufferError) as exc:
            raise FeedError(f"a {type(source).__name__} cannot be read as an array ({exc}); {_EXPECTED}") from exc

    def copy(self, target: DeviceArray, source: DeviceArray, *, stream: Stream = None) -> None:
        """Copy between arrays of one shape and dtype, from and to the host too.

        Raises: FeedError.
        """
        if target.shape != source.shape or target.dtype != source.dtype:
            raise FeedError(f"{describe(source)} cannot be copied to {describe(target)}; expected one shape and dtype")
        with _translated():
            self._warp.copy(target, source, stream=stream)

    def launch(self, kernel: Any, dim: Sequence[int], arguments: Sequence[Any], *, stream: Stream = None) -> None:
        """Put a kernel of `kernels.py` on the stream.

        Raises: EngineError.
        """
        with _translated():
            self._warp.launch(kernel, dim=tuple(dim), inputs=list(arguments), device=self._device, stream=stream)

    def _empty(self, shape: Sequence[int], dtype: DTypeLike, **where: Any) -> DeviceArray:
        with _translated():
            return self._ready(self._warp.empty(tuple(shape), dtype=self._warp.dtype_from_numpy(np.dtype(dtype)), **where))

    def _ready(self, array: DeviceArray) -> DeviceArray:
        """The array; memory from a stream's pool is another stream's only after the first has come to it."""
        if self.is_gpu:
            self._warp.synchronize_stream(self._device.stream)
        return array

    def _of_interface(self, source: Any, stream: Stream) -> DeviceArray:
        self._refuse_on_cpu(source)
        memory = read_interface(source.__cuda_array_interface__)
        if memory.stream is not None:
            producer = self.stream(memory.stream)
            (stream or self._device.stream).wait_stream(producer)
        return memory.view(self._warp, self._device, keep=source)

    def _refuse_on_cpu(self, source: Any) -> None:
        if not self.is_gpu:
            raise FeedError(f"a {type(source).__name__} lies on a GPU, and this device is the CPU; open Device('cuda:0')")


@dataclass(frozen=True)
class DeviceMemory:
    """What a `__cuda_array_interface__` tells; strides in bytes, `stream` the producer's CUDA handle."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None

    def view(self, warp: Any, device: Any, *, keep: object) -> DeviceArray:
        """A Warp array of that memory, which keeps `keep` alive."""
        return warp.array(
            ptr=self.pointer,
            shape=self.shape,
            strides=self.strides,
            dtype=warp.dtype_from_numpy(self.dtype),
            device=device,
            deleter=functools.partial(_let_go, keep),
        )


def _let_go(*_: object) -> None:
    """Nothing: bound to an object, it keeps that object alive."""


def read_interface(interface: Mapping[str, Any]) -> DeviceMemory:
    """What the interface (version 2 or 3) tells.

    Raises: FeedError when it is not whole, or has what images do not: a mask, no pixels, another dtype.
    """
    try:
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        pointer = int(interface["data"][0] or 0)
        strides = interface.get("strides")
        stream = interface.get("stream")
        steps = (
            tuple(int(step) for step in strides)
            if strides is not None
            else tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
        )
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise FeedError(f"its __cuda_array_interface__ cannot be read ({type(exc).__name__}: {exc}); {_EXPECTED}") from exc
    if dtype not in (np.uint8, np.float16, np.float32):
        raise FeedError(f"an array of {dtype} has no place here; {_EXPECTED}")
    if interface.get("mask") is not None or pointer == 0 or 0 in shape or len(steps) != len(shape):
        raise FeedError(f"its __cuda_array_interface__ has a mask, no memory or not one stride per side; {_EXPECTED}")
    return DeviceMemory(pointer, shape, steps, dtype, None if stream is None else int(stream))


def compile_kernels(capabilities: Iterable[str], folder: Path) -> list[Path]:
    """Compile the kernels ahead of time for compute capabilities such as '8.9', without a GPU; one cubin each, in that order.

    Raises: BackendUnavailableError, EngineError.
    """
    warp = load_warp()
    from sr_deploy.engines import kernels

    folder.mkdir(parents=True, exist_ok=True)
    with _translated():
        architectures = [int(capability.replace(".", "")) for capability in capabilities]
        return [Path(path) for path in warp.compile_aot_module(kernels, arch=architectures, module_dir=folder, use_ptx=False)]


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


_EXPECTED = "expected uint8, float16 or float32 in numpy's, DLPack's or __cuda_array_interface__'s form"


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn what Warp raises inside the block into our errors."""
    try:
        yield
    except Exception as exc:  # compilers' failures have no class of their own
        reason = (str(exc).splitlines() or [type(exc).__name__])[0]
        if "allocate" in reason:
            raise OutOfMemoryError(f"NVIDIA Warp: {reason}; use smaller tiles or a smaller batch") from exc
        raise EngineError(f"NVIDIA Warp: {reason}") from exc


def _host_array(source: Any) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.asarray(source)
    if array.dtype not in (np.uint8, np.float16, np.float32, np.int32):
        raise TypeError(f"its dtype is {array.dtype}")
    return array


def describe(array: DeviceArray) -> str:
    """Dtype and shape of an array."""
    return f"{array.dtype.__name__}{list(array.shape)}"
