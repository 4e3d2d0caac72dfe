"""Our kernels for video, in NVIDIA Warp: planes of YCbCr codes <-> RGB. See `kernels.py` for what holds of all of them.

Codes are rounded half to even, and clamped to what their depth holds; NaN is 0. Between 8 bits and 8 bits matrices are whole
numbers, with a half in them that rounds up. Others that lead to whole numbers lead to 32768 less. Floats are rounded to 16 bits
before they become codes. Chroma is filtered in whole numbers. All of this is what OpenCV and FFmpeg do to frames on the host.
"""

# Without `from __future__ import annotations`: Warp reads the annotations themselves.
import itertools
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False, "fast_math": False, "fuse_fp": False})

DEEP = wp.constant(wp.float32(65535.0))
"""White in 16 bits."""

LESS = wp.constant(wp.float32(32768.0))

BETWEEN = wp.constant(32767)
"""The largest value between the filters across and down."""


@wp.func
def clamped(level: wp.float32, top: wp.float32) -> wp.float32:
    if level > top:
        return top
    if level > wp.float32(0.0):
        return level
    return wp.float32(0.0)


@wp.func
def settled(value: wp.float32, top: wp.float32, fixed: wp.float32) -> wp.float32:
    """Whole number 0 to `top`, of what a matrix gives: in fixed point, or where `fixed` is 0 LESS less; 0 for NaN."""
    if fixed > wp.float32(0.0):
        return clamped(wp.floor(value / fixed), top)
    return clamped(wp.rint(value) + LESS, top)


@wp.func
def color(value: wp.float32, fixed: wp.float32, like: wp.uint8) -> wp.float32:  # noqa: ARG001  (Warp chooses by its type)
    return settled(value, wp.float32(255.0), fixed)


@wp.func
def color(value: wp.float32, fixed: wp.float32, like: wp.float16) -> wp.float32:  # noqa: ARG001, F811
    return wp.clamp(value, wp.float32(0.0), wp.float32(1.0))


@wp.func
def color(value: wp.float32, fixed: wp.float32, like: wp.float32) -> wp.float32:  # noqa: ARG001, F811
    return wp.clamp(value, wp.float32(0.0), wp.float32(1.0))


@wp.func
def level_of(value: wp.uint8) -> wp.float32:
    return wp.float32(value)


@wp.func
def level_of(value: wp.float16) -> wp.float32:  # noqa: F811
    return clamped(wp.rint(wp.float32(value) * DEEP), DEEP)


@wp.func
def level_of(value: wp.float32) -> wp.float32:  # noqa: F811
    return clamped(wp.rint(value * DEEP), DEEP)


@wp.func
def weighed(
    matrix: wp.array2d[wp.float32], row: wp.int32, first: wp.float32, second: wp.float32, third: wp.float32
) -> wp.float32:
    """One row of a (3,4) matrix applied, from right to left."""
    return matrix[row, 0] * first + (matrix[row, 1] * second + (matrix[row, 2] * third + matrix[row, 3]))


@wp.func
def code_of(
    pixels: wp.array3d[Any],
    y: wp.int32,
    x: wp.int32,
    matrix: wp.array2d[wp.float32],
    row: wp.int32,
    top: wp.float32,
    fixed: wp.float32,
) -> wp.float32:
    """The code of a pixel in plane `row`: 0 luma, 1 Cb, 2 Cr."""
    red, green, blue = level_of(pixels[y, x, 0]), level_of(pixels[y, x, 1]), level_of(pixels[y, x, 2])
    return settled(weighed(matrix, row, red, green, blue), top, fixed)


@wp.kernel
def chroma_across(
    chroma: wp.array3d[Any],
    step: wp.int32,
    starts: wp.array1d[wp.int32],
    weights: wp.array2d[wp.int32],
    padding: wp.int32,
    shift: wp.int32,
    wide: wp.array3d[wp.int16],
):
    """Fill wide (h,W,2) of 15 bits from codes (h,w,2) that stand `padding` bits too high; launched over (h,W)."""
    y, x = wp.tid()
    phases = starts.shape[0]
    phase = x % phases
    start = step * (x // phases) + starts[phase]
    last = chroma.shape[1] - 1
    for plane in range(2):
        total = wp.int32(0)
        for tap in range(weights.shape[1]):
            code = wp.int32(chroma[y, wp.clamp(start + tap, 0, last), plane]) >> padding
            total += code * weights[phase, tap]
        wide[y, x, plane] = wp.int16(wp.min(total >> shift, BETWEEN))


@wp.kernel
def rgb_from_codes(
    luma: wp.array2d[Any],
    wide: wp.array3d[wp.int16],
    step: wp.int32,
    starts: wp.array1d[wp.int32],
    weights: wp.array2d[wp.int32],
    padding: wp.int32,
    depth: wp.int32,
    matrix: wp.array2d[wp.float32],
    fixed: wp.float32,
    pixels: wp.array3d[Any],
):
    """Fill pixels (H,W,3) from luma codes (H,W) and the chroma (h,W,2) of `chroma_across`; launched over (H,W)."""
    y, x = wp.tid()
    first = wp.float32(wp.int32(luma[y, x]) >> padding)
    second = wp.float32(filtered_down(wide, y, x, 0, step, starts, weights, depth))
    third = wp.float32(filtered_down(wide, y, x, 1, step, starts, weights, depth))
    like = pixels.dtype(0)
    for channel in range(3):
        pixels[y, x, channel] = pixels.dtype(color(weighed(matrix, channel, first, second, third), fixed, like))


@wp.func
def filtered_down(
    wide: wp.array3d[wp.int16],
    y: wp.int32,
    x: wp.int32,
    plane: wp.int32,
    step: wp.int32,
    starts: wp.array1d[wp.int32],
    weights: wp.array2d[wp.int32],
    depth: wp.int32,
) -> wp.int32:
    """A chroma code of that depth."""
    phases = starts.shape[0]
    phase = y % phases
    start = step * (y // phases) + starts[phase]
    last = wide.shape[0] - 1
    total = wp.int32(1) << (26 - depth)
    for tap in range(weights.shape[1]):
        total += wp.int32(wide[wp.clamp(start + tap, 0, last), x, plane]) * weights[phase, tap]
    return wp.clamp(total >> (27 - depth), 0, (1 << depth) - 1)


@wp.kernel
def luma_from_rgb(
    pixels: wp.array3d[Any],
    matrix: wp.array2d[wp.float32],
    top: wp.float32,
    fixed: wp.float32,
    padding: wp.int32,
    luma: wp.array2d[Any],
):
    """Fill luma codes (H,W) from pixels (H,W,3); launched over (H,W)."""
    y, x = wp.tid()
    luma[y, x] = luma.dtype(wp.int32(code_of(pixels, y, x, matrix, 0, top, fixed)) << padding)


@wp.kernel
def chroma_across_from_rgb(
    pixels: wp.array3d[Any],
    matrix: wp.array2d[wp.float32],
    top: wp.float32,
    fixed: wp.float32,
    step: wp.int32,
    starts: wp.array1d[wp.int32],
    weights: wp.array2d[wp.int32],
    shift: wp.int32,
    narrow: wp.array3d[wp.int16],
):
    """Fill narrow (H,w,2) of 15 bits from the chroma codes of pixels (H,W,3); launched over (H,w)."""
    y, x = wp.tid()
    phases = starts.shape[0]
    phase = x % phases
    start = step * (x // phases) + starts[phase]
    last = pixels.shape[1] - 1
    for plane in range(2):
        total = wp.int32(0)
        for tap in range(weights.shape[1]):
            code = code_of(pixels, y, wp.clamp(start + tap, 0, last), matrix, 1 + plane, top, fixed)
            total += wp.int32(code) * weights[phase, tap]
        narrow[y, x, plane] = wp.int16(wp.min(total >> shift, BETWEEN))


@wp.kernel
def chroma_down(
    narrow: wp.array3d[wp.int16],
    step: wp.int32,
    starts: wp.array1d[wp.int32],
    weights: wp.array2d[wp.int32],
    padding: wp.int32,
    depth: wp.int32,
    chroma: wp.array3d[Any],
):
    """Fill chroma codes (h,w,2) from those (H,w,2) of `chroma_across_from_rgb`; launched over (h,w)."""
    y, x = wp.tid()
    for plane in range(2):
        code = filtered_down(narrow, y, x, plane, step, starts, weights, depth)
        chroma[y, x, plane] = chroma.dtype(code << padding)


_CODES = (wp.uint8, wp.uint16)
_PIXELS = (wp.uint8, wp.float16, wp.float32)

for _codes in _CODES:
    wp.overload(chroma_across, {"chroma": wp.array3d[_codes]})
    wp.overload(chroma_down, {"chroma": wp.array3d[_codes]})
for _pixels in _PIXELS:
    wp.overload(chroma_across_from_rgb, {"pixels": wp.array3d[_pixels]})
for _codes, _pixels in itertools.product(_CODES, _PIXELS):
    wp.overload(rgb_from_codes, {"luma": wp.array2d[_codes], "pixels": wp.array3d[_pixels]})
    wp.overload(luma_from_rgb, {"pixels": wp.array3d[_pixels], "luma": wp.array2d[_codes]})
