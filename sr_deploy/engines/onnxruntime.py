"""ONNX Runtime on the CPU and through its CUDA provider."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from sr_deploy.engines import Arithmetic, gpu
from sr_deploy.engines.engine import Array, Engine, TensorSpec
from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError

_PROVIDER_OF = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_WARNING, _FATAL = 2, 4
_DTYPE_OF = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def require() -> None:
    """Import the runtime. Raises: ImportError."""
    import onnxruntime  # noqa: F401


def usable_precisions(device: str) -> tuple[Arithmetic, ...]:
    """fp32 and fp16; bf16 is not offered.

    Raises: BackendUnavailableError when the installed build has no provider for the device, or the GPU does not initialize.
    """
    import onnxruntime

    provider = _PROVIDER_OF[device]
    if provider not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime has no {provider}; install the CUDA build with "
            '`pip uninstall onnxruntime && pip install "sr-deploy[cuda]"`'
        )
    if device == "cuda" and (problem := gpu.survey().problem or _why_not_initialized(provider)):
        raise BackendUnavailableError(f"ONNX Runtime cannot initialize {provider}: {problem}; or use --backend onnxruntime")
    return ("fp32", "fp16")


def open(graph: bytes, *, device: str, precision: Arithmetic, threads: int | None) -> Engine:
    """Load `graph` into a session.

    Raises: BackendUnavailableError when the GPU fails to initialize, EngineError.
    """
    import onnxruntime

    if precision == "bf16":
        raise EngineError("onnxruntime computes in fp32 or fp16, not in bf16; use --precision fp32 or the openvino backend")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    provider = _PROVIDER_OF[device]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=[provider])
    except Exception as exc:
        raise _translated(exc, "refuses the graph") from exc
    if provider not in session.get_providers():
        raise BackendUnavailableError(
            f"ONNX Runtime could not initialize {provider}; see `sr-deploy doctor`, or choose --backend onnxruntime"
        )
    return ONNXRuntimeEngine(session, f"onnxruntime {'cuda ' if device == 'cuda' else ''}{precision}")


@functools.cache
def _why_not_initialized(provider: str) -> str:
    """Why that provider runs nothing here, '' when it runs a graph; what the runtime prints meanwhile is kept off stdout."""
    import onnxruntime

    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "output"))
    node = helper.make_node("Identity", ["input"], ["output"])
    graph = helper.make_graph([node], "probe", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnxruntime.set_default_logger_severity(_FATAL)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
        except Exception as exc:
            return (str(exc).splitlines() or [type(exc).__name__])[0]
        finally:
            onnxruntime.set_default_logger_severity(_WARNING)
    if provider in session.get_providers():
        return ""
    failures = [line.removeprefix("Failed to load ") for line in said.getvalue().splitlines() if "Failed to load " in line]
    reason = failures[0].partition(": ")[2] if failures else "it does not say why"
    return f'{reason}; install CUDA and cuDNN with `pip install "onnxruntime-gpu[cuda,cudnn]"`'


class ONNXRuntimeEngine(Engine):
    """An ONNX Runtime session."""

    def __init__(self, session: Any, description: str) -> None:
        super().__init__()
        self.description = description
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._session = session

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as exc:
            raise _translated(exc, "failed while running") from exc
        return {spec.name: array for spec, array in zip(self.outputs, results, strict=True)}

    def _close(self) -> None:
        self._session = None


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPE_OF:
        raise EngineError(f"onnxruntime: '{value.name}' is a {value.type}, which no image graph uses")
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorSpec(value.name, np.dtype(_DTYPE_OF[value.type]), shape)


def _translated(error: Exception, what: str) -> EngineError:
    reason = str(error).strip().splitlines()[0]
    if any(sign in str(error).lower() for sign in ("bad_alloc", "out of memory", "failed to allocate")):
        return OutOfMemoryError(f"onnxruntime: out of memory ({reason}); use smaller tiles or a smaller --memory")
    return EngineError(f"onnxruntime {what}: {reason}")
