"""Scores of modules whose result is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr_deploy.training.photos import read_photos
from sr_deploy.training.validation import as_tensor, validate, validate_bicubic

CPU = torch.device("cpu")


class Nearest(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=4, mode="nearest")


def test_bicubic_on_set5_is_the_published_figure(shared: Path) -> None:
    """Papers round Y to 8 bit before SSIM, which costs up to 0.001."""
    score = validate_bicubic(read_photos([str(shared / "images/Set5/HR")], 4))
    assert (score.psnr_y, score.ssim_y) == (pytest.approx(28.42, abs=0.01), pytest.approx(0.8104, abs=1e-3))


@pytest.mark.parametrize("colors", [1, 3])
def test_the_pixels_of_the_module_are_scored(photos: Path, colors: int) -> None:
    found = read_photos([str(photos)], 4, colors=colors)
    score = validate(Nearest(), found, CPU)
    bicubic = validate_bicubic(found)
    assert 15 < score.psnr_y < bicubic.psnr_y
    assert 0 < score.ssim_y < bicubic.ssim_y < 1


def test_nan_is_a_bad_score_and_no_crash(photos: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, scale_factor=4) * float("nan")

    assert validate(Broken(), read_photos([str(photos)], 4), CPU).psnr_y < 15


def test_tensors_are_the_pixels() -> None:
    images = np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3)
    tensor = as_tensor(images, CPU)
    assert tensor.shape == (2, 3, 3, 5) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(np.round(tensor.numpy() * 255).astype(np.uint8), images.transpose(0, 3, 1, 2))
