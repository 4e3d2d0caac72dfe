"""The kernels for video against the equations of the standards in numpy, bit for bit, and against FFmpeg to one code."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import weakref
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest

from sr_deploy.device.device import Device
from sr_deploy.device.video_planes import LAYOUTS, DevicePlanes, PlaneFormat
from sr_deploy.device.ycbcr import Meaning
from sr_deploy.errors import FeedError, UsageError
from sr_deploy.video.colors import frame_from_rgb, rgb_from_frame
from sr_deploy.video.frame import ColorTags, VideoFormat

Array = np.ndarray[Any, np.dtype[Any]]
BT601, BT709, BT2020 = 6, 1, 9
LEFT, CENTER, TOP_LEFT = 1, 2, 3
WEIGHTS = {BT601: ("0.299", "0.587", "0.114"), BT709: ("0.2126", "0.7152", "0.0722"), BT2020: ("0.2627", "0.6780", "0.0593")}
MEANINGS = [Meaning(matrix, full) for matrix in (BT601, BT709, BT2020) for full in (False, True)]
MSB = {"p010le": "yuv420p10le", "nv12": "yuv420p", "p210le": "yuv422p10le", "nv16": "yuv422p", "p012le": "yuv420p12le"}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield Device("cpu")


def matrix_to_codes(meaning: Meaning, depth: int, peak: int) -> Array:
    """E'Y = Kr R + Kg G + Kb B, E'Cb = (B - E'Y) / (2 - 2 Kb), E'Cr = (R - E'Y) / (2 - 2 Kr), then H.273's ranges."""
    red, green, blue = map(Fraction, WEIGHTS[meaning.matrix])
    half = 1 << (depth - 1)
    if meaning.full:
        luma_span = chroma_span = Fraction((1 << depth) - 1)
        black = 0
    else:
        luma_span, chroma_span = Fraction(219 << (depth - 8)), Fraction(224 << (depth - 8))
        black = 16 << (depth - 8)
    rows = [
        [luma_span * weight / peak for weight in (red, green, blue)],
        [chroma_span * weight / (2 - 2 * blue) / peak for weight in (-red, -green, 1 - blue)],
        [chroma_span * weight / (2 - 2 * red) / peak for weight in (1 - red, -green, -blue)],
    ]
    return np.array([[*map(float, row), offset] for row, offset in zip(rows, (black, half, half), strict=True)], np.float32)


def matrix_to_rgb(meaning: Meaning, depth: int, peak: int) -> Array:
    """R = Y + (2 - 2 Kr) Cr, B = Y + (2 - 2 Kb) Cb, and G from the definition of Y."""
    red, green, blue = map(Fraction, WEIGHTS[meaning.matrix])
    half = 1 << (depth - 1)
    luma_span, chroma_span = (Fraction((1 << depth) - 1),) * 2 if meaning.full else (219 << (depth - 8), 224 << (depth - 8))
    black = 0 if meaning.full else 16 << (depth - 8)
    luma = Fraction(peak) / luma_span
    from_blue, from_red = (peak * (2 - 2 * weight) / chroma_span for weight in (blue, red))
    rows = [
        [luma, Fraction(0), from_red],
        [luma, -blue * from_blue / green, -red * from_red / green],
        [luma, from_blue, Fraction(0)],
    ]
    return np.array(
        [[*map(float, row), float(-row[0] * black - (row[1] + row[2]) * half)] for row in rows],
        np.float32,
    )


def in_fixed_point(matrix: Array) -> Array:
    """Whole numbers of 1024ths, as OpenCV applies matrices to 8 bits; half a one in the offsets rounds what is cut."""
    return np.rint((matrix + np.float32([0, 0, 0, 0.5])) * np.float32(1024)).astype(np.int64)


def rounded(matrix: Array, planes: Iterable[Array], top: int, *, fixed: bool) -> list[Array]:
    """Rows of the matrix applied and rounded to 0 to `top`; where not in fixed point, as signed numbers of 16 bits."""
    if fixed:
        return [(row >> 10).clip(0, top) for row in applied(in_fixed_point(matrix), *(plane.astype(int) for plane in planes))]
    less = matrix - np.float32([0, 0, 0, 32768])
    return [(np.rint(row) + 32768).clip(0, top) for row in applied(less, *(plane.astype(np.float32) for plane in planes))]


def applied(matrix: Array, first: Array, second: Array, third: Array) -> list[Array]:
    """Rows of the matrix applied in float32, from right to left."""
    return [row[0] * first + (row[1] * second + (row[2] * third + row[3])) for row in matrix]


def cubic(distance: Array) -> Array:
    """R. Keys, Cubic convolution interpolation, 1981, with a = -0.6."""
    s, a = np.abs(distance), -0.6
    return np.where(
        s < 1, (a + 2) * s**3 - (a + 3) * s**2 + 1, np.where(s < 2, a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a, 0.0)
    )


def filtered(samples: Array, size: int, location: float, *, bits: int, finer: bool) -> Array:
    """Along the last axis, in whole numbers of 2**-bits: at each place the cubic of its neighbors, the ends continued."""
    total = np.zeros((*samples.shape[:-1], size), np.int64)
    for place in range(size):
        center = (place - location) / 2 if finer else 2 * place + location
        width = 1 if finer else 2
        near = np.arange(np.floor(center) - 2 * width + 1, np.floor(center) + 2 * width + 1)
        weights = cubic((near - center) / width)
        weights = weights / weights.sum() * 2**bits
        ends = np.rint(np.cumsum(weights))
        whole = np.diff(ends, prepend=0).astype(np.int64)
        index = near.clip(0, samples.shape[-1] - 1).astype(int)
        total[..., place] = (samples[..., index] * whole).sum(axis=-1)
    return total


def chroma_filtered(chroma: Array, size: tuple[int, int], layout: Any, places: tuple[float, float], finer: bool) -> Array:
    """(h,w) codes -> (H,W) codes: across to 15 bits, then down, rounded."""
    depth, (right, below) = layout.depth, places
    across = chroma.astype(np.int64) << 14
    if layout.across == 2:
        across = filtered(chroma.astype(np.int64), size[1], right, bits=14, finer=finer)
    across = np.minimum(across >> (depth - 1), 32767)
    down = across << 12
    if layout.down == 2:
        down = filtered(across.T, size[0], below, bits=12, finer=finer).T
    return ((down + (1 << (26 - depth))) >> (27 - depth)).clip(0, 2**depth - 1)


PLACES = {LEFT: (0, 0.5), CENTER: (0.5, 0.5), TOP_LEFT: (0, 0)}


def reference_rgb(planes: tuple[Array, Array, Array], format: PlaneFormat, dtype: str) -> Array:
    luma, *chroma = planes
    peak = 255 if dtype == "uint8" else 1
    fine = [chroma_filtered(plane, format.size, format.layout, PLACES[format.location], True) for plane in chroma]
    matrix = matrix_to_rgb(format.meaning, format.layout.depth, peak)
    if dtype == "uint8":
        return np.stack(rounded(matrix, (luma, *fine), 255, fixed=format.layout.depth == 8), axis=-1).astype(dtype)
    rgb = np.stack(applied(matrix, *(plane.astype(np.float32) for plane in (luma, *fine))), axis=-1)
    return rgb.clip(0, 1).astype(dtype)


def reference_codes(pixels: Array, format: PlaneFormat) -> tuple[Array, ...]:
    depth, of_bytes = format.layout.depth, pixels.dtype == np.uint8
    matrix = matrix_to_codes(format.meaning, depth, 255 if of_bytes else 65535)
    levels = pixels if of_bytes else np.rint(pixels.astype(np.float32) * np.float32(65535)).clip(0, 65535)
    channels = (levels[..., channel] for channel in range(3))
    luma, *chroma = rounded(matrix, channels, 2**depth - 1, fixed=of_bytes and depth == 8)
    coarse = [chroma_filtered(plane, format.chroma_size, format.layout, PLACES[format.location], False) for plane in chroma]
    return luma, *coarse


def flat(planes: tuple[Array, ...], format: PlaneFormat) -> Array:
    """The planes as FFmpeg lays them out, in the format's own bits."""
    luma, *chroma = (plane.astype(format.dtype) << format.layout.padding for plane in planes)
    second = np.stack(chroma, axis=-1) if format.layout.paired else np.stack(chroma)
    return np.concatenate([luma.ravel(), second.ravel()]).astype(format.dtype)


def on(device: Device, values: Array) -> Any:
    array = device.empty(values.shape, values.dtype)
    array.numpy()[...] = values
    return array


def formats(count: int, seed: int) -> list[PlaneFormat]:
    """Random sizes, odd and even, each with another pixel format, meaning and place of chroma."""
    random = np.random.default_rng(seed)
    kinds = list(itertools.product(LAYOUTS, MEANINGS, PLACES))
    picked = random.permutation(len(kinds))[:count]
    return [PlaneFormat((int(random.integers(1, 80)), int(random.integers(1, 80))), *kinds[index]) for index in picked]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_rgb_of_planes_equals_the_equations(device: Device, dtype: str) -> None:
    for number, format in enumerate(formats(200, seed=1)):
        random = np.random.default_rng(number)
        sides = (format.size, format.chroma_size, format.chroma_size)
        planes = tuple(random.integers(0, 2**format.layout.depth, side) for side in sides)
        frame = device.empty((1, *format.size, 3), dtype)
        DevicePlanes(device, format).to_rgb(on(device, flat(planes, format)), frame)
        np.testing.assert_array_equal(frame.numpy()[0], reference_rgb(planes, format, dtype), err_msg=str(format))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_planes_of_rgb_equal_the_equations(device: Device, dtype: str) -> None:
    for number, format in enumerate(formats(200, seed=2)):
        random = np.random.default_rng(number)
        values = (
            random.integers(0, 256, (*format.size, 3)) if dtype == "uint8" else random.uniform(-0.1, 1.1, (*format.size, 3))
        )
        pixels = values.astype(dtype)
        planes = DevicePlanes(device, format)
        codes = planes.empty()
        planes.from_rgb(on(device, pixels[None]), codes)
        np.testing.assert_array_equal(codes.numpy(), flat(reference_codes(pixels, format), format), err_msg=str(format))


def test_the_formats_of_the_tests_are_of_every_kind() -> None:
    seen = formats(200, seed=1)
    assert {format.pixel_format for format in seen} == set(LAYOUTS)
    assert {format.meaning for format in seen} == set(MEANINGS) and {format.location for format in seen} == set(PLACES)
    assert {(format.size[0] % 2, format.size[1] % 2) for format in seen} == set(itertools.product((0, 1), repeat=2))


def chart(height: int, width: int, dtype: Any) -> Array:
    """Colors of the whole RGB cube, 16 pixels apart, and one into the other."""
    levels = np.array(list(itertools.product((0, 0.25, 0.5, 0.75, 1), repeat=3)), np.float32)
    picked = np.random.default_rng(5).permutation(len(levels) * 2)[: height // 16 * (width // 16)] % len(levels)
    grid = levels[picked].reshape(height // 16, width // 16, 3)
    return np.rint(cv2.resize(grid, (width, height)) * np.iinfo(dtype).max).astype(dtype)


def patches(height: int, width: int) -> Array:
    """The same colors, without a way from one to the other."""
    return chart(height, width, np.uint8)[8::16, 8::16].repeat(16, axis=0).repeat(16, axis=1)


PLAIN = [name for name in LAYOUTS if name.startswith("yuv") and "msb" not in name]


def video_format(format: PlaneFormat, pixel_format: str) -> VideoFormat:
    tags = ColorTags(format.meaning.matrix, 2 if format.meaning.full else 1, 1, 1, format.location)
    height, width = format.size
    return VideoFormat(width, height, pixel_format, format.layout.depth, Fraction(1, 25), tags=tags)


def codes_of(frame: av.VideoFrame) -> Array:
    """All planes without padding, one after the other."""
    dtype = np.dtype(np.uint8 if frame.format.components[0].bits == 8 else "<u2")
    paired = len(frame.planes) == 2
    parts = []
    for index, plane in enumerate(frame.planes):
        count = plane.width * (2 if paired and index else 1)
        parts.append(np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, :count].ravel())
    return np.concatenate(parts)


def assert_one_code(result: Array, expected: Array, *, deep: bool) -> None:
    """In 8 bits the arithmetic is the same; in 16, OpenCV fuses products and sums where the processor can."""
    difference = np.abs(result.astype(int) - expected)
    assert difference.max() <= (1 if deep else 0) and (difference > 0).mean() < 1e-2


CHARTS = [
    PlaneFormat((160, 256), pixel_format, meaning, place)
    for pixel_format in PLAIN
    for meaning, place in zip(MEANINGS, itertools.cycle(PLACES), strict=False)
]


@pytest.mark.parametrize("format", CHARTS, ids=str)
def test_a_chart_has_the_codes_that_the_host_makes_of_it(device: Device, format: PlaneFormat) -> None:
    deep = format.layout.depth > 8
    pixels = chart(*format.size, np.uint16 if deep else np.uint8)
    expected = codes_of(frame_from_rgb(pixels, video_format(format, format.pixel_format)))
    planes = DevicePlanes(device, format)
    codes = planes.empty()
    planes.from_rgb(on(device, (pixels / np.float32(65535) if deep else pixels)[None]), codes)
    assert_one_code(codes.numpy(), expected, deep=deep)


@pytest.mark.parametrize("format", CHARTS, ids=str)
def test_a_chart_has_the_colors_that_the_host_makes_of_it(device: Device, format: PlaneFormat) -> None:
    deep = format.layout.depth > 8
    known = video_format(format, format.pixel_format)
    source = frame_from_rgb(chart(*format.size, np.uint16 if deep else np.uint8), known)
    expected = rgb_from_frame(source, known)
    frame = device.empty((1, *format.size, 3), "float32" if deep else "uint8")
    DevicePlanes(device, format).to_rgb(on(device, codes_of(source)), frame)
    result = np.rint(frame.numpy()[0] * 65535) if deep else frame.numpy()[0]
    assert_one_code(result, expected, deep=deep)


@pytest.mark.parametrize("name", MSB)
def test_paired_formats_are_laid_out_as_ffmpeg_has_them(device: Device, name: str) -> None:
    """FFmpeg itself turns planes into pairs."""
    plain = PlaneFormat((48, 64), MSB[name], Meaning(BT709, full=False), LEFT)
    pixels = chart(*plain.size, np.uint8)
    frame = frame_from_rgb(pixels, video_format(plain, MSB[name]))
    paired = DevicePlanes(device, PlaneFormat(plain.size, name, plain.meaning, LEFT))
    expected = device.empty((1, *plain.size, 3), "float32")
    DevicePlanes(device, plain).to_rgb(on(device, codes_of(frame)), expected)
    result = device.empty((1, *plain.size, 3), "float32")
    paired.to_rgb(on(device, codes_of(frame.reformat(format=name))), result)
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


@pytest.mark.parametrize("meaning", MEANINGS, ids=str)
def test_colors_survive_the_way_there_and_back(device: Device, meaning: Meaning) -> None:
    """In the middle of patches, where it does not matter how dense chroma is, nothing is lost but by rounding codes."""
    pixels = patches(160, 256)
    for name, most in (("yuv444p", 2), ("nv12", 2), ("p010le", 1), ("yuv444p12msble", 0)):
        planes = DevicePlanes(device, PlaneFormat((160, 256), name, meaning, LEFT))
        codes, frame = planes.empty(), device.empty((1, 160, 256, 3), "uint8")
        planes.from_rgb(on(device, pixels[None]), codes)
        planes.to_rgb(codes, frame)
        difference = np.abs(frame.numpy()[0].astype(int) - pixels)
        assert difference.reshape(10, 16, 16, 16, 3)[:, 6:10, :, 6:10].max() <= most, name


def test_not_a_number_is_black_and_what_is_beyond_is_clamped(device: Device) -> None:
    planes = DevicePlanes(device, PlaneFormat((1, 4), "yuv444p10le", Meaning(BT709, full=True)))
    pixels = np.array([np.nan, np.inf, -np.inf, 7.0], np.float32)[None, None, :, None].repeat(3, axis=3)
    codes = planes.empty()
    planes.from_rgb(on(device, pixels), codes)
    assert codes.numpy()[:4].tolist() == [0, 1023, 0, 1023]


def test_memory_is_given_back(device: Device) -> None:
    planes = DevicePlanes(device, PlaneFormat((18, 30), "nv12", Meaning(BT601, full=False)))
    planes.to_rgb(planes.empty(), device.empty((1, 18, 30, 3), "uint8"))
    gone = weakref.ref(planes)
    del planes
    gc.collect()
    assert gone() is None


def test_a_surface_with_gaps_is_read(device: Device) -> None:
    """Decoders pad the rows of their surfaces."""
    format = PlaneFormat((18, 30), "nv12", Meaning(BT601, full=False), LEFT)
    surface = np.random.default_rng(3).integers(0, 256, (27, 64), dtype=np.uint8)
    codes = np.concatenate([surface[:18, :30].ravel(), surface[18:, :30].ravel()])
    planes = DevicePlanes(device, format)
    expected, result = (device.empty((1, 18, 30, 3), "uint8") for _ in range(2))
    planes.to_rgb(on(device, codes), expected)
    whole = on(device, surface)
    chroma = on(device, surface[18:].reshape(9, 32, 2))[:, :15]
    planes.surface_to_rgb(whole[:18, :30], chroma, result)
    np.testing.assert_array_equal(result.numpy(), expected.numpy())


def test_wrong_arrays_are_refused(device: Device) -> None:
    planes = DevicePlanes(device, PlaneFormat((5, 7), "nv12", Meaning(BT709, full=False)))
    assert planes.format.chroma_size == (3, 4) and planes.format.count == 35 + 24
    codes, frame = planes.empty(), device.empty((1, 5, 7, 3), "uint8")
    for wrong_codes, wrong_frame in [
        (device.empty((58,), "uint8"), frame),
        (device.empty((59,), "float16"), frame),
        (codes, device.empty((1, 5, 8, 3), "uint8")),
        (codes, device.empty((5, 7, 3), "uint8")),
        (codes, device.empty((1, 5, 7, 3), "int32")),
    ]:
        with pytest.raises(FeedError, match="expected"):
            planes.to_rgb(wrong_codes, wrong_frame)
        with pytest.raises(FeedError, match="expected"):
            planes.from_rgb(wrong_frame, wrong_codes)
    with pytest.raises(FeedError, match=r"no planes of nv12; expected uint8 of \[5, 7\] and \[3, 4, 2\]"):
        planes.surface_to_rgb(device.empty((5, 7), "uint8"), device.empty((3, 3, 2), "uint8"), frame)
    with pytest.raises(UsageError, match="no kernels for the pixel format 'yuv410p'; expected one of nv12"):
        PlaneFormat((5, 7), "yuv410p", Meaning(BT709, full=False))
