"""What a network gains, and what it takes, as more and more of the image is refined; and a plot of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sr_deploy.arrays import Array
from sr_deploy.evaluation.evaluate import Pair, Score, Seen, evaluate, mean_score
from sr_deploy.pictures.chart import BLUE, Chart, ChartAxis, blank
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, MaskedStats

_WIDTH, _HEIGHT = 960, 600
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 40, 56, 64
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
    open_at: Callable[[float], ImageUpscaler],
    amounts: Sequence[float],
    pairs: Callable[[], Iterable[Pair]],
    *,
    runs: int = 1,
    observer: Callable[[float], Seen | None] = lambda _: None,
) -> Iterator[Point]:
    """One point per amount. open_at: opens the upscaler that spends that share, from 0 to 1; it is closed here.

    observer: of an amount, what is called with its images, as by `evaluate`.

    Raises: as `evaluate`.
    """
    for amount in amounts:
        with open_at(amount) as upscaler:
            scores = evaluate(upscaler, pairs(), runs=runs, observer=observer(amount))
            stats = upscaler.stats
            yield Point(amount, stats.share if isinstance(stats, MaskedStats) else 0.0, scores, mean_score(scores))


def draw_sweep(points: Sequence[Point], title: str) -> Array:
    """PSNR-Y against time: (600, 960, 3) uint8 RGB; the straight line joins the first and the last of two points or more."""
    canvas = blank(_HEIGHT, _WIDTH)
    places = [(point.mean.seconds * 1e3, point.mean.psnr_y) for point in points]
    across = ChartAxis.around([milliseconds for milliseconds, _ in places], _LEFT, _WIDTH - _RIGHT)
    up = ChartAxis.around([psnr for _, psnr in places], _HEIGHT - _BOTTOM, _TOP)
    chart = Chart(canvas, across, up, title)
    chart.line(places[0], places[-1])
    chart.curve(places, BLUE, marked=places)
    labeled = -_LABEL
    for point, place in zip(points, places, strict=True):
        x, y = chart.at(*place)
        if x - labeled >= _LABEL:
            chart.text(f"{point.amount:.0%}", (x, y - 11), align=0.5)
            labeled = x
    chart.text("ms per image", ((_LEFT + _WIDTH - _RIGHT) // 2, _HEIGHT - 16), align=0.5)
    chart.text("PSNR-Y dB", (8, _TOP - 10))
    return canvas
