"""OpenVINO on the CPU."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from sr_deploy.engines import Arithmetic, signals_wait
from sr_deploy.engines.engine import Engine, TensorSpec
from sr_deploy.errors import EngineError, OutOfMemoryError

if TYPE_CHECKING:
    from sr_deploy.arrays import Array

_CAPABILITY_OF: dict[Arithmetic, str] = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}

_X86 = ("x86_64", "amd64")
"""Machines on which its convs of 8 bits have been held against fp32."""


def require() -> None:
    """Import the runtime. Raises: ImportError."""
    _runtime()


@functools.cache
def _runtime() -> Any:
    """OpenVINO without its telemetry: that would tell its maker of each run, from a thread that can outlive Ctrl-C for ever."""
    telemetry = "openvino_telemetry"
    absent = telemetry not in sys.modules
    if absent:
        sys.modules[telemetry] = None  # type: ignore[assignment] # As Python marks what cannot be imported.
    try:
        with signals_wait():
            import openvino
    finally:
        if absent:
            del sys.modules[telemetry]
    return openvino


def usable_precisions(device: str) -> tuple[Arithmetic, ...]:
    """What this CPU computes natively."""
    capabilities = _core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    named = tuple(precision for precision, name in _CAPABILITY_OF.items() if name in capabilities)
    return named if platform.machine().lower() in _X86 else tuple(one for one in named if one != "int8")


def open(graph: bytes, *, device: str, precision: Arithmetic, threads: int | None, gpu: int = 0) -> Engine:
    """Compile `graph` for the CPU. An fp16 graph is computed in fp16 where the CPU can, else in fp32."""
    del gpu
    arithmetic = precision if precision in usable_precisions(device) else "fp32"
    return OpenVINOEngine(graph, device=device, arithmetic=arithmetic, threads=threads)


_SHAPES_KEPT = 4
_CACHED = 8
"""Compiled primitives that the CPU plugin keeps for shapes to come; its own bound lets 400 sizes of pictures take 200 MB."""


class OpenVINOEngine(Engine):
    """A graph compiled by OpenVINO, for all shapes, and once more for each of the shapes that it settled on.

    For one shape it is a sixth to a half faster, and takes about a tenth of a second to compile.
    """

    def __init__(self, graph: bytes, *, device: str, arithmetic: Arithmetic, threads: int | None) -> None:
        super().__init__()
        self.description = f"openvino {arithmetic}"
        self._arithmetic = arithmetic
        self._compile = functools.partial(_compile, graph, device=device, threads=threads)
        compiled = self._compile(arithmetic)
        declared = ModelProto.FromString(graph).graph
        self.inputs = tuple(_spec(value.name, port) for value, port in zip(declared.input, compiled.inputs, strict=True))
        self.outputs = tuple(_spec(value.name, port) for value, port in zip(declared.output, compiled.outputs, strict=True))
        self._request = compiled.create_infer_request()
        self._pixel_request: Any = None
        self._settled: dict[tuple[int, ...], Any] = {}

    def settle(self, shape: tuple[int, ...]) -> None:
        if shape not in self._settled and len(self.inputs) == 1:
            self._settled = dict(list(self._settled.items())[1 - _SHAPES_KEPT :]) | {shape: None}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        ordered = [np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs]
        request = self._request_for(ordered[0])
        try:
            results = request.infer(ordered, share_inputs=True, share_outputs=True)
        except RuntimeError as exc:
            raise _translated(exc, "failed while running") from exc
        return {spec.name: np.array(results[index]) for index, spec in enumerate(self.outputs)}

    def _request_for(self, image: Array) -> Any:
        """OpenVINO 2026.4 computes a single pixel wrongly in bf16, so that runs in fp32."""
        if self._arithmetic != "bf16" or image.size > 4 * len(image):
            return self._settled_request(image.shape) if image.shape in self._settled else self._request
        if self._pixel_request is None:
            self._pixel_request = self._compile("fp32").create_infer_request()
        return self._pixel_request

    def _settled_request(self, shape: tuple[int, ...]) -> Any:
        if self._settled[shape] is None:
            self._settled[shape] = self._compile(self._arithmetic, shape=shape).create_infer_request()
        return self._settled[shape]

    def _close(self) -> None:
        self._request = self._pixel_request = None
        self._settled = {}


def _compile(
    graph: bytes, arithmetic: Arithmetic, *, device: str, threads: int | None, shape: tuple[int, ...] | None = None
) -> Any:
    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}[arithmetic]
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "CPU_RUNTIME_CACHE_CAPACITY": _CACHED,
    }
    if threads is not None:
        # Whoever counts threads shares the machine, and OpenVINO binds those of every process to the same first cores.
        options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    try:
        model = _core().read_model(graph)
        if shape is not None:
            model.reshape(list(shape))
        return _core().compile_model(model, device.upper(), options)
    except RuntimeError as exc:
        raise _translated(exc, "refuses the graph") from exc


@functools.cache
def _core() -> Any:
    return _runtime().Core()


def _spec(name: str, port: Any) -> TensorSpec:
    shape = tuple(-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()), shape)


def _translated(error: RuntimeError, what: str) -> EngineError:
    reason = str(error).strip().splitlines()[-1].strip()
    if any(sign in str(error).lower() for sign in ("bad_alloc", "out of memory", "failed to allocate", "cannot allocate")):
        return OutOfMemoryError(f"openvino: out of memory ({reason}); use smaller tiles or a smaller --memory")
    return EngineError(f"openvino {what}: {reason}")
