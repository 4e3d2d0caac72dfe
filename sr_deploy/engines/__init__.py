"""Graph -> Engine. Torch-free; inference runtimes are imported only when one of their engines is opened."""

from __future__ import annotations

import contextlib
import dataclasses
import pkgutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sr_deploy.card import Arithmetic
from sr_deploy.device import gpu
from sr_deploy.engines.engine import Engine, TensorSpec
from sr_deploy.errors import BackendUnavailableError, UsageError, did_you_mean

if TYPE_CHECKING:
    from types import FrameType

    from onnx import ModelProto

__all__ = [
    "BACKENDS",
    "Arithmetic",
    "Backend",
    "BackendModule",
    "Engine",
    "TensorSpec",
    "available_backends",
    "open_engine",
    "select_backend",
    "signals_wait",
]


class BackendModule(Protocol):
    """What the module of a backend, or the object in it, offers."""

    def require(self) -> None:
        """Import the runtime. Raises: ImportError, or BackendUnavailableError with what is missing."""

    def usable_precisions(self, device: str) -> tuple[Arithmetic, ...]:
        """Arithmetic that this machine does natively on 'cpu' or 'cuda'; fp32 among it, in which bad tiles are computed again.

        Raises: BackendUnavailableError.
        """

    def open(self, graph: bytes, *, device: str, precision: Arithmetic, threads: int | None, gpu: int = 0) -> Engine:
        """An engine that runs the ONNX file `graph` in `precision`, one of those that the backend names.

        threads: how many on the CPU, None for as many as the runtime wants. gpu: its number in the driver's order.

        Raises: BackendUnavailableError, OutOfMemoryError, EngineError when the runtime refuses the graph.
        """


@dataclass(frozen=True)
class Backend:
    """One way to run a graph: a module of this package, or `module:object`, the device it drives, and how to install it.

    cast_last: which pixel form it takes, as `pixels.to_pixel_form` has it. planes: 8-bit frames on a GPU go through the planes
    form instead, because this runtime runs what follows the last convolution node by node. also: arithmetic that it takes
    and does in another one where it is not native. options: what `tune` may turn on in its engines, for speed alone, each with
    all before it; chosen: what is on.
    """

    name: str
    module: str
    device: Literal["cpu", "cuda"]
    install: str
    cast_last: bool = False
    planes: bool = False
    also: tuple[Arithmetic, ...] = ()
    options: tuple[str, ...] = ()
    chosen: tuple[str, ...] = ()

    def usable_precisions(self) -> tuple[Arithmetic, ...]:
        """Arithmetic that this machine does natively with this backend.

        Raises: BackendUnavailableError with the reason and the line that installs it.
        """
        return self._load().usable_precisions(self.device)

    def precisions(self) -> tuple[Arithmetic, ...]:
        """Every arithmetic that this backend may be asked for: what it does natively, and what it takes besides.

        Raises: BackendUnavailableError.
        """
        native = self.usable_precisions()
        return (*native, *(precision for precision in self.also if precision not in native))

    def problem(self) -> str:
        """Why this backend cannot be used here, and what to do; '' when it can."""
        try:
            self.usable_precisions()
        except BackendUnavailableError as exc:
            return str(exc)
        return ""

    def with_options(self, chosen: tuple[str, ...]) -> Backend:
        """The same, whose engines have these options turned on.

        Raises: UsageError for one that the backend does not have, or that needs another one.
        """
        if unknown := set(chosen) - set(self.options):
            known = ", ".join(self.options) or "none"
            raise UsageError(f"backend '{self.name}' has no option {', '.join(sorted(unknown))}; there are: {known}")
        if chosen != (needed := self.options[: len(chosen)]):
            raise UsageError(f"backend '{self.name}' takes {', '.join(needed)} in this order; got {', '.join(chosen)}")
        return dataclasses.replace(self, chosen=chosen)

    def open(self, graph: bytes, *, precision: Arithmetic, threads: int | None, gpu: int = 0) -> Engine:
        """An engine that runs `graph` in one of `precisions()`; `gpu` is its number in the driver's order, not used on the CPU.

        Raises: UsageError, BackendUnavailableError, OutOfMemoryError, EngineError when the runtime refuses the graph.
        """
        options: dict[str, Any] = {"options": self.chosen} if self.chosen else {}
        return self._load().open(graph, device=self.device, precision=precision, threads=threads, gpu=gpu, **options)

    def _load(self) -> BackendModule:
        module: BackendModule = pkgutil.resolve_name(f"sr_deploy.engines.{self.module}")
        try:
            module.require()
        except ImportError as exc:
            raise BackendUnavailableError(
                f"backend '{self.name}' cannot be loaded ({exc}); install it with `{self.install}`"
            ) from exc
        return module


_INT8: tuple[Arithmetic, ...] = ("int8-symmetric",)
# Bias in a convolution runs with channels last alone; in the other layout its first run fails.
_CUDA_OPTIONS = ("prefer_nhwc", "fuse_conv_bias")

# Its wheels are linked with TensorRT 10.
_CUDA_AND_TENSORRT = 'pip install "sr-deploy[cuda]" "tensorrt-cu13~=10.13"'

BACKENDS: tuple[Backend, ...] = (
    Backend("openvino", "openvino", "cpu", "pip install openvino", also=("fp16",)),
    Backend("onnxruntime", "onnxruntime", "cpu", 'pip install "sr-deploy[onnxruntime]"', also=("int8", "int8-symmetric")),
    Backend("tensorrt", "tensorrt.open:TENSORRT", "cuda", 'pip install "sr-deploy[tensorrt]"', cast_last=True, also=_INT8),
    Backend(
        "tensorrt-rtx",
        "tensorrt.open:TENSORRT_RTX",
        "cuda",
        'pip install "sr-deploy[tensorrt-rtx]"',
        cast_last=True,
        also=_INT8,
    ),
    Backend("onnxruntime-cuda", "onnxruntime", "cuda", 'pip install "sr-deploy[cuda]"', planes=True, options=_CUDA_OPTIONS),
    Backend("onnxruntime-tensorrt", "onnxruntime_tensorrt", "cuda", _CUDA_AND_TENSORRT, cast_last=True),
)
"""In the order of preference, for each device.

On a GPU, TensorRT chooses each kernel by measuring it there. TensorRT for RTX is about as fast and builds in seconds, and takes
GeForce and RTX GPUs only. ONNX Runtime takes every GPU and builds nothing, and fuses least.
"""


def available_backends() -> dict[str, tuple[Arithmetic, ...]]:
    """Names of the backends that load here, each with the precisions it runs natively."""
    return {backend.name: backend.usable_precisions() for backend in BACKENDS if not backend.problem()}


def select_backend(name: str = "auto", *, allow_cpu: bool = False) -> Backend:
    """The backend of that name; 'auto' is the first usable one for the GPU if there is a GPU, else for the CPU.

    A GPU that no backend can use is an error, so that nobody waits for the CPU without knowing; `allow_cpu` takes the CPU then.

    Raises: UsageError for an unknown name; BackendUnavailableError.
    """
    if name == "auto":
        return _usable_on_gpu(allow_cpu=allow_cpu) or _usable_on_cpu()
    for backend in BACKENDS:
        if backend.name == name:
            backend.usable_precisions()
            return backend
    names = ["auto", *(backend.name for backend in BACKENDS)]
    raise UsageError(f"no backend '{name}'; there are: {', '.join(names)}{did_you_mean(str(name), names)}")


def _usable_on_gpu(*, allow_cpu: bool) -> Backend | None:
    machine = gpu.survey()
    if not machine.gpus and not machine.broken:
        return None
    problems = []
    for backend in (backend for backend in BACKENDS if backend.device == "cuda"):
        problems.append(backend.problem())
        if not problems[-1]:
            return backend
    if allow_cpu:
        return None
    if machine.broken:
        reason = f"{machine.problem}; {machine.remedy}"
    else:
        reason = f"no backend can use the GPU of this machine, {machine.gpus[0]}: {problems[-1]}"
    raise BackendUnavailableError(
        f"{reason}; to run on the CPU, say so with --allow-cpu (in Python: allow_cpu=True) or --backend openvino"
    )


def _usable_on_cpu() -> Backend:
    for backend in BACKENDS:
        if backend.device == "cpu" and not backend.problem():
            return backend
    raise BackendUnavailableError(f"no inference runtime loads here; install one with `{BACKENDS[0].install}`")


def open_engine(
    graph: Path | ModelProto, *, backend: str = "auto", precision: Arithmetic = "fp32", threads: int | None = None
) -> Engine:
    """An engine that runs `graph`, a path or a model in memory.

    `precision` is the arithmetic: 'fp32' and 'bf16' run an fp32 graph, the others one of their name as it is.

    Raises: UsageError, BackendUnavailableError, OutOfMemoryError, EngineError when the runtime refuses the graph.
    """
    contents = graph.read_bytes() if isinstance(graph, Path) else graph.SerializeToString()
    return select_backend(backend).open(contents, precision=precision, threads=threads)


@contextlib.contextmanager
def signals_wait(told: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Signals that Python handles are delivered after the block, where native code calls Python: no exception flies through it.

    told: called at once when one comes.
    """
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        caught.append(number)
        told()

    in_main = threading.current_thread() is threading.main_thread()
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if in_main and callable(signal.getsignal(number))]
    earlier = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])
