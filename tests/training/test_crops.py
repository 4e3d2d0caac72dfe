"""Crops: of one place, drawn by the seed alone, degraded where the recipe says so."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.bicubic import imresize
from sr_deploy.errors import UsageError
from sr_deploy.export.probes import probe_picture
from sr_deploy.training.crops import Ahead, Crops
from sr_deploy.training.degradation.settings import Blur, Degradation, DegradationRound, Jpeg, Noise
from sr_deploy.training.photos import Photo


def numbered(scale: int) -> Photo:
    """Every pixel of HR knows its LR pixel."""
    lr = np.arange(20 * 12, dtype=np.uint8).reshape(20, 12, 1)
    return Photo("numbered", lr.repeat(scale, 0).repeat(scale, 1), lr)


@pytest.mark.parametrize("scale", [2, 3])
def test_crops_of_hr_and_lr_are_of_one_place_and_turned_alike(scale: int) -> None:
    crops = Crops([numbered(scale)], batch=32, crop=5 * scale, seed=(1, 0))
    lr, hr, clean, generated = crops(7)
    assert clean is lr and not generated.any()
    assert (lr.shape, hr.shape) == ((32, 5, 5, 1), (32, 5 * scale, 5 * scale, 1))
    np.testing.assert_array_equal(hr, lr.repeat(scale, 1).repeat(scale, 2))
    steps = {(int(image[0, 1, 0]) - int(image[0, 0, 0]), int(image[1, 0, 0]) - int(image[0, 0, 0])) for image in lr}
    assert len(steps) == 8  # all flips and turns


def test_a_batch_depends_on_seed_stage_and_step_alone() -> None:
    photos = [numbered(2)]
    crops = Crops(photos, batch=4, crop=8, seed=(1, 0))
    first = crops(5)[1]
    crops(6)
    np.testing.assert_array_equal(crops(5)[1], first)
    for seed in ((2, 0), (1, 1)):
        assert not np.array_equal(Crops(photos, batch=4, crop=8, seed=seed)(5)[1], first)
    assert not np.array_equal(crops(6)[1], first)


def test_crops_may_be_whole_photos_but_not_larger() -> None:
    assert Crops([numbered(2)], batch=1, crop=24, seed=(1,))(0)[1].shape == (1, 24, 24, 1)
    with pytest.raises(UsageError, match="none of the 1 photos is 26x26"):
        Crops([numbered(2)], batch=1, crop=26, seed=(1,))


def test_batches_come_in_order() -> None:
    crops = Crops([numbered(2)], batch=2, crop=8, seed=(1, 0))
    with Ahead(crops, 3, 6) as ahead:
        for step in (3, 4, 5):
            np.testing.assert_array_equal(ahead.take()[0], crops(step)[0])
        assert ahead.waited >= 0


BLOCKS = Degradation((DegradationRound(jpeg=Jpeg(quality=(2, 2))),))
NOISY = Degradation((DegradationRound(blur=Blur(), noise=Noise()),))


def pictured(scale: int = 2) -> Photo:
    hr = np.ascontiguousarray(probe_picture()[:128, :160])
    return Photo("pictured", hr, imresize(hr, 128 // scale, 160 // scale))


@pytest.mark.parametrize("scale", [2, 4])
def test_degraded_crops_are_of_one_place(scale: int) -> None:
    crops = Crops([pictured(scale)], batch=12, crop=12 * scale, seed=(1, 0), degradation=NOISY)
    batch = crops(3)
    assert (batch.lr.shape, batch.hr.shape) == ((12, 12, 12, 3), (12, 12 * scale, 12 * scale, 3))
    for lr, hr, clean, _ in zip(*batch, strict=True):
        assert not np.array_equal(lr, clean)
        inner = (slice(3, -3), slice(3, -3))
        made = imresize(np.ascontiguousarray(hr), 12, 12)
        np.testing.assert_allclose(clean[inner].astype(int), made[inner], atol=4)
        assert np.abs(lr[inner].astype(int) - clean[inner]).mean() < 40
    again = crops(3)
    assert all(np.array_equal(first, second) for first, second in zip(batch, again, strict=True))


def test_blocks_of_jpeg_lie_anywhere_in_a_crop() -> None:
    """At quality 2 a block is one color in each channel, near enough: where rows differ most, blocks meet."""
    crops = Crops([pictured()], batch=60, crop=48, seed=(1, 0), degradation=BLOCKS)
    steps = np.abs(np.diff(crops(0).lr.astype(int), axis=1)).mean(axis=(2, 3))
    phases = {int(np.argmax([row[at::8].mean() for at in range(8)])) for row in steps}
    assert phases == set(range(8))


def test_a_photo_of_the_size_of_a_crop_is_degraded_as_it_is() -> None:
    small = Photo("small", np.full((24, 30, 3), 9, np.uint8), np.full((12, 15, 3), 9, np.uint8))
    assert Crops([small], batch=3, crop=24, seed=(1,), degradation=NOISY)(0).lr.shape == (3, 12, 12, 3)


def test_a_share_of_the_crops_is_generated() -> None:
    drawn = Photo("drawn", np.full((40, 40, 3), 7, np.uint8), np.full((20, 20, 3), 7, np.uint8))
    crops = Crops([pictured()], batch=200, crop=16, seed=(1,), generated=[drawn], share=0.25)
    names = [example.name for example in crops.examples(0)]
    assert 30 < names.count("drawn") < 70


def test_without_degradation_and_drawn_pictures_crops_are_what_they_were() -> None:
    """Runs that were begun before there was any of it go on with the same batches."""
    lr, hr, *_ = Crops([numbered(2)], batch=3, crop=8, seed=(1, 0))(5)
    random = np.random.default_rng((1, 0, 5))
    photo = numbered(2)
    for low, high in zip(lr, hr, strict=True):
        random.integers(1)
        y, x = (int(random.integers(size - 3)) for size in (20, 12))
        turn = int(random.integers(8))
        crop = photo.lr[y : y + 4, x : x + 4]
        crop = crop[:, ::-1] if turn & 1 else crop
        crop = crop[::-1] if turn & 2 else crop
        crop = crop.transpose(1, 0, 2) if turn & 4 else crop
        np.testing.assert_array_equal(low, crop)
        np.testing.assert_array_equal(high, crop.repeat(2, 0).repeat(2, 1))
