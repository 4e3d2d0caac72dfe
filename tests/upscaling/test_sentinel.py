from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_deploy import Upscaler, read_image
from sr_deploy.errors import UnhealthyOutputError
from sr_deploy.upscaling import sentinel

BLACK_AND_WHITE = np.where(np.add.outer(np.arange(64), np.arange(64))[..., None] % 2, np.uint8(255), np.uint8(0)).repeat(3, 2)


def two_colors(shared: Path) -> np.ndarray:
    return read_image(shared / "faults" / "sentinel_two_colours.png").pixels


def clamped(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What `fast-x2` gives, whatever the sentinel thinks of it."""
    with monkeypatch.context() as patch, Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale:
        patch.setattr(sentinel, "is_healthy", lambda *_: True)
        return upscale(image)


def test_what_overshoots_and_is_right_once_clamped_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dither of black and white: bicubic would make gray of it."""
    with Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale:
        large = upscale(BLACK_AND_WHITE)
        assert (upscale.stats.recomputed, upscale.stats.replaced) == (0, 0)
    assert np.array_equal(large, clamped(BLACK_AND_WHITE, monkeypatch))
    shrunk = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - BLACK_AND_WHITE).mean() < 5


def test_what_is_wrong_once_clamped_too_is_refused_or_bicubic(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = two_colors(shared)
    with (
        Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale,
        pytest.raises(UnhealthyOutputError, match="the network diverges on this content"),
    ):
        upscale(image)
    with Upscaler("fast-x2", backend="openvino", on_failure="bicubic") as upscale:
        large = upscale(image)
        assert upscale.stats.replaced == 1
    nearest = image.repeat(2, 0).repeat(2, 1).astype(int)
    assert np.abs(large - nearest).mean() < 25 < 80 < np.abs(clamped(image, monkeypatch) - nearest).mean()
