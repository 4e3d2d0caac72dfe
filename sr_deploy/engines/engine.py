"""What an engine is: feeds in, results out, whatever runs them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from sr_deploy.errors import EngineError, FeedError

Array = np.ndarray[Any, np.dtype[Any]]


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
