"""ONNX Runtime through its TensorRT provider; what TensorRT does not take runs on its CUDA provider.

It builds its engines when it meets the first image of a size, which takes minutes, and keeps them in a folder of its own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sr_deploy.device.gpu import find_gpus
from sr_deploy.engines import Arithmetic, onnxruntime
from sr_deploy.engines.engine import DeviceEngine
from sr_deploy.engines.tensorrt.cache import default_folder
from sr_deploy.errors import EngineError


def require() -> None:
    """Import the runtime. Raises: ImportError."""
    onnxruntime.require()


def usable_precisions(device: str) -> tuple[Arithmetic, ...]:
    """As ONNX Runtime's own, with its TensorRT provider.

    Raises: BackendUnavailableError.
    """
    precisions = onnxruntime.usable_precisions(device)
    onnxruntime.check_provider(onnxruntime.TENSORRT)
    return precisions


def open(graph: bytes, *, device: str, precision: Arithmetic, threads: int | None, gpu: int = 0) -> DeviceEngine:  # noqa: ARG001
    """Load `graph` into a session.

    Raises: BackendUnavailableError when the GPU fails to initialize, EngineError.
    """
    folder = str(_folder(graph, find_gpus()[gpu].name))
    options = {
        "device_id": str(gpu),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
    onnxruntime.load_libraries(onnxruntime.TENSORRT)

    def new_session(stream: int | None) -> Any:
        own = (onnxruntime.TENSORRT, options | onnxruntime.stream_option(stream))
        providers = [own, onnxruntime.cuda_provider(gpu, stream)]
        return onnxruntime.open_session(graph, providers, precision=precision, threads=threads)

    return onnxruntime.ONNXRuntimeEngine(new_session, f"onnxruntime tensorrt {precision}", device_name=f"cuda:{gpu}")


def _folder(graph: bytes, gpu: str) -> Path:
    """Where the engines of one graph lie: the provider's names for them tell the versions, but not the weights."""
    key = hashlib.sha256(graph + gpu.encode()).hexdigest()[:16]
    folder = default_folder().parent / "onnxruntime-tensorrt" / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise EngineError(
            f"{folder}: cannot be made for engines ({exc.strerror}); name another place in XDG_CACHE_HOME"
        ) from exc
    return folder
