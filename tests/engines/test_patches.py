from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.engines.patches import best, crops, paste


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([3, 1, 2, 9], 2, [0, 3]),
        ([1, 1, 1, 1], 3, [0, 1, 2]),
        ([2, 5], 9, [0, 1]),
        ([2, 5], 0, []),
        ([np.nan, -np.inf, 0], 2, [1, 2]),
        ([-1, -np.inf, np.inf], 2, [0, 2]),
    ],
)
def test_the_best_patches(scores: list[float], count: int, expected: list[int]) -> None:
    assert best(np.array(scores, np.float32).reshape(1, 1, 1, -1), count).tolist() == expected


@pytest.mark.parametrize(("patch", "padding"), [(4, 1), (4, 0), (2, 3)])
def test_crops_are_those_of_torch(patch: int, padding: int) -> None:
    features = np.random.default_rng(1).random((1, 5, 12, 20), dtype=np.float32)
    side = patch + 2 * padding
    every = F.unfold(torch.from_numpy(features), side, padding=padding, stride=patch)[0].T.reshape(-1, 5, side, side).numpy()
    chosen = np.array([0, 3, len(every) - 1])
    found = crops(features, chosen, patch=patch, padding=padding)
    np.testing.assert_array_equal(found, every[chosen])
    assert found.flags.c_contiguous
    assert crops(features, chosen[:0], patch=patch, padding=padding).shape == (0, 5, side, side)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 7))
def test_crops_are_those_of_a_padded_image(rows: int, columns: int, padding: int) -> None:
    features = np.random.default_rng(1).random((1, 2, 4 * rows, 4 * columns), np.float32)
    found = crops(features, np.arange(rows * columns), patch=4, padding=padding)
    padded = np.pad(features[0], ((0, 0), (padding, padding), (padding, padding)))
    side = 4 + 2 * padding
    for number, crop in enumerate(found):
        top, left = 4 * (number // columns), 4 * (number % columns)
        np.testing.assert_array_equal(crop, padded[:, top : top + side, left : left + side])


def test_patches_go_back_where_they_come_from() -> None:
    image = np.random.default_rng(2).random((1, 3, 16, 24), dtype=np.float32)
    before = image.copy()
    every = crops(image, np.arange(6), patch=8, padding=0)
    np.testing.assert_array_equal(paste(np.zeros_like(image), every, np.arange(6)), image)
    part = paste(image, 2 + every[[1, 5]], np.array([1, 5]))
    np.testing.assert_array_equal(part[..., :8, 8:16], 2 + image[..., :8, 8:16])
    np.testing.assert_array_equal(part[..., 8:, 16:], 2 + image[..., 8:, 16:])
    assert int((part != image).sum()) == 2 * 3 * 64
    np.testing.assert_array_equal(image, before)
