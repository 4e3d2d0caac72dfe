"""Kernels for networks that refine selected patches, in NVIDIA Warp; only `device_mask.py` imports them.

Every element is written once, by one thread. The threads of a block share a patch where it is judged; on the CPU a block is one
thread. What they add up are whole numbers, whose sum does not depend on their order.
"""

# Without `from __future__ import annotations`: Warp reads the annotations themselves.
import itertools
from typing import Any

import warp as wp

from sr_deploy.device import health as bounds

wp.set_module_options({"enable_backward": False, "fast_math": False, "fuse_fp": False})

LOW_SHARE, LOW_OFFSET = wp.constant(wp.float64(bounds.LOW_SHARE)), wp.constant(wp.float64(bounds.LOW_OFFSET))
HIGH_SHARE, HIGH_OFFSET = wp.constant(wp.float64(bounds.HIGH_SHARE)), wp.constant(wp.float64(bounds.HIGH_OFFSET))
"""The limits of `are_healthy`."""


@wp.kernel
def crop_patches(
    features: wp.array3d[Any],
    chosen: wp.array1d[wp.int32],
    first: wp.int32,
    across: wp.int32,
    patch: wp.int32,
    padding: wp.int32,
    crops: wp.array4d[Any],
):
    """Fill crops (B,F,side,side) from features (F,H,W), zero beyond them and where -1 is chosen; launched over crops."""
    index, channel, y, x = wp.tid()
    number = chosen[first + index]
    value = crops.dtype(0.0)
    if number >= 0:
        top = (number // across) * patch - padding + y
        left = (number % across) * patch - padding + x
        if top >= 0 and left >= 0 and top < features.shape[1] and left < features.shape[2]:
            value = crops.dtype(features[channel, top, left])
    crops[index, channel, y, x] = value


@wp.func
def is_sane(health: wp.float32, total: wp.int32, count: wp.int32) -> wp.int32:
    """1 where `are_healthy` says so of this health and the brightness of `count` bytes of this sum, rounded as there."""
    brightness = wp.float64(total) / wp.float64(count) / wp.float64(255.0)
    value = wp.float64(health)
    if wp.isfinite(value) and LOW_SHARE * brightness - LOW_OFFSET <= value and value <= HIGH_SHARE * brightness + HIGH_OFFSET:
        return wp.int32(1)
    return wp.int32(0)


@wp.kernel
def paste_patches(
    pixels: wp.array4d[wp.uint8],
    refined: wp.array1d[wp.float32],
    chosen: wp.array1d[wp.int32],
    first: wp.int32,
    across: wp.int32,
    frame: wp.array3d[wp.uint8],
    health: wp.array1d[wp.float32],
):
    """Put sane ones of the pixels (B,side,side,C) in their place in the frame (sH,sW,C); launched over patches, a block each.

    Sane is a patch whose refined health suits the brightness of its place, which is coarse as yet. Another one makes the health
    of the image NaN: all that write it write the same.
    """
    index, thread = wp.tid()
    number = chosen[first + index]
    wide = pixels.shape[2] * pixels.shape[3]
    length = pixels.shape[1] * wide
    top = (number // across) * pixels.shape[1]
    left = (number % across) * pixels.shape[2]
    total = wp.int32(0)
    if number >= 0:
        for place in range(thread, length, wp.block_dim()):
            x = place % wide
            total += wp.int32(frame[top + place // wide, left + x // pixels.shape[3], x % pixels.shape[3]])
    whole = wp.tile_sum(wp.tile(total))[0]
    verdict = wp.int32(0)
    if number >= 0 and thread == 0:
        verdict = is_sane(refined[index], whole, length)
        if verdict == 0:
            health[0] = wp.float32(wp.nan)
    sane = wp.tile_sum(wp.tile(verdict))[0]
    if sane == 1:
        for place in range(thread, length, wp.block_dim()):
            y = place // wide
            x = (place % wide) // pixels.shape[3]
            channel = place % pixels.shape[3]
            frame[top + y, left + x, channel] = pixels[index, y, x, channel]


for _features, _crops in itertools.product((wp.float16, wp.float32), repeat=2):
    wp.overload(crop_patches, {"features": wp.array3d[_features], "crops": wp.array4d[_crops]})
