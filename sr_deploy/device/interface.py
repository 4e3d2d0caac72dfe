"""Memory of a GPU as other libraries tell it: the `__cuda_array_interface__`, versions 2 and 3."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sr_deploy.errors import FeedError

EXPECTED = "expected uint8, float16 or float32 in numpy's, DLPack's or __cuda_array_interface__'s form"


@dataclass(frozen=True)
class DeviceMemory:
    """What a `__cuda_array_interface__` tells; strides in bytes, `stream` the producer's CUDA handle."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None

    def view(self, warp: Any, device: Any, *, keep: object) -> Any:
        """A Warp array of that memory, which keeps `keep` alive."""
        return warp.array(
            ptr=self.pointer,
            shape=self.shape,
            strides=self.strides,
            dtype=warp.dtype_from_numpy(self.dtype),
            device=device,
            deleter=functools.partial(_let_go, keep),
        )


def read_interface(interface: Mapping[str, Any]) -> DeviceMemory:
    """What the interface (version 2 or 3) tells.

    Raises: FeedError when it is not whole, or has what images do not: a mask, no pixels, another dtype.
    """
    try:
        shape = tuple(int(side) for side in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        pointer = int(interface["data"][0] or 0)
        strides = interface.get("strides")
        stream = interface.get("stream")
        steps = (
            tuple(int(step) for step in strides)
            if strides is not None
            else tuple(math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
        )
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise FeedError(f"its __cuda_array_interface__ cannot be read ({type(exc).__name__}: {exc}); {EXPECTED}") from exc
    if dtype not in (np.uint8, np.float16, np.float32):
        raise FeedError(f"an array of {dtype} has no place here; {EXPECTED}")
    if interface.get("mask") is not None or pointer == 0 or 0 in shape or len(steps) != len(shape):
        raise FeedError(f"its __cuda_array_interface__ has a mask, no memory or not one stride per side; {EXPECTED}")
    return DeviceMemory(pointer, shape, steps, dtype, None if stream is None else int(stream))


def _let_go(*_: object) -> None:
    """Nothing: bound to an object, it keeps that object alive."""
