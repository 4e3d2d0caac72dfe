"""What the kernels compute, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sr_deploy.upscaling.tiling import Axis, Tiling

Array = np.ndarray[Any, np.dtype[Any]]


def cut(tiling: Tiling, frame: Array) -> Array:
    """(H,W,C) -> (T,h,w,C); beyond the right and lower border the last pixel repeats."""
    missing = (tiling.rows.size - frame.shape[0], tiling.columns.size - frame.shape[1])
    padded = np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    tall, wide = tiling.window
    return np.stack([padded[row.start : row.start + tall, column.start : column.start + wide] for row, column in tiling])


def to_planar(tiles: Array) -> Array:
    """(T,h,w,C) uint8 -> (T,C,h,w) fp16 in [0,1]."""
    return (tiles.transpose(0, 3, 1, 2) * np.float32(1 / 255)).astype(np.float16)


def shuffled(planes: Array, scale: int) -> Array:
    """(T,C*s*s,h,w) -> (T,C,sh,sw), as a pixel shuffle does."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels // scale**2, scale, scale, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(count, -1, height * scale, width * scale)


def magnitudes(tiles: Array, scale: int) -> Array:
    """(T,C,sh,sw) -> (T,h,sw): |values| of `scale` rows added up, row by row, and in a row channel by channel."""
    count, channels, tall, wide = tiles.shape
    rows = np.abs(tiles.astype(np.float32)).reshape(count, channels, tall // scale, scale, wide).transpose(0, 2, 4, 3, 1)
    sums: Array = np.add.accumulate(rows.reshape(count, tall // scale, wide, -1), axis=-1, dtype=np.float32)[..., -1]
    return sums


def to_levels(planar: Array, *, white: float = 1.0) -> Array:
    """(T,C,h,w) in about [0,white] -> (T,h,w,C), whole numbers of 0 to 255."""
    scaled = np.round(planar.astype(np.float32) * np.float32(255 / white))
    return np.clip(scaled, 0, 255).transpose(0, 2, 3, 1)


def join(tiling: Tiling, levels: Array, scale: int) -> Array:
    """(T,sh,sw,C) whole numbers -> (sH,sW,C) uint8, faded in the seams along rows, then along columns."""
    across = len(tiling.columns.starts)
    lines = [_join_along(1, tiling.columns, levels[first : first + across], scale) for first in range(0, len(levels), across)]
    return _join_along(0, tiling.rows, lines, scale).astype(np.uint8)


def health(tiles: Array) -> Array:
    """Mean of |value| per tile (T,...), added up in the order of the kernel's three passes."""
    values = np.abs(tiles.astype(np.float32)).reshape(len(tiles), -1)
    count = values.shape[1]
    for threads in (16384, 128, 1):
        padded = np.pad(values, ((0, 0), (0, -values.shape[1] % threads))).reshape(len(tiles), -1, threads)
        values = np.add.accumulate(padded, axis=1, dtype=np.float32)[:, -1]
    means: Array = values[:, 0] * np.float32(1 / count)
    return means


def _join_along(side: int, axis: Axis, pieces: Sequence[Array] | Array, scale: int) -> Array:
    shape = list(pieces[0].shape)
    shape[side] = axis.size * scale
    whole = np.zeros(shape, np.float32)
    target = np.moveaxis(whole, side, 0)
    for index, piece in enumerate(pieces):
        span = axis.region(index)
        share = np.moveaxis(piece, side, 0)[(span.fade_from - span.start) * scale : (span.end - span.start) * scale]
        place = target[span.fade_from * scale : span.end * scale]
        length = (span.solid_from - span.fade_from) * scale
        before = place[:length].copy()
        weights = ((np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(max(length, 1))).reshape(-1, 1, 1)
        place[...] = share
        place[:length] = np.round(before + weights * (share[:length].astype(np.float32) - before))
    return whole
