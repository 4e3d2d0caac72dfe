"""Frames over stand-ins for a GPU and for TensorRT, which break what the real ones break."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, to_pixel_form
from sr_deploy.engines.tensorrt.compile import compile_engine
from sr_deploy.engines.tensorrt.engine import TensorRTEngine
from sr_deploy.engines.tensorrt.library import TENSORRT, Library
from sr_deploy.errors import EngineError, warn_once
from sr_deploy.upscaling.gpu.frames import FrameRunner
from sr_deploy.upscaling.tiling import Tiling, plan_tiles
from tests.device.fake_gpu import FakeGPU
from tests.engines.tensorrt.fake_tensorrt import fake_module
from tests.graphs import image_graph

SCALE = 2
LEAST, USUAL, LARGEST = (1, 4, 4, 3), (1, 32, 32, 3), (4, 128, 128, 3)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    pytest.importorskip("warp")
    Device("cpu")
    found = FakeGPU()
    found.install(monkeypatch)
    warn_once.cache_clear()
    return found


@pytest.fixture
def library(gpu: FakeGPU) -> Library:
    found = Library(TENSORRT, fake_module(rtx=False))
    found.module.gpu = gpu
    return found


@pytest.fixture
def engine(library: Library) -> Any:
    form = to_pixel_form(image_graph(scale=SCALE), cast_last=True)
    built = compile_engine(form, library, shapes={INPUT: (LEAST, USUAL, LARGEST)})
    with TensorRTEngine(built.engine, library, Device("cpu")) as opened:
        yield opened


def photo(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(60, 190, (height, width, 3), dtype=np.uint8)


def whole(height: int, width: int) -> Tiling:
    return plan_tiles(height, width, tile=0, halo=0, blend=False)


def runner(engine: Any, tiling: Tiling, **options: Any) -> FrameRunner:
    return FrameRunner([engine], tiling, (tiling.rows.size, tiling.columns.size), scale=SCALE, **options)


def expected(engine: TensorRTEngine, frame: Array) -> Array:
    return engine.run({INPUT: frame[None]})[OUTPUT][0]


def test_a_graph_is_recorded_for_the_second_frame_of_a_size(gpu: FakeGPU, engine: TensorRTEngine) -> None:
    frames = runner(engine, whole(16, 24), slots=1)
    counts = []
    for seed in range(4):
        frame = photo(16, 24, seed)
        large, health = frames.run(frame)
        np.testing.assert_array_equal(large, expected(engine, frame))
        assert health.is_good
        counts.append((gpu.recorded_graphs, gpu.launched_graphs))
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]


@pytest.mark.parametrize(("tile", "batch"), [(17, 1), (17, 3), (14, 2)])
def test_tiles_and_health_begin_where_tensorrt_wants_them(engine: TensorRTEngine, tile: int, batch: int) -> None:
    """The stand-in refuses addresses that are no multiples of 256, and most of these tiles begin at such."""
    tiling = plan_tiles(45, 59, tile=tile, halo=2, blend=False)
    assert len(tiling) > batch and tiling.window[0] * tiling.window[1] * 3 % 256
    frame = photo(45, 59)
    large, health = runner(engine, tiling, batch=batch).run(frame)
    assert health.is_good and health.output.shape == (len(tiling),)
    np.testing.assert_array_equal(large, expected(engine, frame))


def test_a_busy_process_records_and_gets_every_frame_right(
    gpu: FakeGPU, engine: TensorRTEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight threads, four sizes, contexts made on the way, and one that touches the legacy stream without a pause."""
    ended = threading.Event()

    def disturb() -> None:
        while not ended.wait(0.0005):
            gpu.touch_legacy_stream()

    sizes = [(16, 24), (17, 23), (32, 8), (12, 40)]
    wanted = {size: expected(engine, photo(*size)) for size in sizes}

    def work(index: int) -> bool:
        size = sizes[index % len(sizes)]
        own = runner(engine, whole(*size), slots=2)
        return all(np.array_equal(own.run(photo(*size))[0], wanted[size]) for _ in range(4))

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(16)))
    finally:
        ended.set()
        disturber.join()
    assert gpu.recorded_graphs > 0 and caplog.records == []


def test_what_a_failed_run_took_is_lent_again_and_the_stream_is_idle(
    engine: TensorRTEngine, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = runner(engine, whole(16, 24), slots=1)
    good = frames.run(photo(16, 24))[0].copy()
    waited_for: list[Any] = []
    synchronize = Device.synchronize
    monkeypatch.setattr(
        Device, "synchronize", lambda device, stream=None: waited_for.append(stream) or synchronize(device, stream)
    )
    library.module.IExecutionContext.on_execute = staticmethod(lambda _: False)
    slot = frames._slots[0]
    for _ in range(20):
        waited_for.clear()
        slot.forget()
        with pytest.raises(EngineError, match="failed while running"):
            frames.run(photo(16, 24))
        assert waited_for[-1] is slot._stream
    assert slot._results._made <= 2
    library.module.IExecutionContext.on_execute = None
    np.testing.assert_array_equal(frames.run(photo(16, 24))[0], good)


def test_scratch_memory_is_what_the_library_asks_for(engine: TensorRTEngine, library: Library) -> None:
    """It documents two sizes; one that refuses the smaller gets the larger, and says no word of it."""
    library.module.IExecutionContext.wants_largest_memory = True
    frame = photo(16, 24)
    frames = runner(engine, whole(16, 24), slots=1)
    first, second = frames.run(frame)[0].copy(), frames.run(frame)[0]
    np.testing.assert_array_equal(first, second)
    sizes = {context._memory[1] for context in library.module.contexts}
    assert sizes == {128 * 128 * 3 * 4}


def test_arrays_of_a_caller_that_are_not_aligned_are_copied(engine: TensorRTEngine) -> None:
    device, frame = engine.device, photo(16, 24)
    memory = device.empty((1 + 16 * 24 * 3,), np.uint8)
    arrays = {
        INPUT: memory[1:].reshape((1, 16, 24, 3)),
        OUTPUT: device.empty((5 + 32 * 48 * 3,), np.uint8)[5:].reshape((1, 32, 48, 3)),
        HEALTH: device.empty((2,), np.float32)[1:],
    }
    assert all(array.ptr % 256 for array in arrays.values())
    arrays[INPUT].numpy()[0] = frame
    stream = device.stream()
    engine.enqueue(arrays, stream=stream)
    np.testing.assert_array_equal(arrays[OUTPUT].numpy()[0], expected(engine, frame))
    assert arrays[HEALTH].numpy()[0] > 0
    replay = device.graph(functools.partial(engine.enqueue, arrays, stream=stream), stream)
    arrays[INPUT].numpy()[0] = photo(16, 24, seed=5)
    replay()
    np.testing.assert_array_equal(arrays[OUTPUT].numpy()[0], expected(engine, photo(16, 24, seed=5)))
