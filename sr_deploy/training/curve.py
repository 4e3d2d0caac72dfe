"""The log of a run as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from itertools import pairwise

from sr_deploy.arrays import Array
from sr_deploy.pictures.chart import BLUE, GREEN, ORANGE, Chart, ChartAxis, blank
from sr_deploy.pictures.image import encode_image
from sr_deploy.training.state import LogLine

_WIDTH, _PANEL, _MARGIN = 960, 280, 64


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
    canvas = blank(2 * _PANEL, _WIDTH)
    first = {entry.stage: entry.loss for entry in reversed(log)}
    psnr = [(entry.step, entry.psnr_y) for entry in log]
    loss = [(entry.step, entry.loss / (first[entry.stage] or 1.0)) for entry in log]
    above = [value for _, value in psnr if value >= bicubic]
    shown = [bicubic, *(above or [value for _, value in psnr])]
    best = max(value for _, value in psnr)
    caption = f"{title}: PSNR-Y in dB, last {psnr[-1][1]:.2f}, best {best:.2f}; bicubic {bicubic:.2f}"
    chart = _chart(canvas[:_PANEL], caption, log, shown)
    chart.line((0, bicubic), (log[-1].step, bicubic), ORANGE)
    chart.curve(psnr, BLUE, marked=psnr[-1:])
    chart = _chart(canvas[_PANEL:], "loss, over the first of its stage", log, [value for _, value in loss])
    chart.curve(loss, GREEN, marked=loss[-1:])
    return encode_image(canvas, "png")


def _chart(canvas: Array, title: str, log: Sequence[LogLine], shown: Sequence[float]) -> Chart:
    """The axes for values that are shown over the steps, and where stages begin."""
    across = ChartAxis(0, max(log[-1].step, 1), _MARGIN, _WIDTH - 24)
    up = ChartAxis.around(shown, _PANEL - 36, 40)
    chart = Chart(canvas, across, up, title, write=lambda tick: f"{tick / 1000:g} k" if tick >= 1000 else f"{tick:g}")
    for before, entry in pairwise(log):
        if entry.stage != before.stage:
            chart.line((before.step, up.low), (before.step, up.high))
    return chart
