from __future__ import annotations

import ctypes
from typing import Any

import pytest

from sr_deploy.device.gpu import (
    GPU,
    Survey,
    create_stream,
    destroy_stream,
    find_gpus,
    free_memory,
    survey,
    video_libraries,
)
from sr_deploy.errors import BackendUnavailableError, EngineError


class Driver:
    """What we ask of libcuda.so.1 and libnvidia-ml.so.1."""

    def __init__(self, *gpus: tuple[bytes, int, int], status: int = 0, management: int = 0) -> None:
        self.gpus, self.status, self.management = gpus, status, management
        self.retained, self.current, self.destroyed = 0, list[int](), list[int]()

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

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:  # noqa: N802
        context._obj.value = 100 + device
        self.retained += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: int) -> int:  # noqa: N802
        self.retained -= 1
        return device * 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        self.current.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        context._obj.value = self.current.pop()
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = (self.current[-1] - 98) << 30, 80 << 30
        return self.management

    def cuStreamCreate(self, stream: Any, flags: int) -> int:  # noqa: N802
        assert flags == 1  # CU_STREAM_NON_BLOCKING
        stream._obj.value = 0 if self.management else 0x5EED
        return self.management

    def cuStreamDestroy_v2(self, stream: Any) -> int:  # noqa: N802
        self.destroyed.append(stream.value)
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


def test_free_memory_is_asked_in_the_gpu_s_own_context(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver((b"NVIDIA H200", 9, 0), (b"NVIDIA L4", 8, 9))
    use(driver, monkeypatch)
    assert [free_memory(0), free_memory(1)] == [2 << 30, 3 << 30]
    assert (driver.retained, driver.current) == (0, [])
    use(Driver((b"NVIDIA H200", 9, 0), management=2), monkeypatch)
    assert free_memory(0) is None
    use(Driver(status=100), monkeypatch)
    assert free_memory(0) is None
    use(driver, monkeypatch, missing=("cuda",))
    assert free_memory(0) is None


def test_streams_are_made_so_that_the_legacy_stream_does_not_wait_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver((b"NVIDIA H200", 9, 0))
    use(driver, monkeypatch)
    assert create_stream() == 0x5EED
    destroy_stream(0x5EED)
    assert driver.destroyed == [0x5EED]
    use(Driver(management=2), monkeypatch)
    with pytest.raises(EngineError, match="CUDA error 2"):
        create_stream()
