"""Kernels for networks that refine selected patches, in NVIDIA Warp; only `device_mask.py` imports them.

Selection counts digits of the scores with atomic additions of whole numbers, whose sum does not depend on their order. Every
other element is written once, by one thread.
"""

# Without `from __future__ import annotations`: Warp reads the annotations themselves.
import itertools
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False, "fast_math": False, "fuse_fp": False})

LEAST, ROOM = wp.constant(0), wp.constant(1)
"""What a state holds: the key of the lowest selected score, and how many patches of just that key are selected."""

DIGITS = wp.constant(256)


@wp.func
def key_of(score: wp.float32) -> wp.uint32:
    """Whole numbers in the order of the scores: -0 equals 0, and NaN comes before all."""
    if wp.isnan(score):
        return wp.uint32(0)
    bits = wp.cast(score + wp.float32(0.0), wp.uint32)
    if (bits >> wp.uint32(31)) != wp.uint32(0):
        return ~bits
    return bits | wp.uint32(0x80000000)


@wp.kernel
def clear(state: wp.array1d[wp.uint32], wanted: wp.uint32, counts: wp.array1d[wp.int32]):
    """Begin to look for the `wanted` highest scores; launched over the digits."""
    digit = wp.tid()
    counts[digit] = wp.int32(0)
    if digit == 0:
        state[LEAST] = wp.uint32(0)
        state[ROOM] = wanted


@wp.kernel
def count_digits(scores: wp.array1d[wp.float32], state: wp.array1d[wp.uint32], shift: wp.uint32, counts: wp.array1d[wp.int32]):
    """Count the digits at `shift` of all keys that begin as the state's does; launched over the scores."""
    key = key_of(scores[wp.tid()])
    same = shift == wp.uint32(24)
    if not same:
        same = (key >> (shift + wp.uint32(8))) == (state[LEAST] >> (shift + wp.uint32(8)))
    if same:
        wp.atomic_add(counts, wp.int32((key >> shift) & wp.uint32(255)), wp.int32(1))


@wp.kernel
def pick_digit(counts: wp.array1d[wp.int32], shift: wp.uint32, state: wp.array1d[wp.uint32]):
    """Fix the state's digit at `shift` so that enough scores lie at and above it; launched once. Counts are cleared."""
    room = wp.int32(state[ROOM])
    found = wp.int32(-1)
    for step in range(DIGITS):
        digit = DIGITS - 1 - step
        if found < 0:
            if counts[digit] >= room:
                found = digit
            else:
                room -= counts[digit]
        counts[digit] = wp.int32(0)
    if found >= 0:
        state[LEAST] = state[LEAST] | (wp.uint32(found) << shift)
        state[ROOM] = wp.uint32(room)


@wp.kernel
def set_threshold(threshold: wp.float32, everything: wp.uint32, state: wp.array1d[wp.uint32]):
    """Select all scores that are at least the threshold; launched once."""
    state[LEAST] = key_of(threshold)
    state[ROOM] = everything


@wp.kernel
def count_parts(
    scores: wp.array1d[wp.float32],
    state: wp.array1d[wp.uint32],
    length: wp.int32,
    above: wp.array1d[wp.int32],
    equal: wp.array1d[wp.int32],
):
    """By part of `length` scores, how many lie above the lowest selected one, and how many equal it; launched over parts."""
    part = wp.tid()
    more = wp.int32(0)
    same = wp.int32(0)
    for index in range(part * length, wp.min((part + 1) * length, scores.shape[0])):
        key = key_of(scores[index])
        if key != wp.uint32(0):
            if key > state[LEAST]:
                more += wp.int32(1)
            if key == state[LEAST]:
                same += wp.int32(1)
    above[part] = more
    equal[part] = same


@wp.kernel
def start_parts(
    state: wp.array1d[wp.uint32],
    above: wp.array1d[wp.int32],
    equal: wp.array1d[wp.int32],
    count: wp.array1d[wp.int32],
):
    """Replace what each part has by what those before it have; `count` is what is selected in all; launched once."""
    more = wp.int32(0)
    same = wp.int32(0)
    for part in range(above.shape[0]):
        here_above = above[part]
        here_equal = equal[part]
        above[part] = more
        equal[part] = same
        more += here_above
        same += here_equal
    count[0] = more + wp.min(same, wp.int32(state[ROOM]))


@wp.kernel
def write_parts(
    scores: wp.array1d[wp.float32],
    state: wp.array1d[wp.uint32],
    length: wp.int32,
    above: wp.array1d[wp.int32],
    equal: wp.array1d[wp.int32],
    chosen: wp.array1d[wp.int32],
):
    """Write the numbers of the selected scores in rising order; launched over parts."""
    part = wp.tid()
    more = above[part]
    same = equal[part]
    room = wp.int32(state[ROOM])
    for index in range(part * length, wp.min((part + 1) * length, scores.shape[0])):
        key = key_of(scores[index])
        place = more + wp.min(same, room)
        if key != wp.uint32(0):
            if key > state[LEAST]:
                chosen[place] = index
                more += wp.int32(1)
            if key == state[LEAST]:
                if same < room:
                    chosen[place] = index
                same += wp.int32(1)


@wp.kernel
def end_chosen(count: wp.array1d[wp.int32], chosen: wp.array1d[wp.int32]):
    """Write -1 behind the selected ones; launched over `chosen`."""
    place = wp.tid()
    if place >= count[0]:
        chosen[place] = wp.int32(-1)


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


@wp.kernel
def judge_patches(
    refined: wp.array1d[wp.float32],
    frame: wp.array3d[wp.uint8],
    chosen: wp.array1d[wp.int32],
    first: wp.int32,
    across: wp.int32,
    side: wp.int32,
    good: wp.array1d[wp.int32],
    health: wp.array1d[wp.float32],
):
    """Compare the health of refined patches with the coarse ones' brightness; launched over a batch.

    A bad one makes the health of the image NaN: all threads that write it write the same.
    """
    index = wp.tid()
    number = chosen[first + index]
    sane = wp.int32(0)
    if number >= 0:
        total = wp.int32(0)
        for y in range(side):
            for x in range(side):
                for channel in range(frame.shape[2]):
                    total += wp.int32(frame[(number // across) * side + y, (number % across) * side + x, channel])
        brightness = wp.float32(total) / (wp.float32(side * side * frame.shape[2]) * wp.float32(255.0))
        value = refined[index]
        low = wp.float32(0.5) * brightness - wp.float32(0.05)
        high = wp.float32(1.5) * brightness + wp.float32(0.25)
        if wp.isfinite(value) and value >= low and value <= high:
            sane = wp.int32(1)
        else:
            health[0] = wp.float32(wp.nan)
    good[index] = sane


@wp.kernel
def paste_patches(
    pixels: wp.array4d[wp.uint8],
    good: wp.array1d[wp.int32],
    chosen: wp.array1d[wp.int32],
    first: wp.int32,
    across: wp.int32,
    frame: wp.array3d[wp.uint8],
):
    """Put the good ones of the pixels (B,side,side,C) in their place in the frame (sH,sW,C); launched over (B,side,side)."""
    index, y, x = wp.tid()
    if good[index] == 1:
        number = chosen[first + index]
        top = (number // across) * pixels.shape[1] + y
        left = (number % across) * pixels.shape[2] + x
        for channel in range(frame.shape[2]):
            frame[top, left, channel] = pixels[index, y, x, channel]


for _features, _crops in itertools.product((wp.float16, wp.float32), repeat=2):
    wp.overload(crop_patches, {"features": wp.array3d[_features], "crops": wp.array4d[_crops]})
