"""Charts on arrays: curves over two linear axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sr_deploy.arrays import Array

Color = tuple[int, int, int]
INK, GRID, LINE = (60, 60, 60), (226, 226, 226), (165, 165, 165)
BLUE, GREEN, ORANGE = (31, 105, 180), (44, 140, 60), (255, 127, 14)

_PER_TICK = 110
"""Pixels between two numbers on an axis, about."""

_PER_TICK_UP = 45
_ROOM = 0.07


@dataclass(frozen=True)
class ChartAxis:
    """Values from `low` to `high`, drawn from pixel `first` to pixel `last`."""

    low: float
    high: float
    first: int
    last: int

    @staticmethod
    def around(values: Sequence[float], first: int, last: int) -> ChartAxis:
        """An axis for these values, with some room; those that are not finite do not count."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = _ROOM * (high - low) or max(abs(high) * _ROOM, 1e-6)
        return ChartAxis(low - room, high + room, first, last)

    def at(self, value: float) -> int:
        """The pixel of a value; values beyond an end lie on it."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first))

    def ticks(self) -> list[float]:
        """Round numbers, about evenly far apart on every axis."""
        apart = _PER_TICK if self.last > self.first else _PER_TICK_UP
        least = (self.high - self.low) * apart / abs(self.last - self.first)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
        return [float(f"{index * step:.10g}") for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


class Chart:
    """A grid with its numbers and a title on `canvas`, (H,W,3) uint8 RGB, which is drawn over.

    across, up: its axes; `up` begins at the larger pixel. write: how a number below the chart reads.
    """

    def __init__(
        self, canvas: Array, across: ChartAxis, up: ChartAxis, title: str, *, write: Callable[[float], str] = "{:g}".format
    ) -> None:
        self._canvas, self._across, self._up = canvas, across, up
        for tick in across.ticks():
            self.line((tick, up.low), (tick, up.high), GRID)
            self.text(write(tick), (across.at(tick), up.first + 20), align=0.5)
        for tick in up.ticks():
            self.line((across.low, tick), (across.high, tick), GRID)
            self.text(f"{tick:g}", (across.first - 10, up.at(tick) + 5), align=1)
        self.text(title, (across.first, 24))

    def at(self, x: float, y: float) -> tuple[int, int]:
        """The pixel of a value on each axis."""
        return self._across.at(x), self._up.at(y)

    def line(self, start: tuple[float, float], end: tuple[float, float], color: Color = LINE) -> None:
        """A thin straight line between two places, in values."""
        cv2.line(self._canvas, self.at(*start), self.at(*end), color, 1, cv2.LINE_AA)

    def curve(self, places: Sequence[tuple[float, float]], color: Color, *, marked: Sequence[tuple[float, float]]) -> None:
        """A line through places, in values, with a dot on each of those that are `marked`."""
        cv2.polylines(self._canvas, [np.array([self.at(*place) for place in places], np.int32)], False, color, 2, cv2.LINE_AA)
        for place in marked:
            cv2.circle(self._canvas, self.at(*place), 5, color, -1, cv2.LINE_AA)

    def text(self, text: str, pixel: tuple[int, int], *, align: float = 0) -> None:
        """Text whose baseline lies at `pixel`. align: what share of it lies to the left of that."""
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        left = min(round(pixel[0] - align * width), self._canvas.shape[1] - width)
        cv2.putText(self._canvas, text, (left, pixel[1]), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)


def blank(height: int, width: int) -> Array:
    """(height, width, 3) uint8, white."""
    return np.full((height, width, 3), 255, np.uint8)
