"""Selection, crops and pasting of patches against numpy, bit for bit; on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sr_deploy.card import Masked
from sr_deploy.device.device import Device
from sr_deploy.device.gpu import find_gpus
from sr_deploy.device.health import are_healthy
from sr_deploy.device.patches import PatchBatch, PatchSelector
from sr_deploy.errors import BackendUnavailableError, FeedError

Array = np.ndarray[Any, np.dtype[Any]]


def devices() -> list[str]:
    try:
        return ["cpu", "cuda:0"] if find_gpus() else ["cpu"]
    except BackendUnavailableError:
        return ["cpu"]


@pytest.fixture(scope="module")
def warp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield importlib.import_module("warp")


@pytest.fixture(scope="module", params=devices())
def device(request: pytest.FixtureRequest, warp: Any) -> Device:
    del warp
    return Device(request.param)


@pytest.fixture
def blocks(warp: Any, monkeypatch: pytest.MonkeyPatch) -> Device:
    """The CPU device with blocks of as many threads as on a GPU, which take turns at every barrier."""
    monkeypatch.setattr(warp.config, "enable_cpu_blocks", True)
    return Device("cpu")


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
    selector = PatchSelector(device, scores.size, room=scores.size + 5)
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


BAD = (np.nan, np.inf, -np.inf, 3.0, -1.0)


def check_pasting(device: Device, bad: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    frame = random.integers(0, 255, (24, 32, 3), np.uint8)
    pixels = random.integers(0, 255, (5, 8, 8, 3), np.uint8)
    numbers = [1, 7, 2, 11]
    expected = frame.copy()
    sane = np.empty(5, np.float32)
    for index, number in enumerate(numbers):
        place = np.s_[8 * (number // 4) : 8 * (number // 4) + 8, 8 * (number % 4) : 8 * (number % 4) + 8]
        sane[index] = frame[place].mean() / 255 if index not in bad else random.choice(BAD)
        if index not in bad:
            expected[place] = pixels[index]
    sane[4] = np.nan
    batch = PatchBatch(device, device.array(np.array([0, 0, *numbers, -1], np.int32)), 2, 4)
    health, on_device = device.array(np.array([0.4], np.float32)), device.array(frame.copy())
    batch.paste(device.array(pixels), device.array(sane), on_device, health)
    np.testing.assert_array_equal(on_device.numpy(), expected)
    assert np.isnan(health.numpy()[0]) == bool(bad)


@pytest.mark.parametrize("bad", [(), (1,), (0, 3)])
def test_sane_patches_replace_their_place_and_others_do_not(device: Device, bad: tuple[int, ...]) -> None:
    check_pasting(device, bad)


def test_patches_are_judged_as_on_the_host_at_the_very_limits(device: Device) -> None:
    """Around each limit of health, float by float: those that the host takes, and no others, are pasted."""
    random = np.random.default_rng(4)
    steps, brightnesses = 5, 40
    frame = random.integers(0, 255, (2 * steps * 2, 2 * brightnesses, 3), np.uint8)
    places = frame.reshape(2 * steps, 2, brightnesses, 2, 3).transpose(0, 2, 1, 3, 4)
    places[:] = places[:1]
    light = places.reshape(2 * steps, brightnesses, -1).mean(axis=2, dtype=np.float64) / 255
    limits = np.where(np.arange(2 * steps)[:, None] < steps, 0.5 * light - 0.05, 1.5 * light + 0.25)
    health = (limits.astype(np.float32).view(np.int32) + (np.arange(2 * steps) % steps - steps // 2)[:, None]).astype(np.int32)
    health = health.view(np.float32)
    good = are_healthy(health.astype(np.float64), light)
    assert good.any(axis=0).all() and not good.all(axis=0).any()
    count = good.size
    batch = PatchBatch(device, device.array(np.arange(count, dtype=np.int32)), 0, brightnesses)
    on_device, whole = device.array(frame.copy()), device.array(np.zeros(1, np.float32))
    batch.paste(device.array(np.full((count, 2, 2, 3), 255, np.uint8)), device.array(health.ravel()), on_device, whole)
    pasted = (on_device.numpy().reshape(2 * steps, 2, brightnesses, 2, 3) == 255).all(axis=(1, 3, 4))
    np.testing.assert_array_equal(pasted, good)


@pytest.mark.parametrize("patches", [1, 1023, 9001])
def test_blocks_of_many_threads_compute_the_same(blocks: Device, patches: int) -> None:
    random = np.random.default_rng(patches)
    for scores in (random.normal(size=patches), random.integers(-1, 2, patches), np.full(patches, np.nan)):
        scores = scores.astype(np.float32)
        scores[random.random(patches) < 0.1] = np.nan
        selector = PatchSelector(blocks, patches, room=patches + 3)
        for wanted in (0, 1, patches // 3, patches):
            selector.take(blocks.array(scores), wanted)
            assert selected(selector) == stably_best(scores, wanted)
        selector.take_from(blocks.array(scores), 0.0)
        assert selected(selector) == np.flatnonzero(scores >= 0).tolist()
    check_pasting(blocks, (2,))


def test_a_million_scores(device: Device) -> None:
    scores = np.random.default_rng(6).normal(size=1 << 20).astype(np.float32)
    scores[::3] = 0.5
    selector = PatchSelector(device, scores.size)
    for wanted in (200_000, 500_000):
        selector.take(device.array(scores), wanted)
        assert selected(selector) == stably_best(scores, wanted)


def test_wrong_arrays_are_refused(device: Device) -> None:
    selector = PatchSelector(device, 9)
    with pytest.raises(FeedError, match="no scores"):
        selector.take(device.empty((8,), "float32"), 3)
    with pytest.raises(FeedError, match="room"):
        PatchSelector(device, 9, room=4).take(device.empty((9,), "float32"), 5)
    with pytest.raises(FeedError, match="room"):
        PatchSelector(device, 9, room=8).take_from(device.empty((9,), "float32"), 0.5)
    batch = PatchBatch(device, selector.chosen, 6, 3)
    frame, health = device.empty((6, 6, 3), "uint8"), device.empty((1,), "float32")
    with pytest.raises(FeedError, match="beyond"):
        batch.paste(device.empty((4, 2, 2, 3), "uint8"), device.empty((4,), "float32"), frame, health)
    with pytest.raises(FeedError, match="suit"):
        batch.paste(device.empty((2, 2, 2, 3), "uint8"), device.empty((3,), "float32"), frame, health)
    with pytest.raises(FeedError, match="crops"):
        batch.crop(device.empty((3, 12, 12), "float32"), Masked(4, 1, 3), device.empty((3, 2, 6, 6), "float32"))
