from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from click.testing import Result

from sr_deploy.cli import doctor
from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines import Backend
from sr_deploy.engines.tensorrt import library as tensorrt_library
from sr_deploy.errors import BackendUnavailableError
from tests.engines.test_engines import L4, _forget_what_initialized, fake_runtime
from tests.engines.test_engines import machine as gpus

__all__ = ["_forget_what_initialized"]

Invoke = Callable[..., Result]


def test_a_machine_that_works(invoke: Invoke) -> None:
    result = invoke("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "upscale: works" in result.stdout
    document = json.loads(invoke("doctor", "--json").stdout)
    assert document["upscale"] is True
    assert document["packages"]["numpy"]
    assert document["machine"]["cores"] >= 1
    backends = {backend["name"]: backend for backend in document["backends"]}
    assert backends["openvino"]["works"] and "fp32" in backends["openvino"]["precisions"]
    for backend in backends.values():
        assert backend["works"] or "pip install" in backend["problem"] or "no NVIDIA driver" in backend["problem"]
    for library in document["libraries"]:
        assert library["works"] or "pip install" in library["problem"] or "on the GPU" in library["problem"]


@pytest.mark.parametrize("broken", [False, True])
def test_without_a_gpu_that_works(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    found = Survey(problem="no NVIDIA driver on this machine", remedy="install it", broken=broken)
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)
    result = invoke("doctor")
    assert "GPU           none: no NVIDIA driver on this machine; to use one, install it\n" in result.stdout
    assert "NVDEC" not in result.stdout
    assert result.exit_code == (3 if broken else 0)
    assert ("onnxruntime-cuda" in result.stdout) == broken
    assert ("--allow-cpu" in result.stderr) == broken


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"])
def test_a_backend_that_must_work_and_does_not(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    found = Survey(problem="no NVIDIA driver on this machine", remedy="install it")
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)
    result = invoke("doctor", "--backend", backend)
    assert result.exit_code == 3
    assert "upscale: does not work" in result.stdout
    assert result.stderr.count("\n") == 1 and ("backend" in result.stderr or "ONNX Runtime" in result.stderr)


def test_a_backend_that_must_work_and_does(invoke: Invoke) -> None:
    assert invoke("doctor", "--backend", "openvino").exit_code == 0
    assert invoke("doctor", "--backend", "openvibe").exit_code == 2


def test_a_gpu_that_no_runtime_can_use(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Survey((GPU("NVIDIA L4", "8.9", 24 * 10**9),), driver="580.82.07", cuda="13.0")
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)
    monkeypatch.setattr("sr_deploy.device.gpu.video_libraries", lambda: {"NVDEC": True, "NVENC": False})
    monkeypatch.setattr(Backend, "usable_precisions", _only_on_the_cpu)
    result = invoke("doctor")
    assert result.exit_code == 3
    facts = dict(line.split("  ", 1) for line in result.stdout.split("\n\n")[0].splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["GPU"] == "NVIDIA L4 (8.9) with 24.0 GB"
    assert facts["NVIDIA driver"] == "580.82.07, for CUDA up to 13.0"
    assert facts["NVDEC"] == "yes"
    assert facts["NVENC"].startswith("no ") and "NVIDIA_DRIVER_CAPABILITIES" in facts["NVENC"]
    assert "upscale: does not work" in result.stdout
    assert result.stderr.count("\n") == 1 and "--allow-cpu" in result.stderr
    document = json.loads(invoke("doctor", "--json").stdout)
    assert document["nvidia"]["gpus"] == [{"name": "NVIDIA L4", "capability": "8.9", "memory": 24 * 10**9}]
    assert document["nvidia"]["video"] == {"NVDEC": True, "NVENC": False}
    assert "no CUDA" in document["problem"] and document["upscale"] is False


def test_a_library_of_cuda_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, L4)
    fake_runtime(monkeypatch, cuda="99.0")
    problem = doctor._try("onnxruntime-cuda")["problem"]
    assert "libcublas.so.99" in problem and '"nvidia-cublas~=99.0"' in problem and "pip install" in problem


def _only_on_the_cpu(self: Backend) -> tuple[str, ...]:
    if self.device == "cuda":
        raise BackendUnavailableError("no CUDA")
    return ("fp32",)


def test_libraries_that_build_engines(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(flavour: tensorrt_library.Flavour) -> SimpleNamespace:
        return SimpleNamespace(version=f"1.2 of {flavour.name}")

    monkeypatch.setattr(tensorrt_library, "load_library", load)
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: Survey(problem="none"))
    tensorrt, rtx = json.loads(invoke("doctor", "--json").stdout)["libraries"]
    assert (tensorrt["works"], tensorrt["version"]) == (False, "1.2 of tensorrt")
    assert "builds on the GPU" in tensorrt["problem"]
    assert (rtx["works"], rtx["problem"]) == (True, "")


def test_a_machine_without_a_runtime(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Backend) -> tuple[str, ...]:
        raise BackendUnavailableError(f"backend '{self.name}' cannot be loaded; install it with `{self.install}`")

    monkeypatch.setattr(Backend, "usable_precisions", refuse)
    result = invoke("doctor")
    assert result.exit_code == 3
    assert "upscale: does not work" in result.stdout
    assert "pip install openvino" in result.stdout
    assert result.stderr.startswith("error: no inference runtime works here")
    assert json.loads(invoke("doctor", "--json").stdout)["upscale"] is False


def test_a_missing_package(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("tqdm", "torch") else version(name))
    monkeypatch.setattr(doctor, "_absent", lambda _: True)
    result = invoke("doctor")
    assert result.exit_code == 3
    assert 'export: not here; install it with `pip install "sr-deploy[export]"`' in result.stdout
    assert result.stderr == "error: tqdm not installed; install it with `pip install sr-deploy`\n"


def test_another_build_of_a_package_counts(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name.startswith("opencv") else version(name))
    assert invoke("doctor").exit_code == 0
