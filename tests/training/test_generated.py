"""Generated pictures: each kind has what it is for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sr_deploy.training.generated import CONTENT_KINDS, ContentKind, generate


def pictures(kind: ContentKind, count: int = 12, side: int = 96) -> Iterator[np.ndarray]:
    for seed in range(count):
        yield generate(kind, side, np.random.default_rng(seed))


def colors(image: np.ndarray) -> int:
    return len(np.unique(image.reshape(-1, 3), axis=0))


@pytest.mark.parametrize("kind", CONTENT_KINDS)
@pytest.mark.parametrize("side", [48, 101])
def test_a_picture_has_its_side_and_its_seed(kind: ContentKind, side: int) -> None:
    first, again, other = (generate(kind, side, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (side, side, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 1


def test_dither_has_two_colors_and_both_everywhere() -> None:
    for image in pictures("dither"):
        assert colors(image) == 2
        change = np.abs(np.diff(image.astype(int), axis=0)).max(2) > 0
        assert change.mean() > 0.05


def test_pixel_art_is_of_large_pixels_and_few_colors() -> None:
    for image in pictures("pixel art"):
        assert colors(image) <= 16
        edges = np.flatnonzero((np.diff(image.astype(int), axis=1) != 0).any(axis=(0, 2))) + 1
        assert np.gcd.reduce(edges) >= 2


def test_flat_colors_are_flat() -> None:
    for image in pictures("flat colors"):
        still = (np.abs(np.diff(image.astype(int), axis=1)).max(2) == 0).mean()
        assert still > 0.7


def test_gradients_change_slowly() -> None:
    steps = [np.abs(np.diff(image.astype(int), axis=1)).max(2) for image in pictures("gradient")]
    assert sum((step <= 8).mean() > 0.9 for step in steps) >= 10
    assert all(colors(image) >= 4 for image in pictures("gradient"))


def test_text_and_line_art_are_strokes_on_a_ground() -> None:
    for kind in ("text", "line art"):
        for image in pictures(kind):  # type: ignore[arg-type]
            _, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
            assert counts.max() > 0.2 * 96 * 96
            assert np.ptp(image.reshape(-1, 3).astype(int), axis=0).max() >= 64
