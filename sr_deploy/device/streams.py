"""Streams of a GPU that other libraries' work does not touch, and graphs of what is put on them."""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from sr_deploy.device import gpu
from sr_deploy.errors import EngineError, OutOfMemoryError, SrDeployError, UsageError, first_line, warn_once

Stream = Any
"""A `warp.Stream`; None is the device's own stream, and the only one on the CPU."""

LEGACY = 1
"""The handle of the legacy default stream: what libraries put on no stream of their own goes there."""

_log = logging.getLogger(__name__)


def new_stream(warp: Any, device: Any) -> Stream:
    """A stream of Warp's that neither waits for the legacy default stream nor is waited for by it.

    Streams that Warp makes do both, so that any thread that touches the legacy stream ends the recording of a graph.

    Raises: EngineError.
    """
    with device.context_guard:
        handle = gpu.create_stream()
    stream = warp.Stream(device, cuda_stream=handle)
    weakref.finalize(stream, gpu.destroy_stream, handle).atexit = False
    return stream


def stream_handle(stream: Any) -> int:
    """The CUDA handle of a stream: a whole number, or a stream of torch, CuPy, PyCUDA, Numba, Warp, or any `__cuda_stream__`.

    Raises: UsageError.
    """
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        handle = (protocol() if callable(protocol) else protocol)[1]
    else:
        handle = next((getattr(stream, name) for name in ("cuda_stream", "ptr", "handle") if hasattr(stream, name)), stream)
    try:
        return operator.index((handle.value or 0) if hasattr(handle, "value") else handle)
    except TypeError as exc:
        raise UsageError(
            f"a {type(stream).__name__} is no CUDA stream; expected one of torch, CuPy or PyCUDA, or a stream's handle"
        ) from exc


class Recordings:
    """Keeps recording a graph apart from waiting, allocating and making contexts, which a recording does not survive.

    Who wants to record goes first: in a busy process somebody always waits for a stream.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._wanted = 0
        self._inside = 0
        self._own = threading.local()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread is in a block of `kept_out` as long as this one lasts."""
        with self._changed:
            self._wanted += 1
            try:
                self._changed.wait_for(lambda: self._inside == 0)
                with self._deeper():
                    yield
            finally:
                self._wanted -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def kept_out(self) -> Iterator[None]:
        """No other thread records inside the block; any number of threads may be in such blocks, and in one inside another."""
        if self._depth:
            with self._deeper():
                yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._wanted == 0)
            self._inside += 1
        try:
            with self._deeper():
                yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @property
    def _depth(self) -> int:
        """In how many blocks the thread is."""
        return getattr(self._own, "depth", 0)

    @contextlib.contextmanager
    def _deeper(self) -> Iterator[None]:
        self._own.depth = self._depth + 1
        try:
            yield
        finally:
            self._own.depth -= 1


class Graph:
    """A call that repeats what `function` put on the stream, as one launch; where no graph can be made, `function` itself.

    `function` runs once for the record, in which nothing is computed. It has run before, so that its kernels are loaded, and
    neither allocates nor waits.
    """

    def __init__(self, warp: Any, stream: Stream, function: Callable[[], None], recordings: Recordings) -> None:
        self._warp = warp
        self._stream = stream
        self._function = function
        self._graph: Any = None
        self._is_proven = False
        with _tried("recorded"), recordings.alone():
            self._graph = self._recorded()

    def __call__(self) -> None:
        """Raises: EngineError."""
        if self._is_proven:
            self._launch()
        elif self._graph is not None:
            self._prove()
        else:
            self._function()

    def _recorded(self) -> Any:
        with self._warp.ScopedCapture(stream=self._stream) as capture:
            self._function()
        return capture.graph

    def _prove(self) -> None:
        """The first launch makes the graph ready, which can fail before anything is on the stream."""
        with _tried("made"):
            self._launch()
            self._is_proven = True
        if not self._is_proven:
            self._graph = None
            self._function()

    def _launch(self) -> None:
        with translated():
            self._warp.capture_launch(self._graph, stream=self._stream)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what Warp raises inside the block into our errors."""
    try:
        yield
    except SrDeployError:
        raise
    except Exception as exc:  # compilers' failures have no class of their own
        reason = first_line(exc)
        if "allocate" in reason:
            raise OutOfMemoryError(f"NVIDIA Warp: {reason}; use smaller tiles or a smaller batch") from exc
        raise EngineError(f"NVIDIA Warp: {reason}") from exc


@contextlib.contextmanager
def _tried(what: str) -> Iterator[None]:
    """What fails inside the block costs speed alone, and is noted."""
    try:
        yield
    except Exception as exc:
        cost = "work is enqueued piece by piece, which takes the host a little longer"
        warn_once(_log, f"a CUDA graph cannot be {what} ({first_line(exc)}): {cost}")
