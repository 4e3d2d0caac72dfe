from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.pictures.color import (
    bleed,
    from_float,
    gray_to_luma,
    luma_to_gray,
    rgb_to_ycbcr,
    to_float,
    ycbcr_to_rgb,
)

UNIT = arrays.arrays(np.float32, (4, 5, 3), elements=st.floats(0, 1, width=32))
DTYPES = [np.uint8, np.uint16]


def test_ycbcr_of_known_colors() -> None:
    colors = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    expected = [[16, 128, 128], [235, 128, 128], [81.481, 90.203, 240], [144.553, 53.797, 34.214], [40.966, 240, 109.786]]
    assert np.allclose(rgb_to_ycbcr(colors) * 255, expected, atol=1e-3)


@given(UNIT)
def test_ycbcr_inverts(rgb: np.ndarray) -> None:
    ycbcr = rgb_to_ycbcr(rgb)
    assert ycbcr.dtype == np.float32
    assert np.abs(ycbcr_to_rgb(ycbcr) - rgb).max() < 2e-6


@given(arrays.arrays(np.float32, (6,), elements=st.floats(0, 1, width=32)))
def test_gray_is_luma_of_equal_channels(gray: np.ndarray) -> None:
    luma = rgb_to_ycbcr(np.repeat(gray[:, None], 3, axis=1))[:, 0]
    assert np.abs(gray_to_luma(gray) - luma).max() < 1e-6
    assert np.abs(luma_to_gray(gray_to_luma(gray)) - gray).max() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_integer_survives_float(dtype: type) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    as_float = to_float(values)
    assert as_float.dtype == np.float32
    assert as_float[0] == 0
    assert as_float[-1] == 1
    assert (from_float(as_float, dtype) == values).all()


def test_from_float_rounds_and_clips() -> None:
    values = np.array([-5, 0, 0.4 / 255, 0.6 / 255, 1, 1.01, np.inf, -np.inf, np.nan], np.float32)
    assert from_float(values, np.uint8).tolist() == [0, 0, 0, 1, 255, 255, 255, 0, 0]
    assert from_float(values, np.uint16).tolist()[-5:] == [65535, 65535, 65535, 0, 0]


def test_float_passes_unclipped_and_uncopied() -> None:
    hdr = np.array([-1, 7], np.float32)
    assert to_float(hdr) is hdr
    assert from_float(hdr, np.float32) is hdr


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError, match="int32"):
        to_float(np.zeros(2, np.int32))
    with pytest.raises(TypeError, match="float64"):
        from_float(np.zeros(2, np.float32), np.float64)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.integers(0, 2**32 - 1),
)
def test_bleed_touches_only_what_is_hidden(height: int, width: int, dtype: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    top = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    pixels = (rng.random((height, width, 3)) * top).astype(dtype)
    alpha = (rng.random((height, width)) * top * (rng.random((height, width)) < 0.4)).astype(dtype)
    before = pixels.copy()
    filled = bleed(pixels, alpha)
    assert filled.dtype == dtype
    assert (pixels == before).all()
    seen = alpha > 0
    assert (filled[seen] == pixels[seen]).all()
    if not seen.any():
        assert (filled == pixels).all()
    elif not seen.all():
        slack = 1e-6 if dtype is np.float32 else 0
        for channel in range(3):
            inside = pixels[seen][:, channel]
            assert filled[..., channel][~seen].min() >= inside.min() - slack
            assert filled[..., channel][~seen].max() <= inside.max() + slack


def test_bleed_takes_the_near_color() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    alpha = np.zeros((8, 16), np.uint8)
    pixels[:, :3], alpha[:, :3] = (255, 0, 0), 255
    pixels[:, 13:], alpha[:, 13:] = (0, 0, 255), 255
    filled = bleed(pixels, alpha)
    assert (filled[:, 3] == (255, 0, 0)).all()
    assert (filled[:, 12] == (0, 0, 255)).all()
