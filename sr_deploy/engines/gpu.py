"""NVIDIA GPUs of this machine, asked from the driver itself: name and compute capability, without any CUDA package."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from sr_deploy.errors import BackendUnavailableError

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 128


@dataclass(frozen=True)
class GPU:
    """One GPU; `capability` is its compute capability, such as '8.9'."""

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


def find_gpus() -> tuple[GPU, ...]:
    """The GPUs of this machine, in the driver's order; never empty.

    Raises: BackendUnavailableError when there is no driver, or it shows no GPU.
    """
    driver = _driver()
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)))
    if count.value == 0:
        raise BackendUnavailableError("the NVIDIA driver shows no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES")
    return tuple(_gpu(driver, index) for index in range(count.value))


def _driver() -> ctypes.CDLL:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError as exc:
        raise BackendUnavailableError(
            f"no NVIDIA driver on this machine ({name} is missing); install the driver, and check it with `nvidia-smi`"
        ) from exc
    _check(driver.cuInit(0))
    return driver


def _gpu(driver: ctypes.CDLL, index: int) -> GPU:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(device), index))
    _check(driver.cuDeviceGetName(name, _NAME_BYTES, device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device))
    _check(driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device))
    return GPU(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _check(status: int) -> None:
    if status != 0:
        raise BackendUnavailableError(f"the NVIDIA driver does not work here (CUDA error {status}); check it with `nvidia-smi`")
