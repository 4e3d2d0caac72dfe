"""What an engine is: feeds in, results out, whatever runs them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sr_deploy.errors import EngineError, FeedError

if TYPE_CHECKING:
    from sr_deploy.arrays import Array
    from sr_deploy.device.device import Device, DeviceArray
    from sr_deploy.device.streams import Stream

Shapes = dict[str, tuple[int, ...]]
"""By the name of a tensor."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one input or output; -1 stands for a dimension that may vary."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def accepts(self, array: Array) -> bool:
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(want in (-1, got) for want, got in zip(self.shape, array.shape, strict=True))
        )

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name}[{', '.join('?' if n == -1 else str(n) for n in self.shape)}]"

    @staticmethod
    def parse(text: str) -> TensorSpec:
        """The tensor that is written as `text`. Raises: ValueError."""
        name, _, rest = text.partition(" ")
        dtype, _, sizes = rest.removesuffix("]").partition("[")
        return TensorSpec(name, np.dtype(dtype), tuple(-1 if size == "?" else int(size) for size in sizes.split(", ")))


class Engine(ABC):
    """One graph, ready to run.

    A context manager. `run` may be called from several threads: calls wait for each other. Results are the caller's own arrays:
    a later run never changes them. A backend implements `_run` and `_close`; feeds are checked here, once, for all of them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    description: str

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; `feeds` by input name, results by output name.

        Raises: FeedError for a wrong feed; OutOfMemoryError; EngineError for whatever else the runtime refuses.
        """
        self._check(feeds)
        with self._lock:
            if self._closed:
                raise EngineError(f"{self.description}: run after close; open a new engine")
            return self._run(feeds)

    def settle(self, shape: tuple[int, ...]) -> None:  # noqa: B027  (few runtimes gain by it)
        """Be told that many runs with a first input of this shape will come: preparing for it now pays."""

    def close(self) -> None:
        """Release the runtime's memory; closing twice is fine."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()

    def _check(self, feeds: Mapping[str, Array]) -> None:
        names = {spec.name for spec in self.inputs}
        if set(feeds) != names:
            raise FeedError(f"{self.description}: fed {sorted(feeds)}, expected {sorted(names)}")
        for spec in self.inputs:
            array = feeds[spec.name]
            if not spec.accepts(array):
                raise FeedError(f"{self.description}: '{spec.name}' is {array.dtype.name}{list(array.shape)}, expected {spec}")

    @abstractmethod
    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...

    def _close(self) -> None:  # noqa: B027  (nothing to release is the common case)
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class DeviceEngine(Engine):
    """An engine that also runs on arrays where they lie, in the order of a stream.

    device: where its arrays lie. contexts: how many runs may be under way at once, each in a context of its own. capturable:
    a CUDA graph can record `enqueue`, after one run of the same shapes in the same context. limits: smallest and largest shape
    by input name; an input that is not there takes any shape that its spec takes.
    """

    device: Device
    contexts: int = 1
    capturable: bool = False
    limits: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    @abstractmethod
    def enqueue(self, arrays: Mapping[str, DeviceArray], *, stream: Stream = None, context: int = 0) -> None:
        """Put one run on the stream: `arrays` has every input, which is read, and every output, which is filled, by name.

        They are contiguous, on `device`, and must live until the stream is done. One thread uses a context at a time.

        Raises: FeedError for wrong arrays; OutOfMemoryError; EngineError.
        """


def check_arrays(engine: DeviceEngine, arrays: Mapping[str, DeviceArray], context: int) -> None:
    """Raise FeedError unless there is one contiguous array for each input and output, as specified, and the context exists."""
    specs = (*engine.inputs, *engine.outputs)
    if set(arrays) != {spec.name for spec in specs}:
        raise FeedError(f"{engine.description}: got arrays {sorted(arrays)}, expected {sorted(spec.name for spec in specs)}")
    if not 0 <= context < engine.contexts:
        raise FeedError(f"{engine.description}: there is no context {context}; expected 0 to {engine.contexts - 1}")
    for spec in specs:
        array = arrays[spec.name]
        smallest, largest = engine.limits.get(spec.name, (spec.shape, array.shape))
        fits = len(array.shape) == len(spec.shape) and all(
            want in (-1, side) and low <= side <= high
            for want, side, low, high in zip(spec.shape, array.shape, smallest, largest, strict=True)
        )
        if not fits or array.dtype.__name__ != spec.dtype.name or not array.is_contiguous:
            from sr_deploy.device.device import describe

            allowed = f" from {list(smallest)} to {list(largest)}" if spec.name in engine.limits else ""
            raise FeedError(f"{engine.description}: '{spec.name}' is {describe(array)}, expected {spec}{allowed}, without gaps")
