"""Pictures that a network is measured on: one whose HR is known, and many that stretch its numbers."""

from __future__ import annotations

import math

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.probe_picture import as_input, degrade, probe_picture

__all__ = ["as_input", "degrade", "noise_probes", "parity_probes", "probe_picture", "range_probes"]


def parity_probes(channels: int, *, min_size: int = 1, size_multiple: int = 1) -> dict[str, Array]:
    """Small inputs of even, odd, extreme and least size for the parity chain; (1, channels, H, W) float32 in [0, 1]."""
    picture = probe_picture()
    half, quarter = imresize(picture, 120, 120), imresize(picture, 60, 60)
    least = _fitted(min_size, min_size, size_multiple)
    crops = {
        "photo 40x36": _sized(half[28:, 40:], 36, 40, min_size, size_multiple),
        "odd 33x27": _sized(quarter[12:], 27, 33, min_size, size_multiple),
        "wide 64x16": _sized(half[100:], 16, 64, min_size, size_multiple),
        "strokes 32x24": _sized(half[74:, 62:], 24, 32, min_size, size_multiple),
        f"least {least}x{least}": _sized(half[60:, 90:], least, least, min_size, size_multiple),
    }
    return {name: as_input(crop, channels) for name, crop in crops.items()}


def range_probes(channels: int, *, min_size: int = 1, size_multiple: int = 1) -> dict[str, Array]:
    """What real pictures can drive a network to: photograph, gradients, boards, strokes, flat fields, lone pixels."""
    side = _fitted(72, min_size, size_multiple)
    picture = probe_picture()
    y, x = np.mgrid[0:side, 0:side]
    ramp = (x * 255 // max(side - 1, 1)).astype(np.uint8)
    strokes = np.where(picture.mean(axis=2) > 110, 255, 0).astype(np.uint8)
    point = np.zeros((side, side), np.uint8)
    point[side // 2, side // 2] = 255
    gray = {
        "gradient": ramp,
        "diagonal gradient": ((x + y) * 255 // max(2 * side - 2, 1)).astype(np.uint8),
        "checkerboard of 1": ((x + y) % 2 * 255).astype(np.uint8),
        "checkerboard of 2": ((x // 2 + y // 2) % 2 * 255).astype(np.uint8),
        "checkerboard of 4": ((x // 4 + y // 4) % 2 * 255).astype(np.uint8),
        "black and white strokes": _sized(strokes[140:, 120:], side, side, min_size, size_multiple),
        "black": np.zeros((side, side), np.uint8),
        "white": np.full((side, side), 255, np.uint8),
        "one bright pixel": point,
        "one dark pixel": 255 - point,
    }
    colors = {
        "photo": _sized(picture[40:, 40:], side, side, min_size, size_multiple),
        "small photo": _sized(imresize(picture, 80, 80), side, side, min_size, size_multiple),
        "saturated colors": np.stack([255 - ramp, ramp.T, np.where(ramp > 127, 255, 0).astype(np.uint8)], axis=-1),
    }
    colors |= {name: np.repeat(image[..., None], 3, axis=2) for name, image in gray.items()}
    return {name: as_input(image, channels) for name, image in colors.items()}


def noise_probes(channels: int, *, min_size: int = 1, size_multiple: int = 1) -> dict[str, Array]:
    """White noise, which no camera makes: reported apart, it decides nothing."""
    side = _fitted(72, min_size, size_multiple)
    random = np.random.Generator(np.random.PCG64(7))
    return {"white noise": random.integers(0, 256, (1, channels, side, side)).astype(np.float32) / np.float32(255)}


def _fitted(size: int, min_size: int, size_multiple: int) -> int:
    return math.ceil(max(size, min_size) / size_multiple) * size_multiple


def _sized(image: Array, height: int, width: int, min_size: int, size_multiple: int) -> Array:
    """The top left part of `image` of that size or the least that the network takes, mirrored where `image` is too small."""
    target = (_fitted(height, min_size, size_multiple), _fitted(width, min_size, size_multiple))
    missing = [(0, max(0, want - have)) for want, have in zip(target, image.shape, strict=False)]
    padded = np.pad(image, missing + [(0, 0)] * (image.ndim - 2), mode="symmetric")
    return padded[: target[0], : target[1]]
