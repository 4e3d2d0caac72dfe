"""NVIDIA GPUs of this machine, asked from the driver itself, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sr_deploy.errors import BackendUnavailableError, EngineError, UsageError

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_TEXT_BYTES = 128
_STUB_LIBRARY, _NO_DEVICE = 34, 100
_NON_BLOCKING = 1

_WINDOWS = sys.platform == "win32"
_CUDA = "nvcuda.dll" if _WINDOWS else "libcuda.so.1"
_MANAGEMENT = "nvml.dll" if _WINDOWS else "libnvidia-ml.so.1"
VIDEO_LIBRARIES = {
    "NVDEC": "nvcuvid.dll" if _WINDOWS else "libnvcuvid.so.1",
    "NVENC": "nvEncodeAPI64.dll" if _WINDOWS else "libnvidia-encode.so.1",
}


@dataclass(frozen=True)
class GPU:
    """One GPU; `capability` is its compute capability, such as '8.9', `memory` is in bytes."""

    name: str
    capability: str
    memory: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


@dataclass(frozen=True)
class Survey:
    """What the NVIDIA driver says about this machine.

    gpus: in the driver's order. driver: its version. cuda: the newest CUDA that it runs. problem: why there are no GPUs, and
    remedy: what to do. broken: there seems to be a GPU, and it does not work.
    """

    gpus: tuple[GPU, ...] = ()
    driver: str = ""
    cuda: str = ""
    problem: str = ""
    remedy: str = ""
    broken: bool = False


def survey() -> Survey:
    """What the NVIDIA driver says about this machine; never raises."""
    try:
        library = ctypes.CDLL(_CUDA)
    except OSError:
        problem = f"no NVIDIA driver on this machine ({_CUDA} is missing)"
        return Survey(problem=problem, remedy="install the driver, and check it with `nvidia-smi`")
    driver, version = _driver_version(), _read(library.cuDriverGetVersion, ctypes.c_int())
    cuda = f"{version // 1000}.{version % 1000 // 10}" if version else ""
    status = library.cuInit(0)
    if status not in (0, _STUB_LIBRARY, _NO_DEVICE):
        problem = f"the NVIDIA driver does not work here (CUDA error {status})"
        return Survey((), driver, cuda, problem, "check it with `nvidia-smi`", broken=True)
    count = _read(library.cuDeviceGetCount, ctypes.c_int()) if status == 0 else 0
    if not count:
        return Survey((), driver, cuda, "the NVIDIA driver shows no GPU", "check `nvidia-smi` and CUDA_VISIBLE_DEVICES")
    return Survey(tuple(_gpu(library, index) for index in range(count)), driver, cuda)


def find_gpus() -> tuple[GPU, ...]:
    """The GPUs of this machine, in the driver's order; never empty.

    Raises: BackendUnavailableError when there is no driver, or it shows no GPU.
    """
    found = survey()
    if not found.gpus:
        raise BackendUnavailableError(f"{found.problem}; {found.remedy}")
    return found.gpus


def check_gpus(numbers: Sequence[int]) -> None:
    """Make sure that each of the numbers, in the driver's order, is a GPU of this machine.

    Raises: UsageError for no number, a negative one, or one twice; BackendUnavailableError for a GPU that is not here.
    """
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        given = ",".join(map(str, numbers)) or "none"
        raise UsageError(f"GPUs {given}: expected numbers from 0, each once, such as 0,1")
    found = survey()
    if not found.gpus:
        raise BackendUnavailableError(f"GPU {numbers[0]} is asked for, and {found.problem}; {found.remedy}, or name no GPU")
    if max(numbers) >= len(found.gpus):
        known = ", ".join(f"{number} ({gpu.name})" for number, gpu in enumerate(found.gpus))
        raise BackendUnavailableError(f"there is no GPU {max(numbers)} on this machine; expected {known}")


def free_memory(number: int) -> int | None:
    """Bytes that are free on the GPU of that number, in the driver's order; None when it does not tell."""
    try:
        library = ctypes.CDLL(_CUDA)
    except OSError:
        return None
    context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
    if library.cuInit(0):
        return None
    device = _read(library.cuDeviceGet, ctypes.c_int(), number)
    if library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
        return None
    library.cuCtxPushCurrent_v2(context)
    failed = library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    library.cuDevicePrimaryCtxRelease_v2(device)
    return None if failed else free.value


def create_stream() -> int:
    """The handle of a new stream of the current context, which never waits for the legacy default stream, nor that for it.

    Raises: EngineError.
    """
    handle = ctypes.c_void_p()
    status = ctypes.CDLL(_CUDA).cuStreamCreate(ctypes.byref(handle), _NON_BLOCKING)
    if status or not handle.value:
        raise EngineError(f"the NVIDIA driver makes no stream (CUDA error {status}); close other programs on this GPU")
    return handle.value


def destroy_stream(handle: int) -> None:
    """Let a stream of `create_stream` go; what is on it ends first."""
    ctypes.CDLL(_CUDA).cuStreamDestroy_v2(ctypes.c_void_p(handle))


def video_libraries() -> dict[str, bool]:
    """Whether the driver's libraries for decoding (NVDEC) and encoding (NVENC) video load here."""
    return {name: _loads(library) for name, library in VIDEO_LIBRARIES.items()}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _driver_version() -> str:
    """Such as '580.82.07'; '' when the driver's management library does not tell."""
    text = ctypes.create_string_buffer(_TEXT_BYTES)
    try:
        library = ctypes.CDLL(_MANAGEMENT)
    except OSError:
        return ""
    if library.nvmlInit_v2() != 0:
        return ""
    status = library.nvmlSystemGetDriverVersion(text, _TEXT_BYTES)
    library.nvmlShutdown()
    return text.value.decode(errors="replace") if status == 0 else ""


def _gpu(library: ctypes.CDLL, index: int) -> GPU:
    name = ctypes.create_string_buffer(_TEXT_BYTES)
    device = _read(library.cuDeviceGet, ctypes.c_int(), index)
    library.cuDeviceGetName(name, _TEXT_BYTES, device)
    major = _read(library.cuDeviceGetAttribute, ctypes.c_int(), _CAPABILITY_MAJOR, device)
    minor = _read(library.cuDeviceGetAttribute, ctypes.c_int(), _CAPABILITY_MINOR, device)
    memory = _read(library.cuDeviceTotalMem_v2, ctypes.c_size_t(), device)
    return GPU(name.value.decode(errors="replace"), f"{major}.{minor}", memory)


def _read(function: Callable[..., int], value: Any, *arguments: int) -> int:
    """What the function writes into `value`, its first argument; 0 when it fails."""
    return int(value.value) if function(ctypes.byref(value), *arguments) == 0 else 0
