"""The picture whose HR is known, and what a network makes of it: by this, its readings are told apart."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Literal

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.card import Hypothesis
from sr_deploy.errors import EngineError
from sr_deploy.metrics import luma, psnr_y

MARGIN = 0.3
"""dB between the best reading and the next. Over the published checkpoints a wrong reading loses 1.2 dB and more."""

WORST = 3.0
"""dB below bicubic that no reading may be beyond. Restorers of real pictures stay within; a wrong forward was 16 dB below."""

_NAME = "probe_picture.png"


def probe_picture() -> Array:
    """The picture whose HR is known: (240, 240, 3) uint8 RGB, drawn by benchmarks/make_probe_picture.py.

    Raises: EngineError when the installation is damaged.
    """
    return _decoded(_NAME)


def drawn_pictures(use: Literal["calibration", "quality"]) -> tuple[Array, ...]:
    """Two more pictures like it, (240, 240, 3) uint8 RGB: for the ranges of INT8, or to judge what was made with these.

    Raises: EngineError when the installation is damaged.
    """
    return tuple(_decoded(f"drawn/{use}_{number}.png") for number in (1, 2))


def _decoded(name: str) -> Array:
    import cv2

    data = resources.files("sr_deploy").joinpath(name).read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise EngineError(f"sr_deploy/{name} cannot be decoded; reinstall sr-deploy")
    return np.asarray(picture, np.uint8)


def degrade(picture: Array, scale: int, *, size_multiple: int = 1) -> tuple[Array, Array]:
    """The HR crop of `picture` that `scale` divides, and its LR: bicubic with antialiasing, both uint8 RGB.

    For a restorer, whose scale is 1, the LR is as large, and blurred by half.
    """
    step = scale * size_multiple
    height, width = (size // step * step for size in picture.shape[:2])
    hr = picture[:height, :width]
    if scale == 1:
        return hr, imresize(imresize(hr, -(-height // 2), -(-width // 2)), height, width)
    return hr, imresize(hr, height // scale, width // scale)


def as_input(rgb: Array, channels: int) -> Array:
    """What a graph is fed: (H, W, 3) uint8 RGB -> (1, channels, H, W) float32 in [0, 1]; one channel is Y, rounded to 8 bit."""
    if channels == 1:
        return (np.round(luma(rgb))[None, None] / 255).astype(np.float32)
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)


def as_pixels(output: Array) -> Array | None:
    """8-bit picture of (1, C, H, W) in about [0, 1]: (H, W, 3) RGB or (H, W) Y; None when it has a NaN or an Inf."""
    if not np.isfinite(output).all():
        return None
    pixels = np.round(np.clip(output[0], 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def measure_bicubic(hr: Array, lr: Array) -> float:
    """PSNR of Y in dB of plain bicubic upscaling."""
    return psnr_y(hr, imresize(lr, *hr.shape[:2]), border=hr.shape[0] // lr.shape[0])


def measure(run: Callable[[Array], Array], hr: Array, lr: Array, *, channels: int) -> float:
    """PSNR of Y in dB of a network's 8-bit output against `hr`, (H, W, 3) uint8 RGB; 0 when it is not finite.

    run: (1, channels, h, w) float32 in [0, 1] -> (1, channels, H, W), about in [0, 1].
    """
    output = as_pixels(run(as_input(lr, channels)))
    return 0.0 if output is None else psnr_y(hr, output, border=hr.shape[0] // lr.shape[0])


def gain(hypothesis: Hypothesis) -> float:
    """dB over bicubic at the same scale."""
    return hypothesis.psnr - (hypothesis.bicubic or 0.0)
