"""Our kernels, in NVIDIA Warp: one source that runs on the CPU and compiles for CUDA. Nothing else imports Warp at its top.

Every element is written once, by one thread: no atomics, and results that do not depend on the order of threads. Products and
sums are not fused, so that the CPU, every GPU and numpy round alike.
"""

# Without `from __future__ import annotations`: Warp reads the annotations themselves.
import itertools
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False, "fast_math": False, "fuse_fp": False})

START, FADE_FROM, SOLID_FROM = wp.constant(0), wp.constant(1), wp.constant(2)
"""Columns of a table of spans."""


@wp.func
def mirrored(place: wp.int32, length: wp.int32) -> wp.int32:
    """Where in `length` pixels a place at or beyond their end is seen, when they are mirrored there again and again."""
    if place < length:
        return place
    turn = place % (2 * length)
    return wp.min(turn, 2 * length - 1 - turn)


@wp.kernel
def gather(
    frames: wp.array4d[Any],
    rows: wp.array2d[wp.int32],
    columns: wp.array2d[wp.int32],
    factor: wp.float32,
    tiles: wp.array4d[Any],
):
    """Fill tiles (N*T,C,h,w) with `factor` times frames (N,H,W,C), mirrored beyond their borders; launched over (N*T,h,w)."""
    tile, y, x = wp.tid()
    across = columns.shape[0]
    count = rows.shape[0] * across
    place = tile % count
    top = mirrored(rows[place // across, START] + y, frames.shape[1])
    left = mirrored(columns[place % across, START] + x, frames.shape[2])
    for channel in range(tiles.shape[1]):
        value = wp.float32(frames[tile // count, top, left, channel]) * factor
        tiles[tile, channel, y, x] = tiles.dtype(value)


@wp.func
def settle(value: wp.float32, like: wp.uint8) -> wp.float32:  # noqa: ARG001  (Warp chooses by its type)
    """Whole number 0 to 255, rounded half to even and clamped; 0 for NaN."""
    level = wp.rint(value)
    if level > wp.float32(255.0):
        return wp.float32(255.0)
    if level > wp.float32(0.0):
        return level
    return wp.float32(0.0)


@wp.func
def settle(value: wp.float32, like: wp.float16) -> wp.float32:  # noqa: ARG001, F811
    return value


@wp.func
def settle(value: wp.float32, like: wp.float32) -> wp.float32:  # noqa: ARG001, F811
    return value


@wp.func
def fade(first: wp.float32, second: wp.float32, step: wp.int32, length: wp.int32) -> wp.float32:
    """Value at `step` of `length` on the way from `first` to `second`."""
    weight = (wp.float32(step) + wp.float32(0.5)) / wp.float32(length)
    return first + weight * (second - first)


@wp.func
def shuffled(
    tiles: wp.array4d[Any], tile: wp.int32, channel: wp.int32, y: wp.int32, x: wp.int32, block: wp.int32
) -> wp.float32:
    """Value at (channel,y,x) of what a pixel shuffle makes of tile (C*block*block,h,w)."""
    plane = (channel * block + y % block) * block + x % block
    return wp.float32(tiles[tile, plane, y // block, x // block])


@wp.kernel
def scatter(
    tiles: wp.array4d[Any],
    rows: wp.array2d[wp.int32],
    columns: wp.array2d[wp.int32],
    row_owners: wp.array1d[wp.int32],
    column_owners: wp.array1d[wp.int32],
    scale: wp.int32,
    block: wp.int32,
    factor: wp.float32,
    frames: wp.array4d[Any],
    magnitudes: wp.array3d[wp.float32],
):
    """Fill frames (N,sH,sW,C) from `factor` times tiles (N*T,C*block*block,sh/block,sw/block); launched over (N*T,h,sw).

    A pixel has one tile, or in seams two or four; the last of them writes it. It fades from left to right first, then from top
    to bottom; where frames hold bytes, in whole numbers. `magnitudes` (N*T,h,sw), if it is there, gets the sums of |values| of
    `scale` pixels of a tile below each other, row by row.
    """
    tile, low_y, inside_x = wp.tid()
    across = columns.shape[0]
    count = rows.shape[0] * across
    frame = tile // count
    row = tile % count // across
    column = tile % across
    top = rows[row, START] + low_y
    x = columns[column, START] * scale + inside_x
    is_owner = False
    if top * scale < frames.shape[1] and x < frames.shape[2]:
        is_owner = row_owners[top] == row and column_owners[x // scale] == column
    step_x = x - columns[column, FADE_FROM] * scale
    tall = (rows[row, SOLID_FROM] - rows[row, FADE_FROM]) * scale
    wide = (columns[column, SOLID_FROM] - columns[column, FADE_FROM]) * scale
    left_x = wp.int32(0)
    if step_x < wide:
        left_x = x - columns[column - 1, START] * scale
    like = frames.dtype(0)
    total = wp.float32(0.0)
    for step in range(scale):
        inside_y = low_y * scale + step
        y = top * scale + step
        step_y = y - rows[row, FADE_FROM] * scale
        above_y = wp.int32(0)
        if step_y < tall:
            above_y = y - rows[row - 1, START] * scale
        for channel in range(frames.shape[3]):
            value = shuffled(tiles, tile, channel, inside_y, inside_x, block)
            total += wp.abs(value)
            if is_owner and y < frames.shape[1]:
                value = settle(value * factor, like)
                if step_x < wide:
                    left = settle(shuffled(tiles, tile - 1, channel, inside_y, left_x, block) * factor, like)
                    value = settle(fade(left, value, step_x, wide), like)
                if step_y < tall:
                    above = settle(shuffled(tiles, tile - across, channel, above_y, inside_x, block) * factor, like)
                    if step_x < wide:
                        corner = settle(shuffled(tiles, tile - across - 1, channel, above_y, left_x, block) * factor, like)
                        above = settle(fade(corner, above, step_x, wide), like)
                    value = settle(fade(above, value, step_y, tall), like)
                frames[frame, y, x, channel] = frames.dtype(value)
    if magnitudes.shape[0] > 0:
        magnitudes[tile, low_y, inside_x] = total


@wp.kernel
def sum_magnitudes(values: wp.array2d[Any], factors: wp.array1d[wp.float32], sums: wp.array2d[wp.float32]):
    """Fill sums (B,p): `sums[b, i]` is `factors[b]` times the sum of |values[b, i::p]| in this order; launched over (B,p)."""
    batch, part = wp.tid()
    total = wp.float32(0.0)
    for index in range(part, values.shape[1], sums.shape[1]):
        total += wp.abs(wp.float32(values[batch, index]))
    sums[batch, part] = total * factors[batch]


_FLOATS = (wp.float16, wp.float32)
_FORMS = [(wp.uint8, wp.uint8), *itertools.product((wp.uint8, *_FLOATS), _FLOATS)]
"""What frames and tiles hold: bytes in tiles come from bytes."""

for _frames, _tiles in _FORMS:
    for _kernel in (gather, scatter):
        wp.overload(_kernel, {"frames": wp.array4d[_frames], "tiles": wp.array4d[_tiles]})
for _values in (wp.uint8, *_FLOATS):
    wp.overload(sum_magnitudes, {"values": wp.array2d[_values]})
