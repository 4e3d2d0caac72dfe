"""What a network gains, and what it takes, as more and more of the image is refined; and a plot of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.evaluation.evaluate import Pair, Score, evaluate, mean_score
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, MaskedStats

_WIDTH, _HEIGHT = 960, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 40, 56, 64
_INK, _GRID, _LINE, _POINTS = (60, 60, 60), (226, 226, 226), (160, 160, 160), (31, 105, 180)
_PER_TICK = 110
"""Pixels between two numbers on an axis, about."""

_LABEL = 36
"""Pixels that a point's label needs; one that is nearer to the last has none."""


@dataclass(frozen=True)
class Point:
    """One setting: the share asked for, of patches or of time, the share of pixels that was refined, and the scores."""

    amount: float
    refined: float
    images: tuple[Score, ...]
    mean: Score


def sweep(
    open_at: Callable[[float], ImageUpscaler], amounts: Sequence[float], pairs: Callable[[], Iterable[Pair]], *, runs: int = 1
) -> Iterator[Point]:
    """One point per amount. open_at: opens the upscaler that spends that share, from 0 to 1; it is closed here.

    Raises: as `evaluate`.
    """
    for amount in amounts:
        with open_at(amount) as upscaler:
            scores = evaluate(upscaler, pairs(), runs=runs)
            stats = upscaler.stats
            yield Point(amount, stats.share if isinstance(stats, MaskedStats) else 0.0, scores, mean_score(scores))


def draw_sweep(points: Sequence[Point], title: str) -> Array:
    """PSNR-Y against time: (600, 960, 3) uint8 RGB; the straight line joins the first and the last of two points or more."""
    canvas = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    across = _ChartAxis.around([point.mean.seconds * 1e3 for point in points], _LEFT, _WIDTH - _RIGHT)
    up = _ChartAxis.around([point.mean.psnr_y for point in points], _HEIGHT - _BOTTOM, _TOP)
    for tick in across.ticks():
        cv2.line(canvas, (across.at(tick), _TOP), (across.at(tick), _HEIGHT - _BOTTOM), _GRID, 1, cv2.LINE_AA)
        _text(canvas, f"{tick:g}", across.at(tick), _HEIGHT - _BOTTOM + 20, align=0.5)
    for tick in up.ticks():
        cv2.line(canvas, (_LEFT, up.at(tick)), (_WIDTH - _RIGHT, up.at(tick)), _GRID, 1, cv2.LINE_AA)
        _text(canvas, f"{tick:g}", _LEFT - 10, up.at(tick) + 5, align=1)
    places = [(across.at(point.mean.seconds * 1e3), up.at(point.mean.psnr_y)) for point in points]
    cv2.line(canvas, places[0], places[-1], _LINE, 1, cv2.LINE_AA)
    cv2.polylines(canvas, [np.array(places, np.int32)], False, _POINTS, 2, cv2.LINE_AA)
    labeled = -_LABEL
    for point, (x, y) in zip(points, places, strict=True):
        cv2.circle(canvas, (x, y), 5, _POINTS, -1, cv2.LINE_AA)
        if x - labeled >= _LABEL:
            _text(canvas, f"{point.amount:.0%}", x, y - 11, align=0.5)
            labeled = x
    _text(canvas, title, _LEFT, 24)
    _text(canvas, "ms per image", (_LEFT + _WIDTH - _RIGHT) // 2, _HEIGHT - 16, align=0.5)
    _text(canvas, "PSNR-Y dB", 8, _TOP - 10)
    return canvas


@dataclass(frozen=True)
class _ChartAxis:
    """Values from `low` to `high`, drawn from pixel `first` to pixel `last`."""

    low: float
    high: float
    first: int
    last: int

    @staticmethod
    def around(values: Sequence[float], first: int, last: int) -> _ChartAxis:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = 0.08 * (high - low) or max(abs(high) * 0.08, 1e-6)
        return _ChartAxis(low - room, high + room, first, last)

    def at(self, value: float) -> int:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.first + share * (self.last - self.first))

    def ticks(self) -> list[float]:
        """Round numbers, about evenly far apart on every axis."""
        least = (self.high - self.low) * _PER_TICK / abs(self.last - self.first)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
        return [float(f"{index * step:.10g}") for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _text(canvas: Array, text: str, x: int, y: int, *, align: float = 0) -> None:
    """`align`: which part of the text lies to the left of `x`."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    cv2.putText(canvas, text, (round(x - align * width), y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
