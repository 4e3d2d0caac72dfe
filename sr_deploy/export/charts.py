"""SVG for the report: bars on a logarithmic scale. Colors come from the page's CSS variables, so both themes fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sr_deploy.export.kept import LARGEST_ALLOWED, LARGEST_FP16


@dataclass(frozen=True)
class Layer:
    """One tensor: its largest absolute value on calm probes and on noise, and whether its node stayed in fp32."""

    name: str
    calm: float
    noise: float
    kept: bool


def log_bar(value: float, *, low: float, high: float, limit: float | None = None, good: bool = True) -> str:
    """A horizontal bar from `low` to `high`, with a tick at `limit`."""
    width = 220
    ticks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="16" class="grid"/>'
        for x in (_at(10.0**power, low, high) * width for power in range(math.ceil(math.log10(low)), 1 + int(math.log10(high))))
    )
    length = _at(value, low, high) * width
    mark = ""
    if limit is not None:
        x = _at(limit, low, high) * width
        mark = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="16" class="limit"/>'
    kind = "good" if good else "bad"
    return (
        f'<svg class="bar" viewBox="0 0 {width} 16" role="img" aria-label="{value:.4g}">{ticks}'
        f'<rect x="0" y="4" width="{max(length, 1.5):.1f}" height="8" rx="2" class="{kind}"/>{mark}</svg>'
    )


def linear_bar(value: float, *, high: float, good: bool = True) -> str:
    """A horizontal bar from 0, to the left for negative values."""
    half = 110
    length = min(abs(value) / high, 1.0) * half
    start = half - length if value < 0 else half
    kind = "good" if good else "muted"
    return (
        f'<svg class="bar" viewBox="0 0 {2 * half} 16" role="img" aria-label="{value:.2f} dB">'
        f'<line x1="{half}" x2="{half}" y1="0" y2="16" class="axis"/>'
        f'<rect x="{start:.1f}" y="4" width="{max(length, 1):.1f}" height="8" rx="2" class="{kind}"/></svg>'
    )


def activation_chart(layers: Sequence[Layer]) -> str:
    """Every tensor of a graph from input to output, with fp16's largest number and what is allowed of it."""
    width, height, left, bottom = 960, 260, 46, 22
    low = 0.01
    peak = max(min(max(layer.calm, layer.noise), 1e30) for layer in layers)
    high = 10.0 ** math.ceil(math.log10(max(peak * 1.5, LARGEST_FP16 * 4)))

    def y(value: float) -> float:
        return 8 + (1 - _at(value, low, high)) * (height - bottom - 8)

    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    step = max(1, len(decades) // 9)
    parts = [
        f'<line x1="{left}" x2="{width}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}" class="grid"/>'
        f'<text x="{left - 6}" y="{y(10.0**power) + 3.5:.1f}" class="tick end">{_power(power)}</text>'
        for power in list(decades)[::step]
    ]
    pitch = (width - left) / len(layers)
    thick = max(pitch * 0.72, 0.6)
    for index, layer in enumerate(layers):
        x = left + index * pitch + (pitch - thick) / 2
        top, kind = y(layer.calm), "kept" if layer.kept else "good"
        title = f"{escape(layer.name)}: {layer.calm:.4g}, on white noise {layer.noise:.4g}" + (" (fp32)" if layer.kept else "")
        parts.append(
            f'<g><title>{title}</title><rect x="{x:.2f}" y="{top:.1f}" width="{thick:.2f}" '
            f'height="{max(height - bottom - top, 0.5):.1f}" class="{kind}"/>'
            f'<rect x="{x:.2f}" y="{y(layer.noise) - 1:.1f}" width="{thick:.2f}" height="2" class="noise"/></g>'
        )
    for value, text in ((LARGEST_FP16, "65504, the largest fp16"), (LARGEST_ALLOWED, "")):
        kind = "limit" if text else "limit soft"
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="{kind}"/>')
        if text:
            parts.append(f'<text x="{width - 4}" y="{y(value) - 5:.1f}" class="tick end strong">{text}</text>')
    parts.append(f'<text x="{left}" y="{height - 6}" class="tick">input</text>')
    parts.append(f'<text x="{width - 4}" y="{height - 6}" class="tick end">output</text>')
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="activations">{"".join(parts)}</svg>'


def _at(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` and `high` on a logarithmic scale, within 0..1."""
    if not value > low:
        return 0.0
    return min((math.log10(min(value, high)) - math.log10(low)) / (math.log10(high) - math.log10(low)), 1.0)


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 < power < 4 else f"1e{power}"
