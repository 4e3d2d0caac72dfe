"""Engines of both flavours, run on a fake of their interface that computes on the CPU, at the addresses that it is given."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from sr_deploy.arrays import Array
from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.engines import open_engine
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, to_pixel_form, with_health
from sr_deploy.engines.tensorrt.compile import compile_engine
from sr_deploy.engines.tensorrt.engine import TensorRTEngine
from sr_deploy.engines.tensorrt.library import TENSORRT, TENSORRT_RTX, Library
from sr_deploy.errors import EngineError, FeedError, OutOfMemoryError
from tests.engines.tensorrt.fake_tensorrt import DynamicShapesKernelSpecializationStrategy, Severity, fake_module, serialized
from tests.graphs import image_graph

Open = Callable[..., TensorRTEngine]
LEAST, LARGEST = (1, 4, 4, 3), (2, 64, 64, 3)


@pytest.fixture
def rtx() -> Library:
    return Library(TENSORRT_RTX, fake_module(rtx=True))


@pytest.fixture(scope="module")
def graph() -> Any:
    return to_pixel_form(image_graph(), cast_last=True)


@pytest.fixture
def build(library: Library, graph: Any) -> Callable[[], bytes]:
    return lambda: built(graph, library, INPUT, LEAST, (1, 16, 16, 3), LARGEST)


def built(graph: Any, library: Library, name: str, *shapes: tuple[int, ...]) -> bytes:
    capabilities = ("8.9",) if library.flavour.builds_ahead else ()
    return compile_engine(graph, library, shapes={name: shapes}, capabilities=capabilities).engine  # type: ignore[dict-item]


@pytest.fixture
def engine(build: Callable[[], bytes], library: Library, device: Device) -> Any:
    with TensorRTEngine(build(), library, device) as opened:
        yield opened


def image(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(graph: Any) -> Callable[[Array], dict[str, Array]]:
    reference = open_engine(graph, backend="onnxruntime")
    return lambda pixels: reference.run({INPUT: pixels})


def arrays_for(device: Device, pixels: Array) -> dict[str, DeviceArray]:
    batch, height, width, _ = pixels.shape
    return {
        INPUT: device.array(pixels),
        OUTPUT: device.empty((batch, 2 * height, 2 * width, 3), "uint8"),
        HEALTH: device.empty((batch,), "float32"),
    }


def test_what_an_engine_tells_of_itself(engine: TensorRTEngine, library: Library) -> None:
    assert [str(spec) for spec in engine.inputs] == ["pixels uint8[?, ?, ?, 3]"]
    assert [str(spec) for spec in engine.outputs] == ["upscaled uint8[?, ?, ?, 3]", "health float32[?]"]
    assert engine.limits == {INPUT: (LEAST, LARGEST)}
    assert engine.description == library.flavour.name and engine.contexts == 8


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (1, 17, 5, 3), (2, 64, 64, 3)])
def test_arrays_of_the_host(
    engine: TensorRTEngine, expected: Callable[[Array], dict[str, Array]], shape: tuple[int, ...]
) -> None:
    pixels = image(*shape)
    results = engine.run({INPUT: pixels})
    for name, array in expected(pixels).items():
        np.testing.assert_array_equal(results[name], array)
        assert results[name].dtype == array.dtype


def test_results_are_the_callers_own(engine: TensorRTEngine, expected: Callable[[Array], dict[str, Array]]) -> None:
    first, second = image(1, 8, 8, 3), image(1, 8, 8, 3, seed=1)
    results = engine.run({INPUT: first})
    kept = {name: array.copy() for name, array in results.items()}
    results[OUTPUT] += 1
    again = engine.run({INPUT: second})
    np.testing.assert_array_equal(again[OUTPUT], expected(second)[OUTPUT])
    np.testing.assert_array_equal(results[OUTPUT], kept[OUTPUT] + 1)
    assert results[OUTPUT].flags.owndata and results[OUTPUT].flags.writeable


def test_arrays_of_the_device(engine: TensorRTEngine, device: Device, expected: Callable[[Array], dict[str, Array]]) -> None:
    pixels = image(2, 9, 30, 3)
    arrays = arrays_for(device, pixels)
    pointers = {name: array.ptr for name, array in arrays.items()}
    engine.enqueue(arrays)
    for name, array in expected(pixels).items():
        np.testing.assert_array_equal(arrays[name].numpy(), array)
    assert {name: array.ptr for name, array in arrays.items()} == pointers


def test_contexts_are_made_when_used_and_keep_to_themselves(
    engine: TensorRTEngine, library: Library, device: Device, expected: Callable[[Array], dict[str, Array]]
) -> None:
    assert library.module.contexts == []
    sizes = [(8, 8), (12, 20), (8, 8), (5, 7)]
    failures: list[BaseException] = []

    def work(context: int) -> None:
        try:
            for turn in range(6):
                pixels = image(1, *sizes[context], 3, seed=10 * context + turn)
                arrays = arrays_for(device, pixels)
                engine.enqueue(arrays, context=context)
                np.testing.assert_array_equal(arrays[OUTPUT].numpy(), expected(pixels)[OUTPUT])
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(context,)) for context in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        engine.run({INPUT: image(1, 6, 6, 3)})
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(library.module.contexts) == 5
    assert {context._memory[0] for context in library.module.contexts if context._memory[0]} != {0}
    assert len({context._memory[0] for context in library.module.contexts}) == 5


def test_runs_of_one_context_wait_for_each_other(
    engine: TensorRTEngine, library: Library, device: Device, expected: Callable[[Array], dict[str, Array]]
) -> None:
    library.module.IExecutionContext.on_execute = staticmethod(lambda _: time.sleep(0.001) is None)

    def work(seed: int) -> bool:
        pixels = image(1, 8 + 4 * (seed % 2), 8 + seed % 3, 3, seed=seed)
        arrays = arrays_for(device, pixels)
        engine.enqueue(arrays)
        return np.array_equal(arrays[OUTPUT].numpy(), expected(pixels)[OUTPUT])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    assert len(library.module.contexts) == 1


def test_another_stream_waits_for_the_last_one(
    engine: TensorRTEngine, library: Library, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: who waits for whom, and nothing more."""
    waited_for: list[Any] = []
    monkeypatch.setattr(Device, "synchronize", lambda _, stream=None: waited_for.append(stream))
    first, same, other = SimpleNamespace(cuda_stream=7), SimpleNamespace(cuda_stream=7), SimpleNamespace(cuda_stream=8)
    arrays = arrays_for(device, image(1, 8, 8, 3))
    engine.enqueue(arrays, stream=first)
    waited_for.clear()
    engine.enqueue(arrays, stream=same)
    assert waited_for == []
    engine.enqueue(arrays, stream=other)
    engine.enqueue(arrays, stream=other)
    assert waited_for == [same]
    assert library.module.contexts[0]._streams == [7, 7, 8, 8]


def test_shapes_are_set_when_they_change_and_scratch_memory_grows_only(
    engine: TensorRTEngine, library: Library, device: Device
) -> None:
    memories = []
    for height, width in [(8, 8), (8, 8), (16, 16), (8, 8), (16, 16)]:
        engine.enqueue(arrays_for(device, image(1, height, width, 3)))
        memories.append(library.module.contexts[0]._memory)
    assert library.module.contexts[0]._shapes_set == 4
    assert memories[0] == memories[1] and memories[2] == memories[3] == memories[4]
    assert memories[2][1] == 16 * 16 * 3


@pytest.mark.parametrize("float_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_the_float_form(library: Library, device: Device, float_type: int) -> None:
    form = with_health(image_graph(float_type=float_type, channels=1))
    contents = built(form, library, "input", (1, 1, 8, 8), (1, 1, 8, 8), (1, 1, 8, 8))
    values = np.random.default_rng(0).random((1, 1, 8, 8)).astype(np.float16 if float_type == TensorProto.FLOAT16 else "f4")
    with TensorRTEngine(contents, library, device) as engine, open_engine(form, backend="onnxruntime") as reference:
        assert engine.inputs[0].shape == (1, 1, 8, 8)
        for name, array in reference.run({"input": values}).items():
            np.testing.assert_array_equal(engine.run({"input": values})[name], array)
        with pytest.raises(FeedError, match=r"expected input float"):
            engine.run({"input": values[:, :, :4]})


def test_sizes_outside_the_engine_are_refused_before_the_library_sees_them(engine: TensorRTEngine, device: Device) -> None:
    with pytest.raises(FeedError, match=r"\[1, 65, 64, 3\], expected \[1, 4, 4, 3\] to \[2, 64, 64, 3\].*`sr-deploy build`"):
        engine.run({INPUT: image(1, 65, 64, 3)})
    with pytest.raises(FeedError, match=r"from \[1, 4, 4, 3\]"):
        engine.enqueue(arrays_for(device, image(1, 3, 8, 3)))
    with pytest.raises(FeedError, match="no context 8"):
        engine.enqueue(arrays_for(device, image(1, 8, 8, 3)), context=8)


def test_results_of_another_size_are_never_written(engine: TensorRTEngine, device: Device) -> None:
    arrays = arrays_for(device, image(1, 8, 8, 3))
    arrays[OUTPUT] = device.empty((1, 16, 15, 3), "uint8")
    with pytest.raises(FeedError, match=r"gives \[1, 16, 16, 3\] for 'upscaled', not \[1, 16, 15, 3\]"):
        engine.enqueue(arrays)


def test_kernels_are_made_at_once_and_a_graph_can_record_them(rtx: Library, graph: Any, device: Device) -> None:
    with TensorRTEngine(built(graph, rtx, INPUT, LEAST, (1, 16, 16, 3), LARGEST), rtx, device) as engine:
        assert engine.capturable
        engine.enqueue(arrays_for(device, image(1, 8, 8, 3)))
        assert engine.capturable
    assert rtx.module.contexts[0]._config._specialization == DynamicShapesKernelSpecializationStrategy.EAGER


def test_an_engine_that_no_graph_can_record_says_so_after_a_run(rtx: Library, graph: Any, device: Device) -> None:
    shapes = {INPUT: [list(LEAST), [1, 16, 16, 3], list(LARGEST)]}
    contents = serialized(graph.SerializeToString(), shapes, user_allocation=False)
    with TensorRTEngine(contents, rtx, device) as engine:
        engine.run({INPUT: image(1, 8, 8, 3)})
        assert not engine.capturable


def test_tensorrt_itself_is_never_asked(graph: Any, device: Device) -> None:
    library = Library(TENSORRT, fake_module(rtx=False))
    with TensorRTEngine(built(graph, library, INPUT, LEAST, (1, 16, 16, 3), LARGEST), library, device) as engine:
        engine.run({INPUT: image(1, 8, 8, 3)})
        assert engine.capturable


def test_the_last_words_of_the_library_are_told(
    engine: TensorRTEngine, library: Library, device: Device, expected: Callable[[Array], dict[str, Array]]
) -> None:
    def fail(context: Any) -> bool:
        context._engine._logger.log(Severity.ERROR, "IExecutionContext::enqueueV3: illegal memory access")
        return False

    pixels = image(1, 8, 8, 3)
    library.module.IExecutionContext.on_execute = staticmethod(fail)
    for run in (lambda: engine.run({INPUT: pixels}), lambda: engine.enqueue(arrays_for(device, pixels))):
        with pytest.raises(EngineError, match=r"failed while running: IExecutionContext::enqueueV3: illegal memory access"):
            run()
    library.module.IExecutionContext.on_execute = None
    np.testing.assert_array_equal(engine.run({INPUT: pixels})[OUTPUT], expected(pixels)[OUTPUT])


def test_memory_that_runs_out(engine: TensorRTEngine, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: Any) -> bool:
        context._engine._logger.log(Severity.ERROR, "CUDA error 2 (out of memory)")
        return False

    monkeypatch.setattr(library.module.IExecutionContext, "on_execute", staticmethod(fail))
    with pytest.raises(OutOfMemoryError, match="smaller"):
        engine.run({INPUT: image(1, 8, 8, 3)})
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OutOfMemoryError("none left")

    monkeypatch.setattr(Device, "empty", full)
    with pytest.raises(OutOfMemoryError, match="none left"):
        engine.run({INPUT: image(1, 30, 30, 3)})
    monkeypatch.undo()
    engine.run({INPUT: image(1, 30, 30, 3)})


def test_an_engine_that_does_not_load(library: Library, device: Device) -> None:
    with pytest.raises(EngineError, match=r"does not load the engine: magic tag does not match"):
        TensorRTEngine(b"garbage", library, device)


def test_closing_lets_contexts_go_before_the_engine_and_the_engine_before_the_runtime(
    build: Callable[[], bytes], library: Library, device: Device
) -> None:
    engine = TensorRTEngine(build(), library, device)
    engine.run({INPUT: image(1, 8, 8, 3)})
    engine.enqueue(arrays_for(device, image(1, 8, 8, 3)))
    gone: list[str] = []
    for context in library.module.contexts:
        weakref.finalize(context, gone.append, "context")
    weakref.finalize(engine._engine, gone.append, "engine")
    weakref.finalize(engine._runtime, gone.append, "runtime")
    library.module.contexts.clear()
    del context
    engine.close()
    engine.close()
    gc.collect()
    assert gone == ["context", "context", "engine", "runtime"]
    for run in (lambda: engine.run({INPUT: image(1, 8, 8, 3)}), lambda: engine.enqueue({})):
        with pytest.raises(EngineError, match="run after close"):
            run()


def test_compiled_kernels_are_kept_beside_the_engine(rtx: Library, graph: Any, device: Device, tmp_path: Path) -> None:
    contents = built(graph, rtx, INPUT, LEAST, (1, 16, 16, 3), LARGEST)
    path = tmp_path / "é [1].kernels"

    def kernels_after(height: int) -> set[str]:
        with TensorRTEngine(contents, rtx, device, kernels=path) as engine:
            for side in (height, 30, height):
                engine.run({INPUT: image(1, side, 8, 3)})
            cache = rtx.module.contexts[-1]._config._cache
            assert path.read_bytes() == cache.serialize()
            return set(cache._kernels)

    assert len(kernels_after(8)) == 2
    assert len(kernels_after(9)) == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    rtx.module.IRuntimeCache.environment = b"another GPU "
    assert len(kernels_after(8)) == 2


def test_kernels_are_saved_once_per_shape(
    rtx: Library, graph: Any, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[bytes] = []
    serialize = rtx.module.IRuntimeCache.serialize
    monkeypatch.setattr(rtx.module.IRuntimeCache, "serialize", lambda cache: saved.append(serialize(cache)) or saved[-1])
    contents = built(graph, rtx, INPUT, LEAST, (1, 16, 16, 3), LARGEST)
    with TensorRTEngine(contents, rtx, device, kernels=tmp_path / "x.kernels") as engine:
        for side in (8, 8, 9, 8, 9, 9):
            engine.run({INPUT: image(1, side, 8, 3)})
    assert len(saved) == 2


def test_kernels_that_cannot_be_kept_fail_no_run(
    rtx: Library, graph: Any, device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = built(graph, rtx, INPUT, LEAST, (1, 16, 16, 3), LARGEST)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "x.kernels", tmp_path / "folder"):
        caplog.clear()
        with TensorRTEngine(contents, rtx, device, kernels=path) as engine:
            engine.run({INPUT: image(1, 8, 8, 3)})
        assert "compiled kernels are not kept" in caplog.text
