"""Photos and crops against the files and imresize."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sr_deploy.bicubic import imresize
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures.image import READABLE_SUFFIXES
from sr_deploy.training.photos import Ahead, Crops, Photo, fingerprint, hold_out, read_photos


def test_photos_are_the_files_and_their_bicubic(photos: Path) -> None:
    found = read_photos([str(photos)], 2)
    assert [photo.name for photo in found] == ["a.png", "c.png", "d.JPG", "é 漢字 [x].png"]
    for photo in (found[0], found[1], found[3]):
        expected = np.asarray(Image.open(photos / photo.name).convert("RGB"))
        height, width = (size // 2 * 2 for size in expected.shape[:2])
        np.testing.assert_array_equal(photo.hr, expected[:height, :width])
        np.testing.assert_array_equal(photo.lr, imresize(photo.hr, height // 2, width // 2))


@pytest.mark.parametrize("suffix", sorted(READABLE_SUFFIXES))
def test_photos_may_be_of_every_format_that_is_read(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (16, 24, 3), np.uint8)
    kinds = {".jpe": "JPEG", ".jfif": "JPEG", ".j2k": "JPEG2000", ".pgm": "PPM", ".pnm": "PPM"}
    Image.fromarray(pixels).resize((48, 32)).save(tmp_path / f"a{suffix}", format=kinds.get(suffix), quality=100)
    (photo,) = read_photos([str(tmp_path)], 2)
    with Image.open(tmp_path / f"a{suffix}") as expected:
        np.testing.assert_allclose(photo.hr.astype(int), np.asarray(expected.convert("RGB")), atol=3)


def test_luma_photos_have_one_channel(photos: Path) -> None:
    photo = read_photos([str(photos)], 3, colors=1)[0]
    assert (photo.hr.shape, photo.lr.shape) == ((69, 90, 1), (23, 30, 1))
    expected = cv2.cvtColor(cv2.imread(str(photos / "a.png"))[:69], cv2.COLOR_BGR2YCrCb)[..., 0] * (219 / 255) + 16
    np.testing.assert_allclose(photo.hr[..., 0], expected, atol=1.5)


def test_given_lr_images_are_taken(shared: Path) -> None:
    found = read_photos([str(shared / "images/Set5/HR")], 4, lr_folder=str(shared / "images/Set5/LR_bicubic/X4"))
    made = read_photos([str(shared / "images/Set5/HR")], 4)
    assert len(found) == 5
    assert fingerprint(found) == fingerprint(made)


def test_folders_and_files_that_cannot_be(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_photos([str(tmp_path / "none")], 2)
    with pytest.raises(UsageError, match="no photos in it"):
        read_photos([str(tmp_path)], 2)
    with pytest.raises(UsageError, match=r"is smaller than the scale 4"):
        cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 9, 3), np.uint8))
        read_photos([str(tmp_path)], 4)
    with pytest.raises(UsageError, match=r"no LR image for a\.png; expected a or ax2"):
        read_photos([str(photos)], 2, lr_folder=str(tmp_path))
    for name, data in (("empty.png", b""), ("text.jpg", b"hello")):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(data)
        with pytest.raises(ImageError, match="not an image that OpenCV can decode"):
            read_photos([str(folder)], 2)


def test_held_out_photos_are_not_trained_on() -> None:
    photos = [Photo(str(number), np.zeros((4, 4, 3)), np.zeros((2, 2, 3))) for number in range(10)]
    rest, kept = hold_out(photos, 3)
    assert [photo.name for photo in kept] == ["1", "5", "8"]
    assert [photo.name for photo in rest] == ["0", "2", "3", "4", "6", "7", "9"]
    with pytest.raises(UsageError, match="10 photos cannot give 10"):
        hold_out(photos, 10)


def numbered(scale: int) -> Photo:
    """Every pixel of HR knows its LR pixel."""
    lr = np.arange(20 * 12, dtype=np.uint8).reshape(20, 12, 1)
    return Photo("numbered", lr.repeat(scale, 0).repeat(scale, 1), lr)


@pytest.mark.parametrize("scale", [2, 3])
def test_crops_of_hr_and_lr_are_of_one_place_and_turned_alike(scale: int) -> None:
    crops = Crops([numbered(scale)], batch=32, crop=5 * scale, seed=(1, 0))
    lr, hr = crops(7)
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
