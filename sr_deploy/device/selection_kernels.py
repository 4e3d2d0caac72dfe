"""Kernels that select the patches with the highest scores, in NVIDIA Warp; only `device_mask.py` imports them.

A block's threads share the work of a block; on the CPU a block is one thread. Counts are whole numbers, whose sum does not
depend on their order, and every element is written once, by one thread: results are the same for blocks of any size.
"""

# Without `from __future__ import annotations`: Warp reads the annotations themselves.
import warp as wp

BLOCK = 1024
"""Threads of a block."""

PART = wp.constant(1024)
"""Scores that one block counts, and writes the numbers of."""

wp.set_module_options({"enable_backward": False, "fast_math": False, "fuse_fp": False, "block_dim": BLOCK})


@wp.func
def key_of(score: wp.float32) -> wp.uint32:
    """Whole numbers in the order of the scores: -0 equals 0, and NaN comes before all."""
    if wp.isnan(score):
        return wp.uint32(0)
    bits = wp.cast(score + wp.float32(0.0), wp.uint32)
    if (bits >> wp.uint32(31)) != wp.uint32(0):
        return ~bits
    return bits | wp.uint32(0x80000000)


@wp.func
def rank_of(scores: wp.array1d[wp.float32], index: wp.int32, bits: wp.uint64) -> wp.uint64:
    """Higher for higher scores, and for the earlier of equal ones: no two are the same but 0, that of NaN.

    bits: so many that every index fits.
    """
    key = key_of(scores[index])
    if key == wp.uint32(0):
        return wp.uint64(0)
    return (wp.uint64(key) << bits) | wp.uint64(scores.shape[0] - 1 - index)


@wp.kernel(launch_bounds=BLOCK)
def find_least(scores: wp.array1d[wp.float32], wanted: wp.int32, bits: wp.uint64, least: wp.array1d[wp.uint64]):
    """Find a rank that just the `wanted` highest scores reach, by two bits at a time; launched as one block.

    bits: even. The search ends as soon as the rank is low enough for `wanted` scores and too high for any other.
    """
    _, thread = wp.tid()
    floor = wp.uint64(0)
    reached = wp.int32(-1)
    shift = wp.int32(30) + wp.int32(bits)
    while shift >= 0 and reached != wanted:
        step = wp.uint64(1) << wp.uint64(shift)
        counts = wp.vec3i(0, 0, 0)
        for index in range(thread, scores.shape[0], wp.block_dim()):
            rank = rank_of(scores, index, bits)
            for digit in range(3):
                if rank >= floor + step * wp.uint64(digit + 1):
                    counts[digit] += 1
        totals = wp.tile_sum(wp.tile(counts, preserve_type=True))[0]
        base = floor
        for digit in range(3):
            if totals[digit] >= wanted:
                floor = base + step * wp.uint64(digit + 1)
                reached = totals[digit]
        shift -= 2
    if thread == 0:
        least[0] = wp.max(floor, wp.uint64(1))


@wp.kernel
def set_least(threshold: wp.float32, bits: wp.uint64, least: wp.array1d[wp.uint64]):
    """The rank that all scores of the threshold and more reach; launched as one block."""
    _, thread = wp.tid()
    if thread == 0:
        least[0] = wp.max(wp.uint64(key_of(threshold)) << bits, wp.uint64(1))


@wp.kernel(launch_bounds=BLOCK)
def count_parts(scores: wp.array1d[wp.float32], least: wp.array1d[wp.uint64], bits: wp.uint64, counts: wp.array1d[wp.int32]):
    """How many scores of each part reach the least rank; launched over parts, a block each."""
    part, thread = wp.tid()
    count = wp.int32(0)
    for index in range(part * PART + thread, wp.min((part + 1) * PART, scores.shape[0]), wp.block_dim()):
        if rank_of(scores, index, bits) >= least[0]:
            count += 1
    wp.tile_store(counts, wp.tile_sum(wp.tile(count)), offset=part)


@wp.kernel(launch_bounds=BLOCK)
def write_parts(
    scores: wp.array1d[wp.float32],
    least: wp.array1d[wp.uint64],
    bits: wp.uint64,
    counts: wp.array1d[wp.int32],
    chosen: wp.array1d[wp.int32],
    count: wp.array1d[wp.int32],
):
    """Write the numbers of the selected scores in rising order, -1 behind them, and their count; launched over parts."""
    part, thread = wp.tid()
    shares = wp.vec2i(0, 0)
    for other in range(thread, counts.shape[0], wp.block_dim()):
        shares[1] += counts[other]
        if other < part:
            shares[0] += counts[other]
    sums = wp.tile_sum(wp.tile(shares, preserve_type=True))[0]
    place = sums[0]
    for start in range(part * PART, (part + 1) * PART, wp.block_dim()):
        index = start + thread
        selected = wp.int32(0)
        if index < scores.shape[0]:  # noqa: SIM102  (Warp evaluates both sides of an `and`)
            if rank_of(scores, index, bits) >= least[0]:
                selected = wp.int32(1)
        flags = wp.tile(selected)
        ahead = wp.untile(wp.tile_scan_exclusive(flags))
        if selected == 1:
            chosen[place + ahead] = index
        place += wp.tile_sum(flags)[0]
    for rest in range(sums[1] + part * wp.block_dim() + thread, chosen.shape[0], counts.shape[0] * wp.block_dim()):
        chosen[rest] = wp.int32(-1)
    if part == 0 and thread == 0:
        count[0] = sums[1]
