"""The log of a run as CSV and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from itertools import pairwise

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.training.state import LogLine

WIDTH, PANEL, MARGIN = 960, 280, 64
INK, GRID, STAGE = (60, 60, 60), (226, 226, 226), (170, 170, 170)
BLUE, GREEN, ORANGE = (180, 105, 31), (60, 140, 44), (14, 127, 255)  # BGR


def as_csv(log: Sequence[LogLine]) -> bytes:
    """The log as a table, one line per validation."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(LogLine)])
    writer.writerows(astuple(entry) for entry in log)
    return text.getvalue().encode()


def as_png(log: Sequence[LogLine], *, title: str, bicubic: float) -> bytes:
    """Curves over the steps, with a vertical line where a stage begins: PSNR-Y from bicubic's on, where it is above; and the
    loss over the first of its stage, since stages may weigh different losses."""
    import cv2

    canvas = np.full((2 * PANEL, WIDTH, 3), 255, np.uint8)
    starts = [before.step for before, entry in pairwise(log) if entry.stage != before.stage]
    first = {entry.stage: entry.loss for entry in reversed(log)}
    steps = [entry.step for entry in log]
    best = max(entry.psnr_y for entry in log)
    caption = f"{title}: PSNR-Y in dB, last {log[-1].psnr_y:.2f}, best {best:.2f}; bicubic {bicubic:.2f}"
    _panel(canvas[:PANEL], caption, steps, [entry.psnr_y for entry in log], BLUE, starts, level=bicubic)
    losses = [entry.loss / (first[entry.stage] or 1.0) for entry in log]
    _panel(canvas[PANEL:], "loss, over the first of its stage", steps, losses, GREEN, starts)
    encoded, data = cv2.imencode(".png", canvas)
    assert encoded
    return data.tobytes()


def _panel(
    canvas: Array,
    caption: str,
    steps: Sequence[int],
    values: Sequence[float],
    color: tuple[int, int, int],
    starts: Sequence[int],
    *,
    level: float | None = None,
) -> None:
    above = values if level is None else [level, *(value for value in values if value >= level)]
    low, high = _limits(above if len(above) > 1 else [*values, *above])
    right = max(steps[-1], 1)

    def at(step: float, value: float) -> tuple[int, int]:
        x = MARGIN + step / right * (WIDTH - MARGIN - 24)
        return round(x), round(40 + (high - min(max(value, low), high)) / (high - low) * (PANEL - 76))

    for tick in _ticks(low, high):
        _line(canvas, at(0, tick), at(right, tick), GRID)
        _text(canvas, f"{tick:g}", (at(0, tick)[0] - 8, at(0, tick)[1] + 4), shift=1)
    for tick in _ticks(0, right):
        _text(
            canvas,
            f"{tick / 1000:g} k" if tick >= 1000 else f"{tick:g}",
            (at(tick, low)[0], PANEL - 16),
            shift=1 if tick == right else 0.5,
        )
    for step in starts:
        _line(canvas, at(step, low), at(step, high), STAGE)
    if level is not None:
        _line(canvas, at(0, level), at(right, level), ORANGE)
    _curve(canvas, [at(step, value) for step, value in zip(steps, values, strict=True)], color)
    _text(canvas, caption, (MARGIN, 24), size=0.55)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low or abs(high) or 1.0) * 0.06
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two limits."""
    step = 10.0 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]


def _line(canvas: Array, start: tuple[int, int], end: tuple[int, int], color: tuple[int, int, int]) -> None:
    import cv2

    cv2.line(canvas, start, end, color, 1, cv2.LINE_AA)


def _curve(canvas: Array, points: Sequence[tuple[int, int]], color: tuple[int, int, int]) -> None:
    import cv2

    cv2.polylines(canvas, [np.array(points, np.int32)], False, color, 2, cv2.LINE_AA)
    cv2.circle(canvas, points[-1], 4, color, -1, cv2.LINE_AA)


def _text(canvas: Array, text: str, at: tuple[int, int], *, size: float = 0.5, shift: float = 0) -> None:
    """`shift`: what share of its width the text is moved to the left."""
    import cv2

    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    cv2.putText(canvas, text, (at[0] - round(shift * width), at[1]), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)
