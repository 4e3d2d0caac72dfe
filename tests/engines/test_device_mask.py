"""Selection, crops and pasting of patches against numpy, bit for bit; on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.bundle import Masked
from sr_deploy.engines.device import Device, compile_kernels
from sr_deploy.engines.device_mask import PatchBatch, PatchSelector
from sr_deploy.engines.gpu import find_gpus
from sr_deploy.errors import BackendUnavailableError, FeedError

Array = np.ndarray[Any, np.dtype[Any]]


def devices() -> list[str]:
    try:
        return ["cpu", "cuda:0"] if find_gpus() else ["cpu"]
    except BackendUnavailableError:
        return ["cpu"]


@pytest.fixture(scope="module", params=devices())
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield Device(request.param)


def stably_best(scores: Array, wanted: int) -> list[int]:
    """By sorting: the highest first, of equal ones the earlier, NaN not at all."""
    order = [index for index in np.argsort(-scores, kind="stable").tolist() if not np.isnan(scores[index])]
    return sorted(order[:wanted])


def selected(selector: PatchSelector) -> list[int]:
    count = int(selector.count.numpy()[0])
    numbers = selector.chosen.numpy().tolist()
    assert numbers[count:] == [-1] * (len(numbers) - count)
    return [int(number) for number in numbers[:count]]


few_values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan])
scores = st.one_of(
    arrays.arrays(np.float32, st.integers(1, 700), elements=st.floats(width=32)),
    arrays.arrays(np.float32, st.integers(1, 300), elements=few_values),
)


@given(scores=scores, share=st.floats(0, 1.2))
@settings(max_examples=60)
def test_the_highest_scores_are_selected_and_the_earlier_of_equal_ones(device: Device, scores: Array, share: float) -> None:
    wanted = round(share * scores.size)
    selector = PatchSelector(device, scores.size, batch=32)
    for _ in range(2):
        selector.take(device.array(scores), wanted)
        assert selected(selector) == stably_best(scores, wanted)


@given(scores=scores, threshold=st.one_of(st.floats(width=32, allow_nan=False), few_values.filter(lambda x: x == x)))
@settings(max_examples=40)
def test_a_threshold_selects_what_reaches_it(device: Device, scores: Array, threshold: float) -> None:
    selector = PatchSelector(device, scores.size)
    selector.take_from(device.array(scores), threshold)
    assert selected(selector) == np.flatnonzero(scores >= np.float32(threshold)).tolist()


def test_many_equal_scores_in_many_parts(device: Device) -> None:
    scores = np.random.default_rng(1).integers(0, 3, 5000).astype(np.float32)
    selector = PatchSelector(device, scores.size)
    for wanted in (0, 1, 1700, 4999, 5000):
        selector.take(device.array(scores), wanted)
        assert selected(selector) == stably_best(scores, wanted)


@given(rows=st.integers(1, 5), columns=st.integers(1, 6), padding=st.integers(0, 3), data=st.data())
@settings(max_examples=30)
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float16", "float16"), ("float16", "float32")])
def test_crops_are_zero_beyond_the_image(
    device: Device, dtypes: tuple[str, str], rows: int, columns: int, padding: int, data: st.DataObject
) -> None:
    masked, batch = Masked(4, padding, 3), 4
    features = np.random.default_rng(2).normal(size=(3, 4 * rows, 4 * columns)).astype(dtypes[0])
    numbers = sorted(data.draw(st.sets(st.integers(0, rows * columns - 1), max_size=batch)))
    chosen = np.array(numbers + [-1] * (batch - len(numbers)), np.int32)
    crops = device.empty((batch, 3, masked.side, masked.side), dtypes[1])
    PatchBatch(device, device.array(chosen), 0, columns).crop(device.array(features), masked, crops)
    padded = np.pad(features, ((0, 0), (padding, padding), (padding, padding)))
    expected = np.zeros(crops.shape, dtypes[1])
    for index, number in enumerate(numbers):
        top, left = 4 * (number // columns), 4 * (number % columns)
        expected[index] = padded[:, top : top + masked.side, left : left + masked.side]
    np.testing.assert_array_equal(crops.numpy(), expected)


@pytest.mark.parametrize("bad", [(), (1,), (0, 3)])
def test_sane_patches_replace_their_place_and_others_do_not(device: Device, bad: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    frame = random.integers(0, 255, (24, 32, 3), np.uint8)
    pixels = random.integers(0, 255, (4, 8, 8, 3), np.uint8)
    numbers = [1, 2, 7, 11]
    expected = frame.copy()
    sane = np.empty(4, np.float32)
    for index, number in enumerate(numbers):
        place = np.s_[8 * (number // 4) : 8 * (number // 4) + 8, 8 * (number % 4) : 8 * (number % 4) + 8]
        sane[index] = frame[place].mean() / 255 if index not in bad else random.choice([np.nan, np.inf, 3.0])
        if index not in bad:
            expected[place] = pixels[index]
    batch = PatchBatch(device, device.array(np.array([0, 0, *numbers], np.int32)), 2, 4)
    good, health = device.empty((4,), "int32"), device.array(np.array([0.4], np.float32))
    on_device = device.array(frame.copy())
    batch.judge(device.array(sane), on_device, 8, good, health)
    batch.paste(device.array(pixels), good, on_device)
    np.testing.assert_array_equal(on_device.numpy(), expected)
    assert np.isnan(health.numpy()[0]) == bool(bad)


def test_wrong_arrays_are_refused(device: Device) -> None:
    selector = PatchSelector(device, 9)
    with pytest.raises(FeedError, match="no scores"):
        selector.take(device.empty((8,), "float32"), 3)
    batch = PatchBatch(device, selector.chosen, 6, 3)
    with pytest.raises(FeedError, match="beyond"):
        batch.paste(device.empty((4, 2, 2, 3), "uint8"), device.empty((4,), "int32"), device.empty((6, 6, 3), "uint8"))
    with pytest.raises(FeedError, match="crops"):
        batch.crop(device.empty((3, 12, 12), "float32"), Masked(4, 1, 3), device.empty((3, 2, 6, 6), "float32"))


def test_the_kernels_compile_ahead_of_time_without_a_gpu(tmp_path: Path) -> None:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    cubins = compile_kernels(["7.5", "12.0"], tmp_path, module="mask_kernels")
    assert all(b"paste_patches" in cubin.read_bytes() for cubin in cubins)
