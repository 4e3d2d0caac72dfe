"""Graph -> Engine. Torch-free; inference runtimes are imported only when one of their engines is opened."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from sr_deploy.engines.engine import Array, Engine, TensorSpec
from sr_deploy.errors import BackendUnavailableError, UsageError

if TYPE_CHECKING:
    from typing import Protocol

    from onnx import ModelProto

    class BackendModule(Protocol):
        def usable_precisions(self, device: str) -> tuple[Arithmetic, ...]: ...

        def open(self, graph: bytes, *, device: str, precision: Arithmetic, threads: int | None) -> Engine: ...


__all__ = [
    "BACKENDS",
    "Arithmetic",
    "Array",
    "Backend",
    "Engine",
    "TensorSpec",
    "available_backends",
    "open_engine",
    "select_backend",
]

Arithmetic = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Backend:
    """One way to run a graph: a module of this package, the device it drives, and how to install what it needs."""

    name: str
    module: str
    device: Literal["cpu", "cuda"]
    install: str

    def usable_precisions(self) -> tuple[Arithmetic, ...]:
        """Arithmetic that this machine does natively with this backend.

        Raises: BackendUnavailableError with the reason and the line that installs it.
        """
        return self._load().usable_precisions(self.device)

    def open(self, graph: bytes, *, precision: Arithmetic, threads: int | None) -> Engine:
        return self._load().open(graph, device=self.device, precision=precision, threads=threads)

    def _load(self) -> BackendModule:
        module = importlib.import_module(f"sr_deploy.engines.{self.module}")
        try:
            module.require()
        except ImportError as exc:
            raise BackendUnavailableError(
                f"backend '{self.name}' cannot be loaded ({exc}); install it with `{self.install}`"
            ) from exc
        return cast("BackendModule", module)


BACKENDS: tuple[Backend, ...] = (
    Backend("openvino", "openvino", "cpu", "pip install openvino"),
    Backend("onnxruntime", "onnxruntime", "cpu", 'pip install "sr-deploy[onnxruntime]"'),
    Backend("onnxruntime-cuda", "onnxruntime", "cuda", 'pip install "sr-deploy[cuda]"'),
)
"""In the order of preference."""


def available_backends() -> dict[str, tuple[Arithmetic, ...]]:
    """Names of the backends that load here, each with the precisions it runs natively."""
    return {backend.name: backend.usable_precisions() for backend in BACKENDS if _is_usable(backend)}


def _is_usable(backend: Backend) -> bool:
    try:
        backend.usable_precisions()
    except BackendUnavailableError:
        return False
    return True


def select_backend(name: str = "auto") -> Backend:
    """The backend of that name; 'auto' is the first one that loads here.

    Raises: UsageError for an unknown name; BackendUnavailableError.
    """
    for backend in BACKENDS:
        if backend.name == name:
            backend.usable_precisions()
            return backend
        if name == "auto" and _is_usable(backend):
            return backend
    if name == "auto":
        raise BackendUnavailableError(f"no inference runtime loads here; install one with `{BACKENDS[0].install}`")
    raise UsageError(f"no backend '{name}'; there are: auto, {', '.join(backend.name for backend in BACKENDS)}")


def open_engine(
    graph: Path | ModelProto, *, backend: str = "auto", precision: Arithmetic = "fp32", threads: int | None = None
) -> Engine:
    """An engine that runs `graph`, a path or a model in memory.

    `precision` is the arithmetic: 'fp32' and 'bf16' run an fp32 graph, 'fp16' runs an fp16 graph as it is.

    Raises: UsageError, BackendUnavailableError, OutOfMemoryError, EngineError when the runtime refuses the graph.
    """
    contents = graph.read_bytes() if isinstance(graph, Path) else graph.SerializeToString()
    return select_backend(backend).open(contents, precision=precision, threads=threads)
