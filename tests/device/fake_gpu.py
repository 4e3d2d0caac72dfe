"""A GPU without a GPU: Warp's CPU device with streams, recordings and the rules that a driver has for them.

What is put on a stream is done at once, or recorded if this thread records on that stream. Broken are what a driver breaks:

- whoever touches the legacy default stream ends every recording on a stream that waits for it (CUDA error 906);
- who records may not allocate, wait, or make a context (CUDA error 900).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sr_deploy.device import device as device_module
from sr_deploy.device import gpu
from sr_deploy.device.device import Device, load_warp


class Capture:
    """What one thread records on one stream."""

    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.thread = threading.get_ident()
        self.steps: list[Callable[[], object]] = []
        self.broken = ""


class FakeStream:
    """A `warp.Stream`: one of Warp's own waits for the legacy stream, one by handle is what the driver made it."""

    gpu: FakeGPU

    def __init__(self, device: Any, cuda_stream: int | None = None) -> None:
        self.device = device
        self.cuda_stream = next(self.gpu.handles) if cuda_stream is None else cuda_stream
        self.waits_for_legacy = self.cuda_stream not in self.gpu.non_blocking
        self.waited_for: list[Any] = []

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other.cuda_stream)

    def record_event(self) -> tuple[str, int]:
        return ("event", self.cuda_stream)

    def wait_event(self, event: Any) -> None:
        self.waited_for.append(event)


class FakeGPU:
    """Stands in for the driver and for what of Warp needs one; see `install`."""

    def __init__(self) -> None:
        self.handles = itertools.count(1000)
        self.non_blocking: set[int] = set()
        self.destroyed: list[int] = []
        self.captures: list[Capture] = []
        self.launched_graphs = 0
        self.recorded_graphs = 0
        self.pool_threshold = 0
        self.refuses_graphs = False
        """What a test wants: that no recording can be made ready to launch."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        warp = load_warp()
        kind = type("Stream", (FakeStream,), {"gpu": self})
        own = kind(warp.get_device("cpu"))
        monkeypatch.setattr(Device, "is_gpu", True)
        monkeypatch.setattr(type(warp.get_device("cpu")), "stream", own, raising=False)
        monkeypatch.setattr(gpu, "create_stream", self._create)
        monkeypatch.setattr(gpu, "destroy_stream", self.destroyed.append)
        monkeypatch.setattr(warp, "Stream", kind)
        monkeypatch.setattr(warp, "get_stream", lambda _: own)
        monkeypatch.setattr(warp, "synchronize_stream", lambda _: self.forbid("waited for a stream"))
        monkeypatch.setattr(warp, "ScopedCapture", self._capture)
        monkeypatch.setattr(warp, "capture_launch", self._launch_graph)
        monkeypatch.setattr(warp, "is_mempool_enabled", lambda _: True)
        monkeypatch.setattr(warp, "get_mempool_release_threshold", lambda _: self.pool_threshold)
        monkeypatch.setattr(warp, "set_mempool_release_threshold", lambda _, kept: setattr(self, "pool_threshold", kept))
        monkeypatch.setattr(warp, "copy", self._on_stream(warp.copy))
        monkeypatch.setattr(warp, "launch", self._launcher(warp.launch))
        monkeypatch.setattr(warp, "empty", self._allocate)

    def touch_legacy_stream(self) -> None:
        """What any library does that copies without a stream."""
        for capture in self.captures:
            if capture.stream.waits_for_legacy:
                capture.broken = "CUDA error 906: operation would make the legacy stream depend on a capturing blocking stream"

    def forbid(self, what: str) -> None:
        """Fail if this thread records."""
        if (capture := self._own_capture(None)) is not None:
            capture.broken = f"CUDA error 900: {what} while a stream is capturing"
            raise RuntimeError(capture.broken)

    def put(self, handle: int, step: Callable[[], object]) -> None:
        """Do it now, or record it."""
        capture = self._own_capture(handle)
        if capture is None:
            step()
        else:
            capture.steps.append(step)

    def _own_capture(self, handle: int | None) -> Capture | None:
        mine = [capture for capture in self.captures if capture.thread == threading.get_ident()]
        return next((capture for capture in mine if handle in (None, capture.stream.cuda_stream)), None)

    def _create(self) -> int:
        handle = next(self.handles)
        self.non_blocking.add(handle)
        return handle

    def _on_stream(self, function: Callable[..., object]) -> Callable[..., None]:
        def put(*arguments: Any, stream: Any = None, **options: Any) -> None:
            if stream is None:
                self.forbid("worked on another stream")
            self.put(getattr(stream, "cuda_stream", 0), lambda: function(*arguments, **options))

        return put

    def _launcher(self, launch: Callable[..., Any]) -> Callable[..., Any]:
        """`warp.launch`, which returns what launches later where that is asked for."""

        def put(*arguments: Any, record_cmd: bool = False, **options: Any) -> Any:
            if not record_cmd:
                return self._on_stream(launch)(*arguments, **options)
            later = self._on_stream(launch(*arguments, record_cmd=True, **options).launch)
            return SimpleNamespace(launch=lambda stream: later(stream=stream))

        return put

    def _allocate(self, shape: Any, *, dtype: Any, device: Any, pinned: bool = False) -> Any:
        del pinned
        self.forbid("allocated")
        memory = device_module._aligned(shape, load_warp().dtype_to_numpy(dtype))
        return load_warp().array(memory, device=device, copy=False)

    @contextlib.contextmanager
    def _capture(self, *, stream: FakeStream) -> Iterator[Any]:
        capture = Capture(stream)
        found = SimpleNamespace(graph=capture)
        self.captures.append(capture)
        try:
            yield found
        finally:
            self.captures.remove(capture)
        if capture.broken:
            raise RuntimeError(capture.broken)
        self.recorded_graphs += 1

    def _launch_graph(self, graph: Capture, *, stream: FakeStream) -> None:
        assert graph.stream is stream
        if self.refuses_graphs:
            raise RuntimeError("Graph creation error: CUDA error 801: operation not supported")
        self.launched_graphs += 1
        for step in graph.steps:
            step()
