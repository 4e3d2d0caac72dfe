from __future__ import annotations

import ctypes
from typing import Any

import pytest

from sr_deploy.engines.gpu import GPU, Survey, find_gpus, survey, video_libraries
from sr_deploy.errors import BackendUnavailableError


class Driver:
    """What we ask of libcuda.so.1 and libnvidia-ml.so.1."""

    def __init__(self, *gpus: tuple[bytes, int, int], status: int = 0, management: int = 0) -> None:
        self.gpus, self.status, self.management = gpus, status, management

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13010
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status or flags

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: int) -> int:  # noqa: N802
        name.value = self.gpus[device][0][: size - 1]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:  # noqa: N802
        value._obj.value = self.gpus[device][1 if attribute == 75 else 2]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: int) -> int:  # noqa: N802
        memory._obj.value = (device + 5) << 30
        return 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self.management

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:  # noqa: N802
        text.value = b"580.82.07"[: size - 1]
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0


def use(driver: Driver, monkeypatch: pytest.MonkeyPatch, *, missing: tuple[str, ...] = ()) -> None:
    def load(name: str) -> Driver:
        if any(part in name for part in missing):
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_gpus_in_the_order_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Driver((b"NVIDIA H200", 9, 0), (b"NVIDIA L4", 8, 9)), monkeypatch)
    assert find_gpus() == (GPU("NVIDIA H200", "9.0", 5 << 30), GPU("NVIDIA L4", "8.9", 6 << 30))
    assert str(find_gpus()[1]) == "NVIDIA L4 (8.9)"
    assert survey() == Survey(find_gpus(), driver="580.82.07", cuda="13.1")


def test_no_driver_no_gpu_and_a_broken_driver_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Driver(), monkeypatch, missing=("cuda",))
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver on this machine"):
        find_gpus()
    assert not survey().broken
    use(Driver(), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="shows no GPU"):
        find_gpus()
    use(Driver(status=100), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="shows no GPU"):
        find_gpus()
    assert not survey().broken
    use(Driver(status=999), monkeypatch)
    with pytest.raises(BackendUnavailableError, match="CUDA error 999"):
        find_gpus()
    assert survey().broken


def test_the_version_of_the_driver_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = (b"NVIDIA L4", 8, 9)
    use(Driver(gpu), monkeypatch, missing=("ml",))
    assert (survey().driver, len(survey().gpus)) == ("", 1)
    use(Driver(gpu, management=9), monkeypatch)
    assert (survey().driver, len(survey().gpus)) == ("", 1)


def test_video_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Driver(), monkeypatch, missing=("ncode",))
    assert video_libraries() == {"NVDEC": True, "NVENC": False}
