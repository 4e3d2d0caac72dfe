"""Engines that run on arrays where they lie, besides TensorRT's; NVIDIA Warp's CPU device stands for the GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from sr_deploy.device.device import Device, DeviceArray
from sr_deploy.device.gpu import GPU
from sr_deploy.engines import BACKENDS, Arithmetic, open_engine
from sr_deploy.engines import onnxruntime as onnxruntime_module
from sr_deploy.engines import onnxruntime_tensorrt as tensorrt_provider
from sr_deploy.engines.engine import DeviceEngine, TensorSpec
from sr_deploy.engines.function import DeviceFunctionEngine
from sr_deploy.engines.pixels import HEALTH, INPUT, OUTPUT, to_pixel_form, with_health
from sr_deploy.errors import BackendUnavailableError, EngineError, FeedError, OutOfMemoryError, UsageError
from tests.graphs import image_graph

Array = np.ndarray[Any, np.dtype[Any]]

PLANES = np.dtype(np.float32), (-1, 3, -1, -1)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARP_CACHE_PATH", str(tmp_path_factory.mktemp("warp")))
        yield Device("cpu")


def random(*shape: int) -> Array:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def doubling(cpu: Device, **options: Any) -> DeviceFunctionEngine:
    return DeviceFunctionEngine(
        lambda x: np.repeat(np.repeat(x, 2, axis=2), 2, axis=3),
        [TensorSpec("x", *PLANES)],
        [TensorSpec("y", *PLANES)],
        device=cpu,
        **options,
    )


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_a_function_runs_on_arrays_where_they_lie(cpu: Device, size: tuple[int, int]) -> None:
    source = random(2, 3, *size)
    with doubling(cpu) as engine:
        arrays = {"x": cpu.array(source), "y": cpu.empty((2, 3, 2 * size[0], 2 * size[1]), "float32")}
        engine.enqueue(arrays)
        np.testing.assert_array_equal(arrays["y"].numpy(), engine.run({"x": source})["y"])


def test_a_graph_of_a_function_runs_on_what_lies_there_now(cpu: Device) -> None:
    engine = doubling(cpu)
    assert engine.capturable and engine.contexts == 1 and not engine.limits
    source, result = cpu.array(random(1, 3, 2, 2)), cpu.empty((1, 3, 4, 4), "float32")
    replay = cpu.graph(lambda: engine.enqueue({"x": source, "y": result}), cpu.stream())
    for value in (0.25, 0.5):
        source.numpy()[...] = value
        replay()
        assert (result.numpy() == value).all()


def wrong_arrays(cpu: Device) -> Iterator[tuple[dict[str, Any], str]]:
    good = {"x": cpu.empty((1, 3, 4, 4), "float32"), "y": cpu.empty((1, 3, 8, 8), "float32")}
    yield {"x": good["x"]}, r"got arrays \['x'\], expected \['x', 'y'\]"
    yield {**good, "z": good["x"]}, "got arrays"
    yield {**good, "x": cpu.empty((1, 3, 4, 4), "float16")}, r"'x' is float16\[1, 3, 4, 4\], expected x float32"
    yield {**good, "x": cpu.empty((1, 4, 4), "float32")}, "expected x float32"
    yield {**good, "y": cpu.empty((1, 4, 8, 8), "float32")}, "expected y float32"
    yield {**good, "x": cpu.empty((1, 3, 4, 8), "float32")[:, :, :, :4]}, "without gaps"


def check_refusals(engine: DeviceEngine, cpu: Device) -> None:
    for arrays, message in wrong_arrays(cpu):
        with pytest.raises(FeedError, match=message):
            engine.enqueue(arrays)
    good = {"x": cpu.empty((1, 3, 4, 4), "float32"), "y": cpu.empty((1, 3, 8, 8), "float32")}
    engine.enqueue(good, context=engine.contexts - 1)
    with pytest.raises(FeedError, match=f"there is no context {engine.contexts}"):
        engine.enqueue(good, context=engine.contexts)
    engine.close()
    with pytest.raises(EngineError, match="after close"):
        engine.enqueue(good)


def test_a_function_refuses_wrong_arrays(cpu: Device) -> None:
    check_refusals(doubling(cpu, contexts=2), cpu)
    with pytest.raises(FeedError, match=r"gave \[1, 3, 8, 8\] for 'y' of \[1, 3, 8, 7\]"):
        doubling(cpu).enqueue({"x": cpu.empty((1, 3, 4, 4), "float32"), "y": cpu.empty((1, 3, 8, 7), "float32")})


def test_limits_hold(cpu: Device) -> None:
    engine = doubling(cpu, limits={"x": ((1, 3, 2, 2), (2, 3, 8, 8))})
    for size in ((1, 2), (9, 8)):
        arrays = {"x": cpu.empty((1, 3, *size), "float32"), "y": cpu.empty((1, 3, 2 * size[0], 2 * size[1]), "float32")}
        with pytest.raises(FeedError, match=r"from \[1, 3, 2, 2\] to \[2, 3, 8, 8\]"):
            engine.enqueue(arrays)


def on_cpu(model: ModelProto, precision: Arithmetic = "fp32") -> DeviceEngine:
    pytest.importorskip("onnxruntime")
    engine = onnxruntime_module.open(model.SerializeToString(), device="cpu", precision=precision, threads=1)
    assert engine.contexts > 1 and not engine.capturable and not engine.limits
    return engine


def outputs_for(cpu: Device, engine: DeviceEngine, feeds: dict[str, Array]) -> tuple[dict[str, DeviceArray], dict[str, Array]]:
    """Arrays for a run, outputs filled with 7, and what `run` gives."""
    expected = engine.run(feeds)
    arrays = {name: cpu.array(feed) for name, feed in feeds.items()}
    arrays |= {name: cpu.array(np.full_like(result, 7)) for name, result in expected.items()}
    return arrays, expected


@pytest.mark.parametrize("size", [(1, 1), (9, 11)])
@pytest.mark.parametrize("float_type", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("form", ["pixels", "float"])
def test_onnxruntime_runs_on_arrays_where_they_lie(cpu: Device, form: str, float_type: int, size: tuple[int, int]) -> None:
    graph = image_graph(float_type=float_type)
    noise = random(2, *size, 3)
    with on_cpu(to_pixel_form(graph) if form == "pixels" else with_health(graph)) as engine:
        (spec,) = engine.inputs
        pixels = np.round(noise * 255).astype(np.uint8)
        feed = pixels if form == "pixels" else np.ascontiguousarray(noise.transpose(0, 3, 1, 2)).astype(spec.dtype)
        assert spec.name == (INPUT if form == "pixels" else "input")
        arrays, expected = outputs_for(cpu, engine, {spec.name: feed})
        assert HEALTH in expected
        for context in range(engine.contexts):
            for name in expected:
                arrays[name].fill_(7)
            engine.enqueue(arrays, stream=cpu.stream(), context=context)
            for name, wanted in expected.items():
                np.testing.assert_array_equal(arrays[name].numpy(), wanted)


def test_runs_of_onnxruntime_overlap(cpu: Device) -> None:
    images = [(255 * random(1, 8 + index, 9, 3)).astype(np.uint8) for index in range(2)]
    with on_cpu(to_pixel_form(image_graph())) as engine:
        runs = [outputs_for(cpu, engine, {INPUT: image}) for image in images]

        def work(context: int) -> None:
            for _ in range(20):
                engine.enqueue(runs[context][0], context=context)

        threads = [threading.Thread(target=work, args=(context,)) for context in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for arrays, expected in runs:
        np.testing.assert_array_equal(arrays[OUTPUT].numpy(), expected[OUTPUT])


def test_onnxruntime_refuses_wrong_arrays(cpu: Device) -> None:
    graph = image_graph()
    for value, name in zip((*graph.graph.input, *graph.graph.output), ("x", "y"), strict=True):
        for node in graph.graph.node:
            for names in (node.input, node.output):
                names[:] = [name if one == value.name else one for one in names]
        value.name = name
    engine = on_cpu(graph)
    too_small = {"x": cpu.empty((1, 3, 4, 4), "float32"), "y": cpu.array(np.full((1, 3, 8, 7), 7, np.float32))}
    with pytest.raises(EngineError, match="onnxruntime failed while running"):
        engine.enqueue(too_small)
    assert (too_small["y"].numpy() == 7).all()
    check_refusals(engine, cpu)


class FakeRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class FakeGPU:
    """A device whose streams and events only say who waits for whom."""

    is_gpu = True

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls
        self.streams = 0

    def stream(self) -> Any:
        self.streams += 1
        return SimpleNamespace(cuda_stream=100 + self.streams)

    @contextlib.contextmanager
    def preparing(self) -> Iterator[None]:
        self.calls.append(("no recording",))
        yield
        self.calls.append(("recording again",))

    def record_event(self, stream: Any) -> tuple[str, Any]:
        return ("all of", getattr(stream, "cuda_stream", stream))

    def wait_event(self, event: tuple[str, Any], stream: Any) -> None:
        self.calls.append((getattr(stream, "cuda_stream", stream), "waits for", *event))

    def synchronize(self, stream: Any) -> None:
        self.calls.append(("host waits for", stream.cuda_stream))


class FakeSession:
    """What an ONNX Runtime with a GPU is asked for; the signatures are checked against the installed one."""

    def __init__(self, provider: str, says: str = "") -> None:
        self.provider, self.says = provider, says
        self.made: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, graph: bytes, options: Any, *, providers: list[Any], enable_fallback: int) -> FakeSession:
        assert graph
        self.made.append({"providers": providers, "enable_fallback": enable_fallback, "threads": options.intra_op_num_threads})
        session = FakeSession(self.provider, self.says)
        session.made, session.calls, session.stream = self.made, self.calls, providers[0][1].get("user_compute_stream")
        return session

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return []

    def get_providers(self) -> list[str]:
        return [self.provider, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(uint8)", shape=["n", "h", "w", 3])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float16)", shape=["n", 3, "h2", "w2"])]

    def io_binding(self) -> Any:
        bound = self.calls
        return SimpleNamespace(
            bind_input=lambda *arguments: bound.append(("in", *arguments)),
            bind_output=lambda *arguments: bound.append(("out", *arguments)),
        )

    def run_with_iobinding(self, binding: object, options: FakeRunOptions) -> None:
        assert binding and options.entries.pop("disable_synchronize_execution_providers") == "1"
        self.calls.append(("run", self.stream, *options.entries.items()))
        if self.says:
            raise RuntimeError(self.says)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession("CUDAExecutionProvider")
    options = SimpleNamespace(intra_op_num_threads=0, add_session_config_entry=lambda *_: None)
    runtime = SimpleNamespace(
        InferenceSession=session,
        SessionOptions=lambda: options,
        RunOptions=FakeRunOptions,
        cuda_version="",
        __version__="1.31.1",
        preload_dlls=lambda **_: None,
        set_default_logger_severity=lambda _: None,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return session


def opened(**options: Any) -> DeviceEngine:
    return onnxruntime_module.open(b"graph", device="cuda", precision="fp16", threads=None, **options)


@pytest.fixture
def fake_gpu(on_gpu: FakeSession, monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    device = FakeGPU(on_gpu.calls)
    monkeypatch.setattr("sr_deploy.device.device.Device", lambda _: device)
    return device


def arrays_of(cpu: Device) -> dict[str, DeviceArray]:
    return {"x": cpu.empty((1, 2, 2, 3), "uint8"), "y": cpu.empty((1, 3, 4, 4), "float16")}


@pytest.mark.usefixtures("fake_gpu")
def test_the_gpu_is_bound_by_its_number(cpu: Device, on_gpu: FakeSession) -> None:
    engine = opened(gpu=1)
    ((provider, options),) = on_gpu.made[0]["providers"]
    assert provider == "CUDAExecutionProvider" and on_gpu.made[0]["enable_fallback"] == 0
    assert (options["device_id"], options["use_tf32"]) == ("1", "0")
    arrays = arrays_of(cpu)
    engine.enqueue(arrays, stream="caller's")
    assert [call for call in on_gpu.calls if call[0] in ("in", "out")] == [
        ("in", "x", "cuda", 1, np.uint8, (1, 2, 2, 3), arrays["x"].ptr),
        ("out", "y", "cuda", 1, np.float16, (1, 3, 4, 4), arrays["y"].ptr),
    ]
    assert all(isinstance(value, str) for made in on_gpu.made for _, options in made["providers"] for value in options.values())


@pytest.mark.usefixtures("fake_gpu")
def test_a_context_has_a_session_on_a_stream_of_its_own_and_only_streams_wait(cpu: Device, on_gpu: FakeSession) -> None:
    engine = opened()
    for context, stream in ((0, "a"), (1, "b"), (0, "b")):
        engine.enqueue(arrays_of(cpu), stream=stream, context=context)
    assert [made["providers"][0][1].get("user_compute_stream") for made in on_gpu.made] == [None, "101", "102"]
    opening = apart = [("no recording",), ("recording again",)]
    assert [call for call in on_gpu.calls if call[0] not in ("in", "out")] == [
        *opening, (101, "waits for", "all of", "a"), apart[0], ("run", "101"), apart[1], ("a", "waits for", "all of", 101),
        *opening, (102, "waits for", "all of", "b"), apart[0], ("run", "102"), apart[1], ("b", "waits for", "all of", 102),
        (101, "waits for", "all of", "b"), apart[0], ("run", "101"), apart[1], ("b", "waits for", "all of", 101),
    ]  # fmt: skip
    del on_gpu.calls[:]
    engine.close()
    assert on_gpu.calls == [("host waits for", 101), ("host waits for", 102)]


@pytest.mark.usefixtures("fake_gpu")
def test_options_are_those_of_the_sessions_with_a_stream(cpu: Device, on_gpu: FakeSession) -> None:
    engine = opened(options=("prefer_nhwc", "fuse_conv_bias"))
    engine.enqueue(arrays_of(cpu))
    plain, chosen = (made["providers"][0][1] for made in on_gpu.made)
    assert chosen == {**plain, "user_compute_stream": "101", "prefer_nhwc": "1", "fuse_conv_bias": "1"}
    assert ("run", "101") in on_gpu.calls


def test_an_option_that_a_backend_does_not_have_is_refused() -> None:
    backend = next(backend for backend in BACKENDS if backend.name == "onnxruntime-cuda")
    assert backend.with_options(("prefer_nhwc",)).chosen == ("prefer_nhwc",)
    with pytest.raises(UsageError, match=r"has no option fast; there are: prefer_nhwc, fuse_conv_bias"):
        backend.with_options(("fast",))
    with pytest.raises(UsageError, match=r"takes prefer_nhwc in this order; got fuse_conv_bias"):
        backend.with_options(("fuse_conv_bias",))
    with pytest.raises(UsageError, match=r"backend 'openvino' has no option prefer_nhwc; there are: none"):
        BACKENDS[0].with_options(("prefer_nhwc",))


def test_many_threads_make_one_session_per_context(cpu: Device, on_gpu: FakeSession, fake_gpu: FakeGPU) -> None:
    engine = opened()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: engine.enqueue(arrays_of(cpu), context=number % engine.contexts), range(64)))
    assert len(on_gpu.made) == 1 + engine.contexts == 1 + fake_gpu.streams


@pytest.mark.parametrize(
    "says", ["CUDA failure 2: out of memory ; GPU=0", "CUDNN_STATUS_ALLOC_FAILED", "Failed to allocate memory"]
)
@pytest.mark.usefixtures("fake_gpu")
def test_a_full_gpu_is_out_of_memory(cpu: Device, on_gpu: FakeSession, says: str) -> None:
    on_gpu.says = says
    with pytest.raises(OutOfMemoryError, match="onnxruntime: out of memory"):
        opened().enqueue(arrays_of(cpu))


def test_a_provider_that_does_not_come_up_is_no_engine(on_gpu: FakeSession) -> None:
    on_gpu.provider = "AzureExecutionProvider"
    with pytest.raises(BackendUnavailableError, match="could not initialize CUDAExecutionProvider"):
        opened()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tensorrt_provider, "default_folder", lambda: tmp_path / "engines")
    monkeypatch.setattr(tensorrt_provider, "find_gpus", lambda: (GPU("NVIDIA L4", "8.9"), GPU("NVIDIA H200", "9.0")))
    return tmp_path / "onnxruntime-tensorrt"


def test_the_tensorrt_provider_keeps_engines_of_each_graph_and_gpu_apart(on_gpu: FakeSession, cache: Path) -> None:
    """Its own names for engines do not tell graphs apart that differ in their weights alone."""
    on_gpu.provider = "TensorrtExecutionProvider"
    folders = []
    for graph, gpu in [(b"graph", 0), (b"graph", 0), (b"other weights", 0), (b"graph", 1)]:
        engine = tensorrt_provider.open(graph, device="cuda", precision="fp16", threads=None, gpu=gpu)
        assert engine.description == "onnxruntime tensorrt fp16"
        (name, options), (fallback, cuda) = on_gpu.made[-1]["providers"]
        assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        assert options["device_id"] == cuda["device_id"] == str(gpu)
        assert options["trt_engine_cache_enable"] == "1"
        folders.append(Path(options["trt_engine_cache_path"]))
    assert all(folder.is_dir() and folder.parent == cache for folder in folders)
    assert folders[0] == folders[1] and len(set(folders)) == 3


@pytest.mark.usefixtures("cache", "fake_gpu")
def test_both_providers_of_a_context_are_on_its_stream(cpu: Device, on_gpu: FakeSession) -> None:
    on_gpu.provider = "TensorrtExecutionProvider"
    engine = tensorrt_provider.open(b"graph", device="cuda", precision="fp16", threads=None)
    engine.enqueue(arrays_of(cpu))
    assert [[options.get("user_compute_stream") for _, options in made["providers"]] for made in on_gpu.made] == [
        [None, None],
        ["101", "101"],
    ]


def test_a_folder_for_engines_that_cannot_be_made_is_one_error(on_gpu: FakeSession, cache: Path) -> None:
    assert on_gpu
    cache.write_bytes(b"")
    with pytest.raises(EngineError, match=r"onnxruntime-tensorrt/[0-9a-f]{16}: cannot be made for engines"):
        tensorrt_provider.open(b"graph", device="cuda", precision="fp16", threads=None)


def test_without_the_tensorrt_provider_the_reason_is_told() -> None:
    pytest.importorskip("onnxruntime")
    tensorrt_provider.require()
    with pytest.raises(BackendUnavailableError, match=r"has no (CUDA|Tensorrt)ExecutionProvider|cannot initialize"):
        tensorrt_provider.usable_precisions("cuda")


def test_the_installed_onnxruntime_takes_these_arguments() -> None:
    """The fake stands for it: a session without fallback, providers with options, buffers bound by position."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with open_engine(image_graph(), backend="onnxruntime") as engine:
        assert isinstance(engine, DeviceEngine)
    session = onnxruntime.InferenceSession(
        image_graph().SerializeToString(), providers=[("CPUExecutionProvider", {})], enable_fallback=0
    )
    assert session._enable_fallback is False
    binding = session.io_binding()
    source = random(1, 3, 2, 2)
    binding.bind_input("input", "cpu", 0, np.float32, source.shape, source.ctypes.data)
    binding.bind_output("output", "cpu", 0, np.float32, (1, 3, 4, 4), source.ctypes.data)
