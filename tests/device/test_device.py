from __future__ import annotations

import gc
import importlib.util
import itertools
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sr_deploy import Upscaler
from sr_deploy.device import device as device_module
from sr_deploy.device.device import Device, load_warp
from sr_deploy.device.gpu import find_gpus
from sr_deploy.device.interface import read_interface
from sr_deploy.device.tiling import DeviceTiling, HealthMeter, Measured
from sr_deploy.errors import BackendUnavailableError, EngineError, FeedError, OutOfMemoryError, UsageError
from sr_deploy.pictures.image import read_image
from sr_deploy.upscaling.tiling import Axis, Tiling, plan_tiles
from tests.graphs import image_graph, save

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ("float32", "float16")


def devices() -> list[str]:
    """The CPU, and a GPU where there is one."""
    try:
        return ["cpu", "cuda:0"] if find_gpus() else ["cpu"]
    except BackendUnavailableError:
        return ["cpu"]


@pytest.fixture(scope="module", params=devices())
def device(request: pytest.FixtureRequest, cpu: Device) -> Device:
    return cpu if request.param == "cpu" else Device(request.param)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield Device("cpu")


def on(device: Device, tiling: Tiling, scale: int = 1) -> DeviceTiling:
    rows, columns = ([axis.region(index) for index in range(len(axis.starts))] for axis in (tiling.rows, tiling.columns))
    return DeviceTiling(device, rows, columns, window=tiling.window, scale=scale)


def gathered(device: Device, tiling: Tiling, frames: Array, dtype: str = "float32") -> Array:
    tiles = device.empty((len(frames) * len(tiling), frames.shape[3], *tiling.window), dtype)
    on(device, tiling).gather(device.array(frames), tiles)
    return np.array(tiles.numpy())


def scattered(
    device: Device, tiling: Tiling, tiles: Array, scale: int, size: tuple[int, int] | None = None, dtype: str = "uint8"
) -> Array:
    height, width = size or (tiling.rows.size * scale, tiling.columns.size * scale)
    frames = device.empty((len(tiles) // len(tiling), height, width, tiles.shape[1]), dtype)
    on(device, tiling, scale).scatter(device.array(tiles), frames)
    return np.array(frames.numpy())


def reference_tiles(tiling: Tiling, frames: Array, dtype: str) -> Array:
    tall, wide = tiling.window
    missing = (tiling.rows.size - frames.shape[1], tiling.columns.size - frames.shape[2])
    padded = np.pad(frames, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    windows = [
        frame[row.start : row.start + tall, column.start : column.start + wide].transpose(2, 0, 1)
        for frame in padded
        for row, column in tiling
    ]
    return (np.stack(windows) * np.float32(1 / 255 if frames.dtype == np.uint8 else 1)).astype(dtype)


def sources(axis: Axis, scale: int) -> tuple[Array, Array, Array, Array, Array]:
    """For each output coordinate: its tile and where in it, the tile that fades out and where in it, and the weight."""
    regions = [axis.region(index) for index in range(len(axis.starts))]
    found = []
    for place in range(axis.size * scale):
        tile = max(index for index, region in enumerate(regions) if region.fade_from * scale <= place)
        region, before = regions[tile], regions[max(tile - 1, 0)]
        length = (region.solid_from - region.fade_from) * scale
        step = place - region.fade_from * scale
        weight = (np.float32(step) + np.float32(0.5)) / np.float32(length) if step < length else np.float32(1)
        old = max(tile - 1, 0) if step < length else tile
        start = before.start if step < length else region.start
        found.append((tile, place - region.start * scale, old, place - start * scale, weight))
    tile, inside, old, inside_old, weight = map(np.array, zip(*found, strict=True))
    return tile, inside, old, inside_old, weight.astype(np.float32)


def levels_of(tiles: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.round(tiles.astype(np.float32) * np.float32(255))
    return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0), 0, 255)


def reference_frames(tiling: Tiling, tiles: Array, scale: int, dtype: str = "uint8") -> Array:
    levels = levels_of(tiles) if dtype == "uint8" else tiles.astype(np.float32)
    settle = np.round if dtype == "uint8" else np.asarray
    across = len(tiling.columns.starts)
    row, y, row_above, y_above, down = sources(tiling.rows, scale)
    column, x, column_left, x_left, right = sources(tiling.columns, scale)
    frames = []
    for first in range(0, len(tiles), len(tiling)):
        picked = levels[first : first + len(tiling)].transpose(0, 2, 3, 1)

        def line(rows: Array, ys: Array, picked: Array = picked) -> Array:
            left = picked[rows[:, None] * across + column_left, ys[:, None], x_left]
            here = picked[rows[:, None] * across + column, ys[:, None], x]
            return settle(left + right[None, :, None] * (here - left))

        above, here = line(row_above, y_above), line(row, y)
        frames.append(settle(above + down[:, None, None] * (here - above)).astype(dtype))
    return np.stack(frames)


@st.composite
def tilings(draw: st.DrawFn) -> Tiling:
    multiple = draw(st.sampled_from([1, 2]))
    height, width = (draw(st.integers(1, 70 // multiple)) * multiple for _ in range(2))
    tile, halo = draw(st.sampled_from([0, 5, 8, 13])), draw(st.integers(0, 6))
    return plan_tiles(height, width, tile=tile, halo=halo, blend=draw(st.booleans()), multiple=multiple)


BLENDED = plan_tiles(61, 75, tile=9, halo=5, blend=True)
CUT = plan_tiles(61, 75, tile=9, halo=5, blend=False)
WHOLE = plan_tiles(1, 1, tile=0, halo=3, blend=True)


def test_the_fixed_tilings_have_seams_and_cuts_in_both_directions() -> None:
    for axis in (BLENDED.rows, BLENDED.columns):
        assert len(axis.seams) > 1 and all(last > first for first, last in axis.seams)
    assert all(first == last for first, last in (*CUT.rows.seams, *CUT.columns.seams)) and CUT.rows.seams
    assert len(WHOLE) == 1


@settings(max_examples=60, deadline=None)
@given(tiling=tilings(), count=st.integers(1, 2), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_tiles_equal_numpy(device: Device, dtype: str, tiling: Tiling, count: int, channels: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(
        0, 256, (count, tiling.rows.size, tiling.columns.size, channels), dtype=np.uint8
    )
    np.testing.assert_array_equal(gathered(device, tiling, frames, dtype), reference_tiles(tiling, frames, dtype))


@settings(max_examples=60, deadline=None)
@given(
    tiling=tilings(),
    count=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    scale=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scattered_frames_equal_numpy(
    device: Device, dtype: str, tiling: Tiling, count: int, channels: int, scale: int, seed: int
) -> None:
    tall, wide = tiling.window
    shape = (count * len(tiling), channels, tall * scale, wide * scale)
    tiles = np.random.default_rng(seed).uniform(-0.2, 1.2, shape).astype(dtype)
    np.testing.assert_array_equal(scattered(device, tiling, tiles, scale), reference_frames(tiling, tiles, scale))


FLOAT_FORMS = pytest.mark.parametrize(("frames_of", "tiles_of"), list(itertools.product(DTYPES, DTYPES)))


@settings(max_examples=30, deadline=None)
@given(tiling=tilings(), count=st.integers(1, 2), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@FLOAT_FORMS
def test_tiles_of_floats_equal_numpy(
    device: Device, frames_of: str, tiles_of: str, tiling: Tiling, count: int, channels: int, seed: int
) -> None:
    """Frames are views of (N,C,H,W) arrays."""
    planar = np.random.default_rng(seed).normal(0.5, 0.5, (count, channels, tiling.rows.size, tiling.columns.size))
    frames = planar.astype(frames_of).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(gathered(device, tiling, frames, tiles_of), reference_tiles(tiling, frames, tiles_of))


@settings(max_examples=30, deadline=None)
@given(
    tiling=tilings(),
    count=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    scale=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@FLOAT_FORMS
def test_frames_of_floats_equal_numpy(
    device: Device, frames_of: str, tiles_of: str, tiling: Tiling, count: int, channels: int, scale: int, seed: int
) -> None:
    shape = (count * len(tiling), channels, *(side * scale for side in tiling.window))
    tiles = np.random.default_rng(seed).normal(0.5, 2, shape).astype(tiles_of)
    got = scattered(device, tiling, tiles, scale, dtype=frames_of)
    np.testing.assert_array_equal(got, reference_frames(tiling, tiles, scale, frames_of))


@pytest.mark.parametrize("tiling", [BLENDED, CUT, WHOLE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_are_scattered_into_a_planar_array(device: Device, tiling: Tiling, dtype: str) -> None:
    planar = np.random.default_rng(7).normal(0.5, 2, (2, 3, tiling.rows.size, tiling.columns.size)).astype(dtype)
    tiles = gathered(device, tiling, planar.transpose(0, 2, 3, 1), dtype)
    result = device.empty(planar.shape, dtype)
    on(device, tiling).scatter(device.array(tiles), result.transpose((0, 2, 3, 1)))
    np.testing.assert_array_equal(result.numpy(), planar)


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_that_are_no_colors_stay_what_they_are(device: Device, dtype: str) -> None:
    values = np.array([np.nan, np.inf, -np.inf, -3.5, 2.25], dtype).reshape(1, 1, 1, 5)
    result = scattered(device, plan_tiles(1, 5, tile=0, halo=0, blend=False), values, 1, dtype=dtype)
    np.testing.assert_array_equal(result.ravel(), values.ravel())


@pytest.mark.parametrize("tiling", [BLENDED, CUT, WHOLE])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathering_and_scattering_is_the_identity(device: Device, tiling: Tiling, dtype: str) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (2, tiling.rows.size, tiling.columns.size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(scattered(device, tiling, gathered(device, tiling, frames, dtype), 1), frames)


@pytest.mark.parametrize("tiling", [BLENDED, CUT, WHOLE])
def test_bytes_of_the_pixel_form_come_and_go_as_they_are(device: Device, tiling: Tiling) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (2, tiling.rows.size, tiling.columns.size, 3), dtype=np.uint8)
    pixels = device.empty((2 * len(tiling), *tiling.window, 3), "uint8")
    on(device, tiling).gather(device.array(frames), pixels)
    planar = gathered(device, tiling, frames)
    np.testing.assert_array_equal(pixels.numpy(), np.round(planar * 255).transpose(0, 2, 3, 1))
    noise = np.random.default_rng(6).integers(0, 256, pixels.shape, dtype=np.uint8)
    result = device.empty(frames.shape, "uint8")
    on(device, tiling).scatter(device.array(noise), result)
    expected = scattered(device, tiling, noise.transpose(0, 3, 1, 2) / np.float32(255), 1)
    np.testing.assert_array_equal(result.numpy(), expected)


def test_every_level_survives_and_halves_go_to_the_even_neighbor(device: Device) -> None:
    tiling = plan_tiles(1, 256, tile=0, halo=0, blend=False)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
    for dtype in DTYPES:
        np.testing.assert_array_equal(scattered(device, tiling, gathered(device, tiling, levels, dtype), 1), levels)
    halves = np.array([0.5, 1.5, 2.5, 253.5, 254.5, 255.5, -0.5, -7, 300], np.float32)
    values = np.array([value / np.float32(255) for value in halves], np.float32)
    exact = values * np.float32(255) == halves
    assert exact.sum() >= 6
    tiles = values.reshape(1, 1, 1, -1)
    result = scattered(device, plan_tiles(1, len(values), tile=0, halo=0, blend=False), tiles, 1).ravel()
    expected = np.array([0, 2, 2, 254, 254, 255, 0, 0, 255])
    np.testing.assert_array_equal(result[exact], expected[exact])


def test_not_a_number_becomes_black_and_infinity_is_clamped(device: Device) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32).reshape(1, 1, 1, 4)
    result = scattered(device, plan_tiles(1, 4, tile=0, halo=0, blend=False), values, 1)
    assert result.ravel().tolist() == [0, 255, 0, 255]


def test_smaller_frames_are_extended_and_cropped(device: Device) -> None:
    tiling = plan_tiles(40, 44, tile=9, halo=5, blend=True)
    frames = np.random.default_rng(2).integers(0, 256, (1, 37, 41, 3), dtype=np.uint8)
    tiles = gathered(device, tiling, frames)
    np.testing.assert_array_equal(tiles, reference_tiles(tiling, frames, "float32"))
    large = tiles.repeat(2, axis=2).repeat(2, axis=3)
    expected = frames.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(scattered(device, tiling, large, 2, size=(74, 82)), expected)


def test_slices_of_a_larger_array_are_read_and_written(device: Device) -> None:
    wide = np.random.default_rng(3).integers(0, 256, (1, BLENDED.rows.size, 200, 3), dtype=np.uint8)
    part = wide[:, :, 100:175]
    np.testing.assert_array_equal(gathered(device, BLENDED, part), reference_tiles(BLENDED, part, "float32"))


def upscaled_windows(tiling: Tiling, windows: Array, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    """What `Upscaler` puts together of these results of the network, at scale 2."""
    results = iter(windows)
    with Upscaler(save(image_graph(scale=2), folder)) as upscale:
        monkeypatch.setattr(upscale._windows, "run", lambda *_, **__: (next(results), "good"))
        return upscale._run(np.zeros((tiling.rows.size, tiling.columns.size, 3), windows.dtype), tiling, None)


@pytest.mark.parametrize("tiling", [BLENDED, CUT])
def test_seams_are_those_of_the_upscaler(
    device: Device, tiling: Tiling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tall, wide = tiling.window
    levels = np.random.default_rng(4).integers(0, 256, (len(tiling), tall * 2, wide * 2, 3), dtype=np.uint8)
    expected = upscaled_windows(tiling, levels, tmp_path, monkeypatch)
    for dtype in DTYPES:
        tiles = (levels.transpose(0, 3, 1, 2) / np.float32(255)).astype(dtype)
        np.testing.assert_array_equal(scattered(device, tiling, tiles, 2)[0], expected)


@pytest.mark.parametrize("tiling", [BLENDED, CUT])
def test_seams_of_floats_are_those_of_the_upscaler(
    device: Device, tiling: Tiling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tall, wide = tiling.window
    windows = np.random.default_rng(8).random((len(tiling), tall * 2, wide * 2, 3), dtype=np.float32)
    expected = upscaled_windows(tiling, windows, tmp_path, monkeypatch)
    got = scattered(device, tiling, np.ascontiguousarray(windows.transpose(0, 3, 1, 2)), 2, dtype="float32")
    np.testing.assert_array_equal(got[0], expected)


def pixel_shuffled(planes: Array, block: int) -> Array:
    """By ONNX's own evaluator, as networks end."""
    node = helper.make_node("DepthToSpace", ["planes"], ["tiles"], blocksize=block, mode="CRD")
    kind = helper.np_dtype_to_tensor_dtype(planes.dtype)
    ports = [[helper.make_tensor_value_info(name, kind, [None] * 4)] for name in ("planes", "tiles")]
    model = helper.make_model(helper.make_graph([node], "shuffle", *ports))
    (tiles,) = ReferenceEvaluator(model).run(None, {"planes": planes})
    return np.asarray(tiles)


@settings(max_examples=60, deadline=None)
@given(
    tiling=tilings(),
    count=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    scale_and_block=st.sampled_from([(1, 1), (2, 2), (3, 3), (4, 4), (4, 2), (6, 2)]),
    white=st.sampled_from([None, 255.0]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scattered_planes_equal_a_pixel_shuffle_and_numpy(
    device: Device,
    dtype: str,
    tiling: Tiling,
    count: int,
    channels: int,
    scale_and_block: tuple[int, int],
    white: float | None,
    seed: int,
) -> None:
    scale, block = scale_and_block
    low, wide = (side * scale // block for side in tiling.window)
    shape = (count * len(tiling), channels * block**2, low, wide)
    random = np.random.default_rng(seed)
    planes = (random.uniform(-0.2, 1.2, shape) * (white or 1.0)).astype(dtype)
    planes.ravel()[random.integers(0, planes.size)] = random.choice([np.nan, np.inf, -np.inf])
    tiles = pixel_shuffled(planes, block)
    frames = device.empty((count, tiling.rows.size * scale, tiling.columns.size * scale, channels), "uint8")
    target = on(device, tiling, scale)
    magnitudes = target.magnitudes(len(planes))
    target.scatter(device.array(planes), frames, white=white, magnitudes=magnitudes)
    expected = reference_frames(tiling, level_tiles(tiles) if white else tiles, scale)
    np.testing.assert_array_equal(frames.numpy(), expected)
    np.testing.assert_array_equal(magnitudes.numpy(), reference_magnitudes(tiles, scale))


def level_tiles(tiles: Array) -> Array:
    """Tiles in [0,1] that `levels_of` makes the same whole numbers of as rounding and clamping makes of these in [0,255]."""
    with np.errstate(invalid="ignore"):
        levels = np.clip(np.nan_to_num(np.round(tiles.astype(np.float32)), nan=0.0, posinf=255.0, neginf=0.0), 0, 255)
    return levels / np.float32(255)


def reference_magnitudes(tiles: Array, scale: int) -> Array:
    """Sums of |values| of `scale` rows and all channels, row by row, (T,h,sw)."""
    batch, channels, tall, wide = tiles.shape
    values = np.abs(tiles.astype(np.float32)).reshape(batch, channels, tall // scale, scale, wide)
    ordered = values.transpose(0, 2, 4, 3, 1).reshape(batch, tall // scale, wide, scale * channels)
    return np.add.accumulate(ordered, axis=-1, dtype=np.float32)[..., -1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_health_of_magnitudes_is_the_mean_of_the_planes(device: Device, dtype: str) -> None:
    tiling = plan_tiles(40, 44, tile=9, halo=5, blend=True)
    planes = np.random.default_rng(9).normal(120, 60, (len(tiling), 48, *tiling.window)).astype(dtype)
    bad = (3, 17, *(side - 1 for side in tiling.window))  # a corner in no seam and no share of its tile
    target, frames = on(device, tiling, 4), device.empty((1, 37 * 4, 41 * 4, 3), "uint8")
    magnitudes, meter = target.magnitudes(len(tiling)), HealthMeter(device, len(tiling))
    measure = meter.measuring(Measured(magnitudes, white=255.0, each=12))
    target.scatter(device.array(planes), frames, white=255.0, magnitudes=magnitudes)
    measure(None)
    expected = np.abs(planes.astype(np.float64)).mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(meter.means.numpy(), expected, rtol=1e-5)
    planes[bad] = np.nan
    target.scatter(device.array(planes), frames, white=255.0, magnitudes=magnitudes)
    measure(None)
    assert np.flatnonzero(np.isnan(meter.means.numpy())).tolist() == [bad[0]]


def test_planes_and_magnitudes_of_other_sizes_are_refused(cpu: Device) -> None:
    target, frames = on(cpu, BLENDED, 4), cpu.empty((1, 61 * 4, 75 * 4, 3), "uint8")
    tall, wide = BLENDED.window
    planes = cpu.empty((len(BLENDED), 48, tall, wide), "float16")
    for wrong in (planes[:, :47], planes[:, :12], cpu.empty((len(BLENDED), 12, tall, wide), "float16")):
        with pytest.raises(FeedError, match="expected float16 or float32"):
            target.scatter(wrong, frames)
    with pytest.raises(FeedError, match="planes of smaller tiles"):
        on(cpu, BLENDED).gather(
            cpu.empty((1, 61, 75, 3), "uint8"), cpu.empty((len(BLENDED), 12, tall // 2, wide // 2), "float16")
        )
    with pytest.raises(FeedError, match="expected float32"):
        target.scatter(planes, frames, magnitudes=cpu.empty((len(BLENDED), tall, wide), "float32"))


@pytest.mark.parametrize("size", [(61, 75), (60, 74)])
def test_frames_whose_sides_are_no_multiple_of_the_scale_are_written_to_their_end_and_no_further(
    device: Device, size: tuple[int, int]
) -> None:
    tiling = plan_tiles(31, 38, tile=9, halo=5, blend=True)
    tiles = np.random.default_rng(11).random((len(tiling), 3, *(2 * side for side in tiling.window)), dtype=np.float32)
    wider = device.array(np.full((1, 62, 80, 3), 7, np.uint8))
    on(device, tiling, 2).scatter(device.array(tiles), wider[:, : size[0], : size[1]])
    expected = np.full((1, 62, 80, 3), 7, np.uint8)
    expected[:, : size[0], : size[1]] = reference_frames(tiling, tiles, 2)[:, : size[0], : size[1]]
    np.testing.assert_array_equal(wider.numpy(), expected)


def test_a_command_runs_on_what_its_arrays_hold_now(device: Device) -> None:
    frames = device.array(np.zeros((1, 61, 75, 3), np.uint8))
    tiles = device.empty((len(BLENDED), 3, *BLENDED.window), "float32")
    gather = on(device, BLENDED).gathering(frames, tiles)
    meter = HealthMeter(device, len(BLENDED))
    measure = meter.measuring(Measured(tiles))
    for level in (51, 102):
        device.copy(frames, device.array(np.full(frames.shape, level, np.uint8)))
        stream = device.stream()
        gather(stream)
        measure(stream)
        device.synchronize(stream)
        np.testing.assert_allclose(meter.means.numpy(), level / 255, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_photo_comes_out_as_from_the_upscaler(device: Device, dtype: str, tmp_path: Path, shared: Path) -> None:
    photo = np.ascontiguousarray(read_image(shared / "images/Set5/LR_bicubic/X2/birdx2.png").pixels)
    with Upscaler(save(image_graph(scale=2, noise=0.0), tmp_path), tile=32) as upscale:
        expected = upscale(photo)
        tiling = upscale._plan(*photo.shape[:2])
    np.testing.assert_array_equal(expected, photo.repeat(2, axis=0).repeat(2, axis=1))
    assert len(tiling) > 4
    tiles = gathered(device, tiling, photo[None], dtype).repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(scattered(device, tiling, tiles, 2)[0], expected)


def reference_health(tiles: Array, white: float = 1.0) -> Array:
    values = np.abs(tiles.astype(np.float32)).reshape(len(tiles), -1)
    count = values.shape[1]
    for parts in (16384, 128, 1):
        padded = np.pad(values, ((0, 0), (0, -values.shape[1] % parts))).reshape(len(tiles), -1, parts)
        values = np.add.accumulate(padded, axis=1, dtype=np.float32)[:, -1]
    return values[:, 0] * np.float32(1 / (count * white))


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("dtype", ["uint8", *DTYPES])
def test_health_equals_numpy(device: Device, dtype: str, batch: int, height: int, width: int, channels: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.5, 1.0, (batch, channels, height, width))
    tiles = (100 * np.abs(values)).clip(0, 255).astype(dtype) if dtype == "uint8" else values.astype(dtype)
    meter = HealthMeter(device, batch)
    meter.measure(device.array(tiles))
    health = meter.means.numpy()
    np.testing.assert_array_equal(health, reference_health(tiles))
    np.testing.assert_allclose(health, np.abs(tiles.astype(np.float64)).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_means_of_several_arrays_are_those_of_each(device: Device) -> None:
    random = np.random.default_rng(12)
    levels = random.integers(0, 256, (2, 37, 41, 3), dtype=np.uint8)
    planes = random.normal(0, 100, (3, 12, 37, 41)).astype(np.float16)
    meter = HealthMeter(device, 5)
    meter.measuring(Measured(device.array(levels), white=255.0), Measured(device.array(planes), white=2.0))(None)
    expected = [reference_health(levels, white=255.0), reference_health(planes, white=2.0)]
    np.testing.assert_array_equal(meter.means.numpy(), np.concatenate(expected))
    for wrong in (planes[:2], np.concatenate([planes, planes[:1]])):
        with pytest.raises(FeedError, match="tiles to measure, expected 5"):
            meter.measuring(Measured(device.array(levels)), Measured(device.array(wrong)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_bad_pixel_makes_the_health_of_its_tile_alone_non_finite(device: Device, dtype: str, bad: float) -> None:
    meter = HealthMeter(device, 3)
    for place in [(0, 0, 0), (2, 36, 40), (1, 17, 5)]:
        tiles = np.full((3, 3, 37, 41), 0.25, dtype)
        tiles[(1, *place)] = bad
        meter.measure(device.array(tiles))
        assert np.isfinite(meter.means.numpy()).tolist() == [True, False, True]


@pytest.mark.usefixtures("cpu")
def test_warp_greets_nobody() -> None:
    code = "from sr_deploy.device.device import Device; Device('cpu').empty((1, 2), 'uint8')"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == ""


def test_wrong_arrays_and_spans_are_refused(cpu: Device) -> None:
    tiling = on(cpu, BLENDED, 2)
    frames, tiles = cpu.empty((1, 61, 75, 3), "uint8"), cpu.empty((len(BLENDED), 3, *BLENDED.window), "float16")
    for wrong_frames, wrong_tiles in [
        (cpu.empty((1, 62, 75, 3), "uint8"), tiles),
        (cpu.empty((61, 75, 3), "uint8"), tiles),
        (cpu.empty((1, 61, 75, 3), "float32"), cpu.empty((len(BLENDED), *BLENDED.window, 3), "uint8")),
        (frames, cpu.empty((len(BLENDED) - 1, 3, *BLENDED.window), "float16")),
        (frames, cpu.empty((len(BLENDED), 1, *BLENDED.window), "float16")),
        (frames, cpu.empty(tiles.shape, "uint8")),
    ]:
        with pytest.raises(FeedError, match=r"expected|larger"):
            tiling.gather(wrong_frames, wrong_tiles)
    with pytest.raises(FeedError, match="gaps"):
        HealthMeter(cpu, 1).measure(tiles[:1, :, :, :4])
    region = BLENDED.rows.region(0)
    with pytest.raises(UsageError, match="do not cover"):
        DeviceTiling(cpu, [region], [region], window=BLENDED.window, scale=2)


def test_arrays_of_the_host_are_not_copied_on_the_cpu(cpu: Device) -> None:
    source = np.arange(12, dtype=np.float16).reshape(3, 4)
    array = cpu.array(source)
    assert array.ptr == source.ctypes.data and cpu.array(array) is array
    pointer, gone = array.ptr, weakref.ref(source)
    del source
    gc.collect()
    assert gone() is not None and array.ptr == pointer
    np.testing.assert_array_equal(array.numpy(), np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(np.from_dlpack(array), array.numpy())
    target = cpu.host((3, 4), "float16")
    cpu.copy(target, array, stream=cpu.stream())
    np.testing.assert_array_equal(target.numpy(), array.numpy())
    with pytest.raises(FeedError, match="one shape and dtype"):
        cpu.copy(cpu.empty((4, 3), "float16"), array)


@pytest.mark.parametrize("source", [object(), "text", np.zeros(3, np.float64), np.zeros(3, ">f4"), [[1.5], [2.5, 3.5]]])
def test_what_is_no_array_of_pixels_is_refused(cpu: Device, source: object) -> None:
    with pytest.raises(FeedError, match="expected uint8, float16 or float32"):
        cpu.array(source)


def test_dlpack_of_another_library_is_read(cpu: Device) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    array = cpu.array(tensor)
    assert array.ptr == tensor.data_ptr()
    np.testing.assert_array_equal(array.numpy(), tensor.numpy())


class OnGPU:
    """Carries the interface as PyCUDA's GPUArray and torch's tensors do; its memory is the host's."""

    def __init__(self, memory: Array, **more: Any) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": memory.shape,
            "typestr": memory.dtype.str,
            "data": (memory.ctypes.data, False),
            "version": 3,
            **more,
        }


def test_the_cuda_array_interface_is_read() -> None:
    memory = np.zeros((4, 6, 3), np.uint8)
    read = read_interface(OnGPU(memory).__cuda_array_interface__)
    assert (read.pointer, read.shape, read.strides) == (memory.ctypes.data, (4, 6, 3), (18, 3, 1))
    assert (read.dtype, read.stream) == (np.uint8, None)
    part = memory[:, ::2]
    read = read_interface(OnGPU(part, strides=part.strides, stream=7).__cuda_array_interface__)
    assert (read.strides, read.stream) == ((18, 6, 1), 7)


@pytest.mark.usefixtures("cpu")
def test_a_view_of_foreign_memory_keeps_its_owner_alive() -> None:
    source = OnGPU(np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2])
    interface = {**source.__cuda_array_interface__, "strides": source.memory.strides}
    array = read_interface(interface).view(load_warp(), "cpu", keep=source)
    gone = weakref.ref(source)
    del source
    gc.collect()
    assert gone() is not None
    np.testing.assert_array_equal(array.numpy(), np.arange(24).reshape(4, 6)[:, ::2])
    del array
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "more",
    [
        {"typestr": "<f8"},
        {"typestr": ">f2"},
        {"typestr": "nonsense"},
        {"mask": object()},
        {"data": (0, False)},
        {"data": None},
        {"shape": (0, 3)},
        {"strides": (3,)},
    ],
)
def test_an_interface_that_is_not_whole_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(FeedError, match="expected uint8"):
        read_interface(OnGPU(np.zeros((2, 3), np.uint8), **more).__cuda_array_interface__)
    with pytest.raises(FeedError, match="KeyError"):
        read_interface({})


def test_memory_of_a_gpu_is_never_read_on_the_cpu(cpu: Device) -> None:
    with pytest.raises(FeedError, match="lies on a GPU"):
        cpu.array(OnGPU(np.zeros((2, 3), np.uint8)))
    with pytest.raises(FeedError, match="lies on a GPU"):
        cpu.array(SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=lambda **_: None))


def test_memory_of_a_gpu_is_read_after_its_producer(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: who waits for whom, and nothing more."""
    warp = load_warp()
    assert callable(warp.Stream.wait_stream) and callable(warp.synchronize_stream)
    waited_for: list[int | None] = []
    caller = SimpleNamespace(wait_stream=waited_for.append)
    monkeypatch.setattr(warp, "Stream", lambda _, cuda_stream=None: cuda_stream)
    monkeypatch.setattr(Device, "is_gpu", True)
    source = OnGPU(np.arange(6, dtype=np.uint8).reshape(2, 3), stream=7)
    array = cpu.array(source, stream=caller)
    assert waited_for == [7] and array.ptr == source.memory.ctypes.data
    cpu.array(OnGPU(source.memory), stream=caller)
    assert waited_for == [7, 1]  # the legacy default stream, where a producer that names none has been


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_arrays_begin_where_tensorrt_wants_them(device: Device, dtype: str) -> None:
    arrays = [device.empty((side, 3, 5), dtype) for side in range(1, 20)]
    assert all(array.ptr % 256 == 0 and array.shape == (side, 3, 5) for side, array in enumerate(arrays, start=1))
    assert all(array.dtype.__name__ == dtype and array.is_contiguous for array in arrays)


def test_failures_of_warp_become_ours(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to allocate 12 bytes on device 'cuda:0'")

    monkeypatch.setattr(load_warp(), "empty", fail)
    with pytest.raises(OutOfMemoryError, match="smaller tiles"):
        cpu.host((3, 4), "uint8")
    with pytest.raises(OutOfMemoryError, match="smaller tiles"):
        cpu.empty((1 << 30, 1 << 30), "uint8")
    from sr_deploy.device import tiling_kernels as kernels

    with pytest.raises(EngineError, match="NVIDIA Warp"):
        cpu.launch(kernels.gather, (1, 1, 1), [])


def test_without_warp_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "sr-deploy\[gpu\]"'):
        load_warp.__wrapped__()


@pytest.mark.usefixtures("cpu")
def test_without_a_gpu_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found() -> None:
        raise BackendUnavailableError("no NVIDIA driver on this machine")

    monkeypatch.setattr(device_module, "find_gpus", none_found)
    with pytest.raises(BackendUnavailableError, match="no NVIDIA driver"):
        Device()
    monkeypatch.setattr(device_module, "find_gpus", lambda: ())
    with pytest.raises(BackendUnavailableError, match=r"no device 'cuda:99' here; there are: cpu"):
        Device("cuda:99")
