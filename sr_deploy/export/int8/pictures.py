"""The pictures that an INT8 graph is made by, as a network gets them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from sr_deploy.arrays import Array
from sr_deploy.bicubic import imresize
from sr_deploy.card import ModelCard
from sr_deploy.probe_picture import as_input, drawn_pictures

_SIDE = 64
_CROPS = 16
"""Fewer of them miss large values, which are clipped then."""


def calibration_inputs(card: ModelCard, pictures: Sequence[Array] | None) -> list[Array]:
    """Crops of pictures, (H, W, 3) uint8 RGB as the network gets them, each (1, C, 64, 64), or as large as a picture is.

    None takes drawn ones.
    """
    if pictures is None:
        pictures = [imresize(picture, 120, 120) for picture in drawn_pictures("calibration")]
    random = np.random.default_rng(8)
    step = max(1, len(pictures) // _CROPS)
    taken = list(pictures[::step])[:_CROPS]
    crops = [_crop(taken[number % len(taken)], card, random) for number in range(_CROPS)]
    return [as_input(crop, card.channels) for crop in crops]


def tuning_batches(card: ModelCard, pictures: Sequence[Array] | None) -> Iterator[Array]:
    """Two crops after two, without an end, flipped at random, each pair (2, C, 64, 64) or larger; None takes drawn ones."""
    if pictures is None:
        drawn = drawn_pictures("calibration")
        pictures = [*drawn, *(imresize(picture, 120, 120) for picture in drawn)]
    random = np.random.default_rng(9)
    while True:
        crops = [_crop(pictures[int(random.integers(len(pictures)))], card, random) for _ in range(2)]
        flipped = [crop[:: random.choice((-1, 1)), :: random.choice((-1, 1))] for crop in crops]
        yield np.concatenate([as_input(crop, card.channels) for crop in flipped])


def _crop(picture: Array, card: ModelCard, random: np.random.Generator) -> Array:
    side = math.ceil(max(_SIDE, card.min_size) / card.size_multiple) * card.size_multiple
    missing = [max(0, side - size) for size in picture.shape[:2]]
    picture = np.pad(picture, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = (int(random.integers(size - side + 1)) for size in picture.shape[:2])
    return picture[top : top + side, left : left + side]
