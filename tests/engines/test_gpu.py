from __future__ import annotations

import ctypes
from typing import Any

import pytest

from sr_deploy.engines.gpu import GPU, find_gpus
from sr_deploy.errors import BackendUnavailableError


class Driver:
    """What we ask of libcuda.so.1."""

    def __init__(self, *gpus: tuple[bytes, int, int], status: int = 0) -> None:
        self.gpus, self.status = gpus, status

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status or flags

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        name.value = self.gpus[device.value][0][: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self.gpus[device.value][1 if attribute == 75 else 2]
        return 0


def use(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)


def test_gpus_in_the_order_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Driver((b"NVIDIA H200", 9, 0), (b"NVIDIA L4", 8, 9)), monkeypatch)
    assert find_gpus() == (GPU("NVIDIA H200", "9.0"), GPU("NVIDIA L4", "8.9"))
    assert str(find_gpus()[1]) == "NVIDIA L4 (8.9)"


def test_no_driver_no_gpu_and_a_broken_driver_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver on this machine"):
        find_gpus()
    use(Driver(), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="shows no GPU"):
        find_gpus()
    use(Driver(status=999), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="CUDA error 999"):
        find_gpus()
