"""TensorRT and TensorRT for RTX: which of the two, what only one of them can do, and what it said last."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sr_deploy.errors import BackendUnavailableError, EngineError, OutOfMemoryError, SrDeployError, UsageError, first_line

_LINES_KEPT = 50
_LINES_SHOWN = 3
_LONGEST_LINE = 300


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, with the facts in which their interfaces differ.

    `builds_ahead`: needs no GPU to build, and compiles for a list of compute capabilities. `has_timing_cache`: measures
    kernels while it builds. `tells_validity`: says of a serialized engine whether it will load. `compiles_at_run`: leaves
    kernels to be compiled when an engine first runs a shape.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    install: str
    builds_ahead: bool
    has_timing_cache: bool
    tells_validity: bool
    compiles_at_run: bool


TENSORRT = Flavour(
    name="tensorrt",
    title="TensorRT",
    modules=("tensorrt", "tensorrt_bindings"),
    install='pip install "sr-deploy[tensorrt]"',
    builds_ahead=False,
    has_timing_cache=True,
    tells_validity=False,
    compiles_at_run=False,
)
TENSORRT_RTX = Flavour(
    name="tensorrt-rtx",
    title="TensorRT for RTX",
    modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
    install='pip install "sr-deploy[tensorrt-rtx]"',
    builds_ahead=True,
    has_timing_cache=False,
    tells_validity=True,
    compiles_at_run=True,
)
FLAVOURS = (TENSORRT, TENSORRT_RTX)


class Library:
    """A flavour with its imported module. Errors carry what the library logged last."""

    def __init__(self, flavour: Flavour, module: ModuleType) -> None:
        self.flavour = flavour
        self.module: Any = module
        self.version = str(module.__version__)
        self.logger = _logger(module)

    def __str__(self) -> str:
        return f"{self.flavour.name} {self.version}"

    def capabilities(self) -> dict[str, Any]:
        """The compute capabilities, such as '8.9', that TensorRT for RTX compiles for, each with its member."""
        members = self.module.ComputeCapability.__members__
        return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name.startswith("SM")}

    def error(self, what: str, reason: str = "") -> EngineError:
        """The error to raise when the library failed: `what`, and its own words."""
        words = "; ".join(self._last_words() or [reason or "it says nothing more"])
        if any(sign in f"{reason} {words}".lower() for sign in ("out of memory", "outofmemory", "bad_alloc")):
            return OutOfMemoryError(f"{self} {what}: out of memory ({words}); use smaller tiles, shapes or workspace")
        return EngineError(f"{self} {what}: {words}")

    @contextlib.contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Turn what the library raises inside the block into an EngineError that starts with `what`."""
        self.logger.lines.clear()
        try:
            yield
        except SrDeployError:
            raise
        except (RuntimeError, TypeError, ValueError, MemoryError) as exc:
            raise self.error(what, first_line(exc)) from exc

    def _last_words(self) -> list[str]:
        lines = list(self.logger.lines)
        errors = [text for is_error, text in lines if is_error]
        return list(dict.fromkeys(errors or [text for _, text in lines]))[-_LINES_SHOWN:]


def flavour_of(backend: str) -> Flavour:
    """The flavour that a target's backend names.

    Raises: UsageError.
    """
    for flavour in FLAVOURS:
        if flavour.name == backend:
            return flavour
    names = " or ".join(f"'{flavour.name}'" for flavour in FLAVOURS)
    raise UsageError(f"backend '{backend}' compiles no engines; expected {names}, as target 'rtx' has it")


def load_library(flavour: Flavour) -> Library:
    """The library of that flavour, imported.

    Raises: BackendUnavailableError with the line that installs it.
    """
    reasons = []
    for name in flavour.modules:
        try:
            return Library(flavour, importlib.import_module(name))
        except ImportError as exc:
            missing = isinstance(exc, ModuleNotFoundError)
            reasons.append((missing, first_line(exc)))
    _, reason = min(reasons, key=lambda entry: entry[0])
    raise BackendUnavailableError(f"{flavour.title} cannot be loaded ({reason}); install it with `{flavour.install}`")


@functools.cache
def _logger(module: Any) -> Any:
    """The library keeps the first logger of a process and ignores later ones, so there is one."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: deque[tuple[bool, str]] = deque(maxlen=_LINES_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            kinds = module.ILogger
            if severity in (kinds.INTERNAL_ERROR, kinds.ERROR, kinds.WARNING):
                text = " ".join(msg.split())[:_LONGEST_LINE]
                self.lines.append((severity != kinds.WARNING, text))

    return Logger()
