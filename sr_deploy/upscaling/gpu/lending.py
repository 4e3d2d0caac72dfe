"""Results in page-locked memory, which is used again when nobody holds them any more."""

from __future__ import annotations

import functools
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray

_LENT_AT_MOST = 8
"""Page-locked memory cannot be swapped out: whoever keeps more results than that gets ordinary copies."""


class Lender:
    """Page-locked arrays of one form, lent out as results, and used again when nobody holds them any more."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._new = functools.partial(device.host, shape, dtype)
        self._free: deque[DeviceArray] = deque()
        self._made = 0
        self._spare: DeviceArray = None

    def take(self) -> DeviceArray:
        """An array to write to; `result` makes a result of it."""
        if self._free:
            return self._free.popleft()
        if self._made < _LENT_AT_MOST:
            array = self._new()
            self._made += 1
            return array
        if self._spare is None:
            self._spare = self._new()
        return self._spare

    def give_back(self, array: DeviceArray) -> None:
        """What was taken holds no result."""
        if array is not self._spare:
            self._free.append(array)

    def result(self, array: DeviceArray) -> Array:
        return array.numpy().copy() if array is self._spare else np.asarray(_Lent(array, self._free))


class _Lent:
    """A lent array, alive as long as any view of its result."""

    def __init__(self, array: DeviceArray, free: deque[DeviceArray]) -> None:
        self._array = array
        self._free = free
        self.__array_interface__ = array.numpy().__array_interface__

    def __del__(self) -> None:
        self._free.append(self._array)
