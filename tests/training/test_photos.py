"""Photos against the files and imresize."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sr_deploy.bicubic import imresize
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.pictures.image import READABLE_SUFFIXES
from sr_deploy.training.degradation.settings import Degradation, DegradationRound, Jpeg
from sr_deploy.training.generated import GeneratedContent
from sr_deploy.training.photos import Photo, degraded_photos, fingerprint, generated_photos, hold_out, read_photos


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


def test_generated_photos_are_of_all_kinds_and_have_bicubic_lr() -> None:
    content = GeneratedContent(0.2, ("text", "dither"), pictures=4)
    found = generated_photos(content, 49, 2, colors=3, seed=1)
    assert [photo.name for photo in found] == ["text 0", "dither 1", "text 2", "dither 3"]
    for photo in found:
        assert photo.hr.shape == (48, 48, 3)
        np.testing.assert_array_equal(photo.lr, imresize(photo.hr, 24, 24))
    again, other = (generated_photos(content, 49, 2, colors=3, seed=seed) for seed in (1, 2))
    assert fingerprint(found) == fingerprint(again) != fingerprint(other)
    (gray, *_) = generated_photos(content, 48, 2, colors=1, seed=1)
    assert (gray.hr.shape, gray.lr.shape) == ((48, 48, 1), (24, 24, 1))


def test_degraded_photos_keep_their_hr_and_depend_on_the_seed(photos: Path) -> None:
    settings = Degradation((DegradationRound(jpeg=Jpeg(quality=(20, 60))),))
    clean = read_photos([str(photos)], 2)
    found, again, other = (degraded_photos(clean, settings, seed) for seed in (1, 1, 2))
    assert fingerprint(found) == fingerprint(again) != fingerprint(other)
    for photo, before in zip(found, clean, strict=True):
        assert photo.lr.shape == before.lr.shape and not np.array_equal(photo.lr, before.lr)
        np.testing.assert_array_equal(photo.hr, before.hr)
