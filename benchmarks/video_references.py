"""What the kernels for video must give, in numpy: the equations of ITU-T H.273, and Keys' cubic for chroma at half the size.

Chroma lies at the left of its two columns and between its two rows, as video without a word about it has it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

BT709 = 1
RED, GREEN, BLUE = Fraction("0.2126"), Fraction("0.7152"), Fraction("0.0722")
SHARPNESS = -0.6
ACROSS, DOWN = 0.0, 0.5
"""Where chroma lies, in luma samples."""


def to_rgb(luma: Array, chroma: Array, depth: int) -> Array:
    """Codes of BT.709 in limited range, (H,W) and (h,w,2), to (H,W,3) uint8."""
    fine = [_filtered(chroma[..., plane], luma.shape, depth, finer=True) for plane in range(2)]
    return np.stack(_rounded(_matrix_to_rgb(depth), 255, depth, luma, *fine), axis=-1).astype(np.uint8)


def to_codes(pixels: Array, depth: int) -> tuple[Array, Array]:
    """(H,W,3) uint8 to codes of BT.709 in limited range, (H,W) and (h,w,2)."""
    luma, *chroma = _rounded(_matrix_to_codes(depth), 2**depth - 1, depth, *(pixels[..., channel] for channel in range(3)))
    small = (-(-luma.shape[0] // 2), -(-luma.shape[1] // 2))
    return luma, np.stack([_filtered(plane, small, depth, finer=False) for plane in chroma], axis=-1)


def _matrix_to_codes(depth: int) -> Array:
    """E'Cb = (B - E'Y) / (2 - 2 Kb), E'Cr = (R - E'Y) / (2 - 2 Kr), then the ranges."""
    step, half = 1 << (depth - 8), 1 << (depth - 1)
    rows = [
        [Fraction(219 * step, 255) * weight for weight in (RED, GREEN, BLUE)],
        [Fraction(224 * step, 255) * weight / (2 - 2 * BLUE) for weight in (-RED, -GREEN, 1 - BLUE)],
        [Fraction(224 * step, 255) * weight / (2 - 2 * RED) for weight in (1 - RED, -GREEN, -BLUE)],
    ]
    offsets = (16 * step, half, half)
    return np.array([[*map(float, row), offset] for row, offset in zip(rows, offsets, strict=True)], np.float32)


def _matrix_to_rgb(depth: int) -> Array:
    """R = Y + (2 - 2 Kr) Cr, B = Y + (2 - 2 Kb) Cb, and G from what Y is."""
    step, half = 1 << (depth - 8), 1 << (depth - 1)
    luma = Fraction(255, 219 * step)
    from_blue, from_red = (255 * (2 - 2 * weight) / (224 * step) for weight in (BLUE, RED))
    rows = [
        [luma, Fraction(0), from_red],
        [luma, -BLUE * from_blue / GREEN, -RED * from_red / GREEN],
        [luma, from_blue, Fraction(0)],
    ]
    black = 16 * step
    return np.array([[*map(float, row), float(-row[0] * black - (row[1] + row[2]) * half)] for row in rows], np.float32)


def _rounded(matrix: Array, top: int, depth: int, *planes: Array) -> list[Array]:
    """Whole numbers 0 to `top`: from and to 8 bits in fixed point, else in float32 as signed numbers of 16 bits."""
    if depth == 8:
        whole = np.rint((matrix + np.array([0, 0, 0, 0.5], np.float32)) * np.float32(1024)).astype(np.int64)
        return [(row >> 10).clip(0, top) for row in _applied(whole, *(plane.astype(np.int64) for plane in planes))]
    rows = _applied(matrix - np.array([0, 0, 0, 32768], np.float32), *(plane.astype(np.float32) for plane in planes))
    return [(np.rint(row) + 32768).clip(0, top).astype(np.int64) for row in rows]


def _applied(matrix: Array, first: Array, second: Array, third: Array) -> list[Array]:
    """From right to left."""
    return [row[0] * first + (row[1] * second + (row[2] * third + row[3])) for row in matrix]


def _filtered(codes: Array, size: tuple[int, ...], depth: int, *, finer: bool) -> Array:
    """Across to 15 bits, then down, rounded; in whole numbers."""
    across = np.minimum(_along(codes.astype(np.int64), size[1], ACROSS, 14, finer=finer) >> (depth - 1), 32767)
    down = _along(across.T, size[0], DOWN, 12, finer=finer).T
    return ((down + (1 << (26 - depth))) >> (27 - depth)).clip(0, 2**depth - 1)


def _along(samples: Array, size: int, location: float, bits: int, *, finer: bool) -> Array:
    """Along the last axis, with weights of 2**-bits; the ends go on."""
    total = np.zeros((*samples.shape[:-1], size), np.int64)
    width = 1 if finer else 2
    for place in range(size):
        center = (place - location) / 2 if finer else 2 * place + location
        near = np.arange(np.floor(center) - 2 * width + 1, np.floor(center) + 2 * width + 1)
        weights = _cubic((near - center) / width)
        whole = np.diff(np.rint(np.cumsum(weights / weights.sum() * 2**bits)), prepend=0).astype(np.int64)
        total[..., place] = (samples[..., near.clip(0, samples.shape[-1] - 1).astype(int)] * whole).sum(axis=-1)
    return total


def _cubic(distance: Array) -> Array:
    """R. Keys, Cubic convolution interpolation, 1981."""
    s, a = np.abs(distance), SHARPNESS
    near, far = (a + 2) * s**3 - (a + 3) * s**2 + 1, a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a
    return np.where(s < 1, near, np.where(s < 2, far, 0.0))
