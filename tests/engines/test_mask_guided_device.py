"""A mask-guided network on Warp's CPU device, as one engine: what it computes, in how many runs and contexts."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.card import Masked
from sr_deploy.device.device import Device
from sr_deploy.engines.engine import TensorSpec
from sr_deploy.engines.function import DeviceFunctionEngine, FunctionEngine
from sr_deploy.engines.mask_guided import Amount, MaskGuidedEngine
from sr_deploy.engines.mask_guided_device import DeviceMaskGuidedEngine, refine_runs, stepped
from sr_deploy.engines.pixels import FEATURES, HEALTH, INPUT, OUTPUT, PATCHES, SCORES
from tests.counting import counted_calls
from tests.device.test_patches import devices

Array = np.ndarray[Any, np.dtype[Any]]
Limits = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

MASKED, SCALE = Masked(4, 1, 3), 4
FLOATS, BYTES = np.dtype(np.float32), np.dtype(np.uint8)
IMAGE = TensorSpec(OUTPUT, BYTES, (-1, -1, -1, 3)), TensorSpec(HEALTH, FLOATS, (-1,))
BESIDE = TensorSpec(FEATURES, FLOATS, (-1, 3, -1, -1)), TensorSpec(SCORES, FLOATS, (-1, 1, -1, -1))
FRAMES, CROPS = TensorSpec(INPUT, BYTES, (-1, -1, -1, 3)), TensorSpec(PATCHES, FLOATS, (-1, 3, 6, 6))


@pytest.fixture(scope="module", autouse=True)
def _warp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield


def larger(pixels: Array) -> Array:
    return pixels.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def look(pixels: Array) -> tuple[Array, ...]:
    """Every pixel larger; scores are the red of each patch's first pixel, of which 3 stands for NaN."""
    scores = pixels[:, ::4, ::4, 0].astype(np.float32)[:, None]
    health = pixels.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255
    features = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    return larger(pixels), health, features, np.where(scores == 3, np.float32(np.nan), scores)


def refine(patches: Array) -> tuple[Array, ...]:
    """A little brighter than what lies below, and by what lies around."""
    around = np.abs(patches).sum(axis=(1, 2, 3)) % 7
    inner = patches[:, :, 1:5, 1:5].transpose(0, 2, 3, 1) + 1 + around[:, None, None, None]
    pixels = larger(np.clip(inner, 0, 255).astype(np.uint8))
    return pixels, pixels.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32) / 255


def on_device(
    amount: Amount, *, name: str = "cpu", contexts: int = 1, limits: Limits | None = None
) -> tuple[DeviceMaskGuidedEngine, list[int]]:
    """The engine, and how many patches each run of its refine network had."""
    runs: list[int] = []

    def counting(patches: Array) -> tuple[Array, ...]:
        runs.append(len(patches))
        return refine(patches)

    device = Device(name)
    base = DeviceFunctionEngine(look, [FRAMES], [*IMAGE, *BESIDE], device=device, contexts=contexts)
    finer = DeviceFunctionEngine(counting, [CROPS], IMAGE, device=device, contexts=contexts, limits=limits)
    return DeviceMaskGuidedEngine(base, finer, MASKED, amount), runs


def enqueued(engine: DeviceMaskGuidedEngine, pixels: Array, context: int = 0) -> Array:
    device, (_, height, width, channels) = engine.device, pixels.shape
    large = device.empty((1, SCALE * height, SCALE * width, channels), np.uint8)
    health = device.empty((1,), np.float32)
    engine.enqueue({INPUT: device.array(pixels), OUTPUT: large, HEALTH: health}, context=context)
    assert np.isfinite(health.numpy()).all()
    return np.array(large.numpy())


def on_host(amount: Amount, pixels: Array) -> Array:
    base = FunctionEngine(look, [FRAMES], [*IMAGE, *BESIDE])
    with MaskGuidedEngine(base, FunctionEngine(refine, [CROPS], IMAGE), MASKED, amount) as engine:
        return engine.run({INPUT: pixels})[OUTPUT]


def picture(height: int, width: int, levels: int = 200, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(0, levels, (1, height, width, 3), np.uint8)


AMOUNTS = [
    *(Amount(count=count) for count in (0, 1, 7, 10_000)),
    *(Amount(ratio=ratio) for ratio in (0.0, 0.2, 1.0)),
    *(Amount(threshold=threshold) for threshold in (-1.0, 2.0, 100.0, 1e9)),
]


@pytest.mark.parametrize("name", devices())
@pytest.mark.parametrize("amount", AMOUNTS, ids=str)
@pytest.mark.parametrize("levels", [200, 5, 1], ids=["few ties", "ties and NaN", "one score"])
@pytest.mark.parametrize("size", [(4, 4), (12, 20), (60, 52), (132, 140)])
def test_pixels_equal_those_of_the_host(size: tuple[int, int], levels: int, amount: Amount, name: str) -> None:
    engine, _ = on_device(amount, name=name)
    for seed in range(2):
        pixels = picture(*size, levels, seed)
        np.testing.assert_array_equal(enqueued(engine, pixels), on_host(amount, pixels))


@pytest.mark.parametrize("amount", AMOUNTS, ids=str)
@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 7), (3, 40), (64, 64), (1, 5000)])
def test_engines_with_limits_refine_in_as_few_runs_as_they_allow(amount: Amount, least: int, most: int) -> None:
    limits = {PATCHES: ((least, 3, 6, 6), (most, 3, 6, 6))}
    engine, runs = on_device(amount, limits=limits)
    pixels = picture(48, 60)
    np.testing.assert_array_equal(enqueued(engine, pixels), on_host(amount, pixels))
    wanted = amount.of(12 * 15)
    if wanted is not None:
        assert len(runs) == -(-wanted // most)
        assert sum(runs) <= wanted + max(least, len(runs))
    assert len(set(runs)) <= 1


def test_all_patches_are_refined_in_one_run() -> None:
    engine, runs = on_device(Amount(ratio=0.2))
    for _ in range(2):
        enqueued(engine, picture(540, 960))
    assert runs == [6480, 6480]


def test_a_frame_takes_five_launches_and_no_memory_after_the_first() -> None:
    engine, _ = on_device(Amount(ratio=0.2))
    device = engine.device
    large, health = device.empty((1, 2160, 3840, 3), np.uint8), device.empty((1,), np.float32)
    arrays = {INPUT: device.array(picture(540, 960)), OUTPUT: large, HEALTH: health}
    engine.enqueue(arrays)
    with counted_calls() as alone:
        base, finer = engine._engines
        space = engine._workspaces[0]
        assert space is not None
        crops, patches, sane = space.patches(6480)
        base.enqueue({**arrays, FEATURES: space.features, SCORES: space.scores})
        finer.enqueue({PATCHES: crops, OUTPUT: patches, HEALTH: sane})
    with counted_calls() as calls:
        engine.enqueue(arrays)
    assert calls.launches == ["find_least", "count_parts", "write_parts", "crop_patches", "paste_patches"]
    assert calls.copies == alone.copies and calls.waits == alone.waits, "only the engines copy and wait"
    assert calls.allocations == []
    assert engine.capturable


def test_a_threshold_waits_once_and_meets_few_counts() -> None:
    engine, runs = on_device(Amount(threshold=100.0))
    for seed in range(40):
        enqueued(engine, picture(60, 60, seed=seed))
    found = [np.count_nonzero(look(picture(60, 60, seed=seed))[3] >= 100) for seed in range(40)]
    assert all(count <= run <= max(count * 9 / 8, count + 32) for count, run in zip(found, runs, strict=True))
    assert len(set(found)) > 2 * len(set(runs))
    assert not engine.capturable


@given(st.integers(0, 1 << 21))
def test_steps_are_an_eighth_at_most(count: int) -> None:
    assert count <= stepped(count) <= max(count * 9 / 8, count + 31)
    assert stepped(stepped(count)) == stepped(count)


@given(st.integers(0, 3000), st.integers(1, 3000), st.data())
def test_runs_cover_all_patches_within_the_limits(count: int, most: int, data: st.DataObject) -> None:
    least = data.draw(st.integers(1, most))
    engine = DeviceFunctionEngine(refine, [CROPS], IMAGE, limits={PATCHES: ((least, 3, 6, 6), (most, 3, 6, 6))})
    runs, fewer = refine_runs(count, engine), refine_runs(count // 2, engine)
    assert len(runs) == -(-count // most) and len(runs) * runs.step >= count
    assert least <= runs.step <= most
    assert fewer.stop <= runs.stop, "what holds the numbers of many patches holds those of fewer"


@pytest.fixture
def _restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_restless")
def test_many_threads_in_contexts_of_their_own_do_not_disturb_each_other() -> None:
    """Every thread takes a size after the other in its own context; all of them at once, beside many contexts that rest."""
    threads, rounds, contexts = 8, 300, 500
    amount = Amount(ratio=0.3)
    engine, _ = on_device(amount, contexts=contexts)
    pictures = [picture(4 + 4 * index, 16 - 4 * index, seed=index) for index in range(3)]
    expected = [on_host(amount, pixels) for pixels in pictures]
    for context in range(contexts):
        enqueued(engine, pictures[0], context)
    start = threading.Barrier(threads)

    def work(context: int) -> int:
        start.wait()
        numbers = [(number + context) % len(pictures) for number in range(rounds)]
        return sum(np.array_equal(enqueued(engine, pictures[number], context), expected[number]) for number in numbers)

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(work, range(threads))) == [rounds] * threads
