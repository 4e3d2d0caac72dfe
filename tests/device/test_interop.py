"""Arrays and streams of other libraries: torch for real on the CPU, the others by objects that carry their interfaces."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import inspect
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sr_deploy.device.device import Device, load_warp, to_pycuda
from sr_deploy.device.streams import stream_handle
from sr_deploy.errors import FeedError, MissingDependencyError, UsageError
from tests.device.test_device import OnGPU


@pytest.fixture(scope="module")
def cpu() -> Device:
    if importlib.util.find_spec("warp") is None:
        pytest.skip("NVIDIA Warp is not installed")
    return Device("cpu")


class CudaStream:
    """Carries `__cuda_stream__`, as cuda-core's and Warp's streams do, and a handle that must not be taken."""

    handle = object()

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, 11)


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (7, 7),
        (0, 0),
        (np.uint64(2**47), 2**47),
        (CudaStream(), 11),
        (SimpleNamespace(__cuda_stream__=(0, 12)), 12),
        (SimpleNamespace(cuda_stream=13), 13),
        (SimpleNamespace(ptr=14), 14),
        (SimpleNamespace(handle=15), 15),
        (SimpleNamespace(handle=ctypes.c_void_p(16)), 16),
        (SimpleNamespace(handle=ctypes.c_void_p(0)), 0),
    ],
    ids=["int", "default", "numpy", "protocol", "protocol as a value", "torch", "CuPy", "PyCUDA", "Numba", "Numba's default"],
)
def test_streams_of_every_library_are_read(stream: object, handle: int) -> None:
    assert stream_handle(stream) == handle


@pytest.mark.parametrize("stream", [None, "7", 7.0, object(), SimpleNamespace(ptr=None)])
def test_what_is_no_stream_is_refused(stream: object) -> None:
    with pytest.raises(UsageError, match="is no CUDA stream; expected one of torch"):
        stream_handle(stream)


def test_on_the_cpu_there_is_one_stream_and_nothing_to_wait_for(cpu: Device) -> None:
    stream = cpu.stream(SimpleNamespace(cuda_stream=13))
    assert stream is None
    cpu.wait_event(cpu.record_event(stream), stream)
    cpu.synchronize(stream)


def test_tensors_of_torch_are_read_where_they_lie(cpu: Device) -> None:
    torch = pytest.importorskip("torch")
    planar = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    array = cpu.array(planar.permute(1, 2, 0))
    assert array.ptr == planar.data_ptr() and array.shape == (3, 4, 2)
    planar[1, 2, 3] = -1
    assert array.numpy()[2, 3, 1] == -1
    for wrong in (planar.double(), planar.bfloat16(), planar.clone().requires_grad_()):
        with pytest.raises(FeedError, match="a Tensor cannot be read as an array"):
            cpu.array(wrong)


def test_torch_reads_arrays_where_they_lie_and_keeps_them(cpu: Device) -> None:
    torch = pytest.importorskip("torch")
    source = np.arange(12, dtype=np.uint8).reshape(3, 4)
    gone = weakref.ref(source)
    tensor = torch.from_dlpack(cpu.array(source))
    assert tensor.data_ptr() == source.ctypes.data and tensor.dtype == torch.uint8
    tensor[1, 1] = 99
    assert source[1, 1] == 99
    del source
    gc.collect()
    assert gone() is not None and tensor.sum() == 66 - 5 + 99
    del tensor
    gc.collect()
    assert gone() is None


def test_there_and_back_through_torch_is_the_same_memory(cpu: Device) -> None:
    torch = pytest.importorskip("torch")
    array = cpu.empty((2, 3), "float16")
    array.fill_(0.5)
    back = cpu.array(torch.from_dlpack(array).T)
    assert back.ptr == array.ptr and back.shape == (3, 2)
    del array
    gc.collect()
    assert (back.numpy() == 0.5).all()


class Tensor(OnGPU):
    """Carries both interfaces, as torch's and CuPy's arrays on a GPU do."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


@pytest.fixture
def warp_on_gpu(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Warp as `Device` calls it on a GPU; the CPU device stands for it."""
    assert not cpu.is_gpu
    monkeypatch.setattr(Device, "is_gpu", True)
    return load_warp()


def test_what_has_both_interfaces_is_read_in_the_order_of_its_stream(
    cpu: Device, warp_on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer is told our stream; nobody's current stream changes on the way."""
    asked: list[int] = []
    given = warp_on_gpu.zeros((2, 3), dtype=warp_on_gpu.uint8, device="cpu")
    monkeypatch.setattr(warp_on_gpu, "ScopedStream", None)
    monkeypatch.setattr(warp_on_gpu, "from_dlpack", {"capsule": given}.__getitem__)
    monkeypatch.setattr(Tensor, "__dlpack__", lambda _, stream: asked.append(stream) or "capsule", raising=False)
    assert cpu.array(Tensor(np.zeros((2, 3), np.uint8)), stream=CudaStream()) is given
    assert cpu.array(Tensor(np.zeros((2, 3), np.uint8)), stream=SimpleNamespace(cuda_stream=0)) is given
    assert asked == [CudaStream().__cuda_stream__()[1], 1]  # of no number is the legacy default stream: 1 in DLPack
    monkeypatch.setattr(warp_on_gpu, "from_dlpack", lambda _: warp_on_gpu.zeros(3, dtype=warp_on_gpu.int64, device="cpu"))
    with pytest.raises(FeedError, match="its dtype is int64"):
        cpu.array(Tensor(np.zeros((2, 3), np.uint8)), stream=CudaStream())


class GPUArray:
    """What `to_pycuda` asks of PyCUDA's: arguments by the same names, and `base` kept."""

    def __init__(
        self,
        shape: Any,
        dtype: Any,
        allocator: object = None,
        base: object = None,
        gpudata: Any = None,
        strides: Any = None,
        order: str = "C",
    ) -> None:
        self.shape, self.dtype, self.strides, self.gpudata, self.base = shape, dtype, strides, gpudata, base
        assert allocator is None and order == "C"


@pytest.fixture
def _pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(GPUArray=GPUArray)
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(gpuarray=module))
    monkeypatch.setitem(sys.modules, "pycuda.gpuarray", module)


@pytest.mark.usefixtures("_pycuda")
def test_pycuda_gets_the_memory_and_keeps_it() -> None:
    memory = np.zeros((4, 6, 3), np.float16)[:, ::2]
    array = OnGPU(memory, strides=memory.strides)
    gone = weakref.ref(array)
    result = to_pycuda(array)
    assert (result.shape, result.dtype, result.strides) == ((4, 3, 3), np.float16, memory.strides)
    assert result.gpudata == memory.ctypes.data and type(result.gpudata) is int
    del array
    gc.collect()
    assert gone() is not None
    del result
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("_pycuda")
def test_pycuda_gets_no_memory_of_the_host(cpu: Device) -> None:
    with pytest.raises(FeedError, match="on the CPU is no array of PyCUDA's"):
        to_pycuda(cpu.empty((1, 2), "uint8"))


def test_without_pycuda_the_error_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.gpuarray", None)
    with pytest.raises(MissingDependencyError, match="pip install pycuda"):
        to_pycuda(OnGPU(np.zeros((2, 3), np.uint8)))


def test_a_graph_records_once_and_is_launched_on_its_stream(
    cpu: Device, warp_on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []

    @contextlib.contextmanager
    def capture(*, stream: object) -> Iterator[Any]:
        events.append(("begin", stream))
        yield SimpleNamespace(graph="graph")
        events.append("end")

    def launch(graph: object, *, stream: object) -> None:
        events.append((graph, stream))

    monkeypatch.setattr(warp_on_gpu, "ScopedCapture", capture)
    monkeypatch.setattr(warp_on_gpu, "capture_launch", launch)

    class Work:
        def __call__(self) -> None:
            events.append("recorded")

    work = Work()
    kept = weakref.ref(work)
    replay = cpu.graph(work, "stream")
    del work
    gc.collect()
    replay()
    replay()
    assert events == [("begin", "stream"), "recorded", "end", ("graph", "stream"), ("graph", "stream")]
    assert kept() is not None


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("call", "arguments", "names"),
    [
        (lambda wp: wp.ScopedCapture, (), {"stream": 0}),
        (lambda wp: wp.Stream, (0,), {"cuda_stream": 0}),
        (lambda wp: wp.Stream.record_event, (0,), {}),
        (lambda wp: wp.Stream.wait_event, (0, 0), {}),
        (lambda wp: wp.Stream.wait_stream, (0, 0), {}),
        (lambda wp: wp.capture_launch, (0,), {"stream": 0}),
        (lambda wp: wp.synchronize_stream, (0,), {}),
        (lambda wp: wp.from_dlpack, (0,), {}),
        (lambda wp: wp.copy, (0, 0), {"stream": 0}),
        (lambda wp: wp.launch, (0,), {"dim": 0, "inputs": 0, "device": 0, "stream": 0}),
        (lambda wp: wp.empty, (0,), {"dtype": 0, "device": 0, "pinned": 0}),
        (lambda wp: wp.array, (), {"ptr": 0, "shape": 0, "strides": 0, "dtype": 0, "device": 0, "deleter": 0}),
        (lambda wp: wp.is_mempool_enabled, (0,), {}),
        (lambda wp: wp.get_mempool_release_threshold, (0,), {}),
        (lambda wp: wp.set_mempool_release_threshold, (0, 0), {}),
        (lambda wp: wp.compile_aot_module, (0,), {"arch": 0, "module_dir": 0, "use_ptx": 0}),
    ],
)
def test_warp_takes_every_argument_that_only_a_gpu_needs(
    call: Callable[[Any], Any], arguments: tuple[int, ...], names: dict[str, int]
) -> None:
    inspect.signature(call(load_warp())).bind(*arguments, **names)


def test_warp_reads_the_handle_of_a_caller_s_stream() -> None:
    """`Stream` takes it among its other keywords."""
    pytest.importorskip("warp")
    assert 'kwargs["cuda_stream"]' in inspect.getsource(load_warp().Stream.__init__)
    assert callable(load_warp().Stream.__cuda_stream__)


def blocks() -> list[str]:
    page = Path(__file__).parents[2] / "docs" / "embedding.md"
    return re.findall(r"```python\n(.+?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", blocks())
def test_the_code_of_the_page_on_embedding_calls_what_there_is(block: str) -> None:
    from sr_deploy import Upscaler

    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sr_deploy"):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "on_device":
            names = {keyword.arg or "": 0 for keyword in node.keywords}
            inspect.signature(Upscaler.on_device).bind(0, *(0 for _ in node.args), **names)
