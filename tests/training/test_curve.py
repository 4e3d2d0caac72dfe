"""The log as CSV and PNG."""

from __future__ import annotations

import csv
import io

import cv2
import numpy as np
import pytest

from sr_deploy.training.curve import as_csv, as_png
from sr_deploy.training.state import LogLine

LOG = [LogLine(step, 1 + step // 600, 1e-3, 0.1 / step, 30 + step / 500, 0.9, step / 10) for step in range(100, 1001, 100)]


def test_csv_holds_the_log() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(LOG).decode())))
    assert [int(row["step"]) for row in rows] == [entry.step for entry in LOG]
    assert float(rows[-1]["psnr_y"]) == LOG[-1].psnr_y
    assert list(rows[0]) == ["step", "stage", "learning_rate", "loss", "psnr_y", "ssim_y", "seconds"]


@pytest.mark.parametrize(
    "log", [LOG, LOG[:1], [LogLine(1, 1, 1e-3, 0.0, float("inf"), 1.0, 0.0)]], ids=["run", "one", "perfect"]
)
def test_png_can_be_seen(log: list[LogLine]) -> None:
    image = cv2.imdecode(np.frombuffer(as_png(log, title="é", bicubic=31.0), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (560, 960, 3)
    assert (image < 128).any()


def test_the_curve_rises_where_psnr_rises() -> None:
    image = cv2.imdecode(np.frombuffer(as_png(LOG, title="x", bicubic=30.0), np.uint8), cv2.IMREAD_COLOR)[:280]
    rows, columns = np.nonzero((image[..., 0] > 150) & (image[..., 2] < 60))
    assert rows[columns < 300].mean() > rows[columns > 700].mean() + 80
