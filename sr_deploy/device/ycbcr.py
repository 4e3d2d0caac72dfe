"""What the codes of a video mean in RGB (ITU-T H.273), and how densely its chroma is sampled: tables that any device can apply.

Chroma is filtered in whole numbers, by the same cubic and with the same rounding as libswscale does it: across to 15 bits, then
down to the depth of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BT709, BT601, YCGCO, BT2020 = 1, 6, 8, 9
LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    # The two that are not linear: nearest to this one, and the same both ways.
    10: (0.2627, 0.0593),
    14: (0.2627, 0.0593),
}
"""Weights of red and blue in luma, by the number of the matrix in H.273."""

LOCATIONS = {1: (0.0, 0.5), 2: (0.5, 0.5), 3: (0.0, 0.0), 4: (0.5, 0.0), 5: (0.0, 1.0), 6: (0.5, 1.0)}
"""How far right of and below the first luma sample of its own a chroma sample lies, by FFmpeg's number of the location."""

ACROSS_BITS, DOWN_BITS = 14, 12
"""Of the weights of the filters across and down; between them, values have 15 bits."""

FIXED = 1024
"""What stands for 1 in matrices between 8 bits and 8 bits, which OpenCV applies in fixed point."""

LESS = 32768

_SHARPNESS = 0.6


@dataclass(frozen=True)
class Meaning:
    """What the codes of a stream mean; matrix: of LUMA, or YCGCO."""

    matrix: int
    full: bool


@lru_cache(maxsize=16)
def to_codes(meaning: Meaning, depth: int, peak: int) -> NDArray[np.float32]:
    """(3,4): codes of that depth from RGB of 0 to peak."""
    span, black = _ranges(meaning.full, depth)
    return np.column_stack([_rows(meaning) * span[:, None] / peak, black]).astype(np.float32)


@lru_cache(maxsize=16)
def to_rgb(meaning: Meaning, depth: int, peak: int) -> NDArray[np.float32]:
    """(3,4): RGB of 0 to peak from codes of that depth."""
    span, black = _ranges(meaning.full, depth)
    back = np.linalg.inv(_rows(meaning)) / span * peak
    return np.column_stack([back, -back @ black]).astype(np.float32)


def with_less(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix that leads to LESS less: OpenCV rounds 16 bits as signed numbers."""
    less: NDArray[np.float32] = matrix - np.array([0, 0, 0, LESS], np.float32)
    return less


def fixed_point(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix in whole numbers, FIXED for 1, with half a one in the offsets: what it gives is cut, and so rounded."""
    halved: NDArray[np.float32] = matrix + np.array([0, 0, 0, 0.5], np.float32)
    whole: NDArray[np.float32] = np.rint(halved * np.float32(FIXED)).astype(np.float32)
    return whole


@lru_cache(maxsize=16)
def gray_to_white(full: bool, depth: int, peak: int) -> NDArray[np.float32]:
    """(1,2): 0 to peak from codes of luma."""
    span, black = _ranges(full, depth)
    return np.array([[peak / span[0], -peak * black[0] / span[0]]], np.float32)


def _rows(meaning: Meaning) -> NDArray[np.float64]:
    """Y, Cb, Cr by R, G, B, for luma of 0 to 1 and chroma of -0.5 to 0.5."""
    if meaning.matrix == YCGCO:
        return np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0, -0.5]])
    red, blue = LUMA[meaning.matrix]
    luma = np.array([red, 1 - red - blue, blue])
    return np.stack([luma, (np.eye(3)[2] - luma) / (2 - 2 * blue), (np.eye(3)[0] - luma) / (2 - 2 * red)])


def _ranges(full: bool, depth: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many codes luma and chroma span, and their codes for black."""
    step = 2.0 ** (depth - 8)
    if full:
        return np.full(3, 2.0**depth - 1), np.array([0, 128, 128]) * step
    return np.array([219, 224, 224]) * step, np.array([16, 128, 128]) * step


@dataclass(frozen=True)
class Taps:
    """A filter along an axis, the same every so many results.

    Result number i is the sum of the samples from `step * (i // phases) + starts[i % phases]` on, times `weights[i % phases]`;
    beyond the ends samples are the first and the last one. weights: (phases,k), whole numbers of a sum of 2**bits.
    """

    step: int
    starts: NDArray[np.int32]
    weights: NDArray[np.int32]


def finer_taps(location: float, bits: int) -> Taps:
    """From chroma at every other luma sample, `location` after it, to chroma at every one."""
    return _taps(1, [(place - location) / 2 for place in (0, 1)], 1.0, bits)


def coarser_taps(location: float, bits: int) -> Taps:
    """From chroma at every luma sample to chroma at every other, `location` after it."""
    return _taps(2, [location], 2.0, bits)


def same_taps(bits: int) -> Taps:
    """Every sample as it is."""
    return Taps(1, np.zeros(1, np.int32), np.full((1, 1), 1 << bits, np.int32))


def _taps(step: int, places: list[float], width: float, bits: int) -> Taps:
    """Filters at these places, each `width` times as wide as the cubic that goes through the samples."""
    reach = int(2 * width)
    starts = [int(np.floor(place)) - reach + 1 for place in places]
    samples = np.arange(2 * reach, dtype=np.float64)
    rows = [_whole(_cubic((samples + (start - place)) / width), bits) for start, place in zip(starts, places, strict=True)]
    return Taps(step, np.array(starts, np.int32), np.array(rows, np.int32))


def _cubic(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution."""
    d = np.abs(distances)
    near = ((2 - _SHARPNESS) * d - (3 - _SHARPNESS)) * d * d + 1
    far = -_SHARPNESS * (((d - 5) * d + 8) * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _whole(weights: NDArray[np.float64], bits: int) -> list[int]:
    """The weights as whole numbers that add up to 2**bits: what rounding leaves goes to the next one."""
    left, whole = 0.0, []
    for weight in weights / weights.sum() * (1 << bits):
        whole.append(round(weight + left))
        left += weight - whole[-1]
    return whole
