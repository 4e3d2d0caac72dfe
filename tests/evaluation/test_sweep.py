"""Sweeps over upscalers that trade time for quality in a known way, and their plot."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.bicubic import imresize
from sr_deploy.evaluation.evaluate import Pair, Score
from sr_deploy.evaluation.sweep import Point, draw_sweep, sweep
from sr_deploy.export.probes import probe_picture
from sr_deploy.masked.masked_upscaler import MaskedUpscaler
from sr_deploy.upscaling.image_upscaler import ImageUpscaler, MaskedStats, Progress
from tests.graphs import masked_bundle


class Blend(ImageUpscaler):
    """Some rows from HR, the rest bicubic; the more from HR, the longer."""

    scale = 2

    def __init__(self, share: float, hr: np.ndarray) -> None:
        self.share, self.hr, self.closed, self.calls = share, hr, False, 0

    description = "blend"

    @property
    def stats(self) -> MaskedStats:
        return MaskedStats(pixels=100, refined=round(100 * self.share))

    def upscale_pixels(self, pixels: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        del progress
        assert not self.closed
        time.sleep(self.share / 100)
        large = imresize(pixels, *self.hr.shape[:2])
        rows = round(self.share * len(large))
        large[:rows] = self.hr[:rows]
        return large

    def close(self) -> None:
        self.closed = True


def test_one_point_per_amount() -> None:
    hr = probe_picture()[:80, :60]
    opened: list[Blend] = []

    def open_at(share: float) -> Blend:
        assert all(blend.closed for blend in opened)
        opened.append(Blend(share, hr))
        return opened[-1]

    pairs = [Pair("a", hr, imresize(hr, 40, 30)), Pair("b", hr, imresize(hr, 40, 30))]
    points = list(sweep(open_at, [0.0, 0.5, 1.0], lambda: pairs))
    assert [(point.amount, point.refined) for point in points] == [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
    assert points[0].mean.psnr_y < points[1].mean.psnr_y < points[2].mean.psnr_y == float("inf")
    assert all([score.name for score in point.images] == ["a", "b"] for point in points)
    assert all(blend.closed for blend in opened)


def test_a_mask_guided_network(tmp_path: Path) -> None:
    bundle = masked_bundle(tmp_path)
    hr = probe_picture()[:64, :48]
    pairs = [Pair("a", hr, imresize(hr, 32, 24))]
    points = list(
        sweep(lambda k: MaskedUpscaler(bundle, k=k, backend="onnxruntime", precision="fp32"), [0.0, 0.25, 1.0], lambda: pairs)
    )
    assert [point.refined for point in points] == [0.0, pytest.approx(0.25), 1.0]
    assert points[0].mean.psnr_y != points[1].mean.psnr_y != points[2].mean.psnr_y


def point(amount: float, psnr: float, seconds: float) -> Point:
    return Point(amount, amount, (), Score("mean", psnr, 0.9, seconds))


def blue(canvas: np.ndarray) -> np.ndarray:
    return (canvas[..., 2] > 150) & (canvas[..., 0] < 80)


def test_the_plot_shows_the_points_where_they_are() -> None:
    canvas = draw_sweep([point(0, 30, 0.01), point(0.5, 31.5, 0.02), point(1, 32, 0.04)], "a network")
    assert (canvas.shape, canvas.dtype) == ((600, 960, 3), np.uint8)
    rows, columns = np.nonzero(blue(canvas))
    left, right = columns.min(), columns.max()
    assert rows[columns == left].mean() > 400 and rows[columns == right].mean() < 120
    third = round(left + 5 + (right - left - 10) / 3)
    top, bottom = rows.min(), rows.max()
    assert rows[columns == third].mean() == pytest.approx(bottom - 5 - (bottom - top - 10) * 0.75, abs=4)


@pytest.mark.parametrize(
    "points",
    [
        [point(0.1, 30, 0.01)],
        [point(0, 30, 0.01), point(1, 30, 0.01)],
        [point(0, 30, 0.01), point(1, float("inf"), 1000)],
        [point(0, float("inf"), 1e-9)],
        [point(0, 0, 0), point(0.5, -3, 1e5)],
    ],
)
def test_odd_points_are_drawn_too(points: list[Point]) -> None:
    assert blue(draw_sweep(points, "é 漢字")).any()


@pytest.mark.parametrize(("seconds", "labeled"), [(0.101, False), (0.15, True)])
def test_a_label_is_left_out_where_it_would_lie_on_the_last(seconds: float, labeled: bool) -> None:
    def drawn(amount: float) -> np.ndarray:
        times = {0.0: 0.1, amount: seconds, 1.0: 0.2}
        points = [Point(share, share, (), Score("mean", 30 + share, 0.9, taken)) for share, taken in times.items()]
        points[1] = Point(amount, amount, (), Score("mean", 30.5, 0.9, seconds))
        return draw_sweep(points, "title")

    assert (drawn(0.25) != drawn(0.75)).any() == labeled
