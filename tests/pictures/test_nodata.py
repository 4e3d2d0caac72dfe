from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_deploy import Upscaler
from sr_deploy.pictures.image import Metadata, Picture, read_image
from sr_deploy.pictures.nodata import put_back, without_data
from sr_deploy.pictures.size import TargetSize

GROUND = (
    np.clip(np.add.outer(np.linspace(0, 0.3, 48), np.linspace(0, 0.5, 56)), 0, 1).astype(np.float32)[..., None].repeat(3, 2)
)


def test_no_data_does_not_change_its_neighbors(shared: Path) -> None:
    """Beyond the hole, the result is that of the same picture without one."""
    picture = read_image(shared / "faults" / "float_nodata.tif")
    hole = picture.pixels[..., 0] == -9999
    assert hole.sum() == 16
    whole = picture.pixels.copy()
    whole[hole] = whole[9, 9]
    with Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale:
        large = upscale.upscale_picture(picture).pixels
        expected = upscale.upscale_picture(Picture(whole)).pixels
    blocks = hole.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(large[..., 0] == -9999, blocks) and (large[blocks] == -9999).all()
    far = np.ones_like(blocks)
    rows, columns = np.nonzero(blocks)
    far[max(0, rows.min() - 24) : rows.max() + 24, max(0, columns.min() - 24) : columns.max() + 24] = False
    assert far.any()
    assert np.abs(large - expected)[far].max() < 1e-6
    assert np.abs(large - expected)[~blocks].max() < 0.05


@pytest.mark.parametrize("marker", [-9999, -32768, -999, -3.4028235e38, 3.4028235e38, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [None, TargetSize.of_factor(1.5)])
def test_markers_of_no_data_are_known(marker: float, size: TargetSize | None) -> None:
    pixels = GROUND.copy()
    pixels[20:24, 30:33] = marker
    with Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale:
        large = upscale.upscale_picture(Picture(pixels), size=size).pixels
        plain = upscale.upscale_picture(Picture(GROUND), size=size).pixels
    kept = np.isclose(large, np.float32(marker), equal_nan=True)
    factor = large.shape[0] // 24 / 2
    assert kept.sum() == 3 * round(4 * factor) * round(3 * factor) or size is not None
    assert kept.any() and not kept.all()
    assert np.abs(large - plain)[~kept].max() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: pixels * 65504,
        lambda pixels: pixels - 0.5,
        lambda pixels: np.where(pixels > 0.7, 9000, pixels),
        lambda pixels: pixels * 3000 - 400,
        lambda pixels: np.full_like(pixels, -1),
    ],
)
def test_wide_ranges_are_data(change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert without_data(change(GROUND).astype(np.float32), None) is None


def test_a_picture_without_any_data_comes_back() -> None:
    pixels = np.full((16, 16, 3), np.nan, np.float32)
    with Upscaler("fast-x2", backend="openvino") as upscale:
        assert np.isnan(upscale.upscale_picture(Picture(pixels)).pixels).all()


def test_the_value_that_a_file_names_is_no_data_in_integers_too(tmp_path: Path) -> None:
    pixels = np.full((24, 32), 200, np.uint8)
    pixels[8:12, 8:12] = 255
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={42113: "255"})
    picture = read_image(tmp_path / "a.tif")
    with Upscaler("fast-x2", backend="openvino") as upscale:
        large = upscale.upscale_picture(picture).pixels[..., 0]
    assert np.array_equal(large == 255, (pixels == 255).repeat(2, 0).repeat(2, 1))
    assert np.abs(large[large < 255].astype(int) - 200).max() <= 3
    assert Picture(picture.pixels, metadata=Metadata()).hidden is None


def test_put_back_follows_the_nearest_pixel() -> None:
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    large = np.full((6, 6, 1), -1, np.float32)
    put_back(large, pixels, pixels[..., 0] >= 4)
    nearest = np.asarray(Image.fromarray(pixels[..., 0]).resize((6, 6), Image.Resampling.NEAREST))
    assert np.array_equal(large[..., 0], np.where(nearest >= 4, nearest, -1))


def test_arrays_with_markers_are_treated_alike() -> None:
    pixels = GROUND.copy()
    pixels[20:24, 30:33] = -9999
    with Upscaler("fast-x2", backend="openvino", precision="fp32") as upscale:
        large = upscale(pixels)
        assert np.array_equal(large, upscale.upscale_picture(Picture(pixels)).pixels)
        assert (large == -9999).sum() == 3 * 8 * 6
