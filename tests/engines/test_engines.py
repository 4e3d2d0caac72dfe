from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from sr_deploy.device.gpu import GPU, Survey
from sr_deploy.engines import BACKENDS, TensorSpec, available_backends, cuda_libraries, open_engine, select_backend
from sr_deploy.engines.function import FunctionEngine
from sr_deploy.errors import BackendUnavailableError, EngineError, FeedError, UsageError
from sr_deploy.models import resolve
from tests.graphs import image_graph

ROOT = Path(__file__).parents[2]
BACKEND_NAMES = sorted(available_backends())


def image(height: int = 9, width: int = 11, channels: int = 3, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).random((batch, channels, height, width), dtype=np.float32)


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_a_backend_computes_what_the_onnx_reference_evaluator_computes(backend: str) -> None:
    model = image_graph()
    x = image(batch=2)
    expected = ReferenceEvaluator(model).run(None, {"input": x})[0]
    with open_engine(model, backend=backend) as engine:
        assert [spec.name for spec in engine.inputs] == ["input"]
        assert [spec.name for spec in engine.outputs] == ["output"]
        np.testing.assert_allclose(engine.run({"input": x})["output"], expected, atol=2e-6)


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_a_later_run_leaves_earlier_results_alone(backend: str) -> None:
    with open_engine(image_graph(), backend=backend) as engine:
        first = engine.run({"input": image()})["output"]
        kept = first.copy()
        engine.run({"input": 1 - image()})
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_threads_get_their_own_results(backend: str) -> None:
    images = [image(8 + index, 9) for index in range(8)]
    with open_engine(image_graph(), backend=backend) as engine:
        expected = [engine.run({"input": x})["output"] for x in images]
        results: list[np.ndarray | None] = [None] * len(images)

        def work(index: int) -> None:
            for _ in range(5):
                results[index] = engine.run({"input": images[index]})["output"]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(images))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "fed \\[\\], expected \\['input'\\]"),
        ({"x": image()}, "fed \\['x'\\]"),
        ({"input": image().astype(np.float64)}, "float64"),
        ({"input": image(channels=1)}, "expected input float32\\[\\?, 3, \\?, \\?\\]"),
        ({"input": image()[0]}, "\\[3, 9, 11\\]"),
    ],
)
def test_a_wrong_feed_is_refused_before_the_runtime_sees_it(feeds: dict[str, np.ndarray], message: str) -> None:
    with open_engine(image_graph()) as engine, pytest.raises(FeedError, match=message):
        engine.run(feeds)


def test_a_closed_engine_says_so() -> None:
    engine = open_engine(image_graph())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="after close"):
        engine.run({"input": image()})


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_a_graph_that_the_runtime_refuses_is_one_error_of_ours(backend: str) -> None:
    model = image_graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=f"{backend.split('-')[0]} refuses the graph"):
        open_engine(model, backend=backend)


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no backend 'tensorflow'; there are: auto, openvino, onnxruntime"):
        select_backend("tensorflow")


def test_a_backend_that_is_not_installed_tells_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sr_deploy.engines.onnxruntime as module

    def missing() -> None:
        raise ImportError("No module named 'onnxruntime'")

    monkeypatch.setattr(module, "require", missing)
    backend = next(backend for backend in BACKENDS if backend.name == "onnxruntime")
    with pytest.raises(BackendUnavailableError, match=r'pip install "sr-deploy\[onnxruntime\]"'):
        backend.usable_precisions()
    assert "onnxruntime" not in available_backends()


def test_every_line_that_installs_names_an_extra_as_every_pip_knows_it() -> None:
    """Built packages spell extras with hyphens, and pip before 23.3 finds only that; another is a warning and no package."""
    from sr_deploy.engines.tensorrt.library import FLAVOURS

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [*(backend.install for backend in BACKENDS), *(flavour.install for flavour in FLAVOURS)]
    named = {extra for line in lines for extra in re.findall(r"sr-deploy\[(.+?)\]", line)}
    assert {"cuda", "tensorrt-rtx"} <= named
    assert named <= {extra.replace("_", "-") for extra in extras}


L4 = Survey((GPU("NVIDIA L4", "8.9"),))
H200 = Survey((GPU("NVIDIA H200", "9.0"),))
BROKEN = Survey(problem="the NVIDIA driver does not work here (CUDA error 999)", remedy="check it", broken=True)


def machine(monkeypatch: pytest.MonkeyPatch, found: Survey) -> None:
    monkeypatch.setattr("sr_deploy.device.gpu.survey", lambda: found)


def fake_runtime(
    monkeypatch: pytest.MonkeyPatch, *, provider: str = "CUDAExecutionProvider", says: str = "", cuda: str = ""
) -> None:
    """An ONNX Runtime with a CUDA provider, whose sessions come up with `provider`; `cuda` is what it was built for."""
    import sr_deploy.engines.onnxruntime as module

    def session(graph: bytes, *, providers: list[str]) -> Any:
        assert graph and providers == ["CUDAExecutionProvider"]
        if says.startswith("raises"):
            raise RuntimeError(says)
        return SimpleNamespace(get_providers=lambda: [provider])

    runtime = SimpleNamespace(
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        preload_dlls=lambda *, cuda, cudnn: print(f"preloading {cuda} {cudnn}"),
        cuda_version=cuda,
        set_default_logger_severity=lambda _: None,
        InferenceSession=session,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    module._why_not_initialized.cache_clear()


@pytest.fixture(autouse=True)
def _forget_what_initialized() -> Any:
    import sr_deploy.engines.onnxruntime as module

    yield
    module._why_not_initialized.cache_clear()


def test_without_a_gpu_auto_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Survey(problem="no NVIDIA driver on this machine"))
    assert select_backend().name == "openvino"


def tensorrt(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Of TensorRT, the flavours of these names are installed; engines that are built for no GPU by name are not valid."""
    from sr_deploy.engines.tensorrt import library as tensorrt_library
    from tests.engines.tensorrt.fake_tensorrt import EngineValidity, fake_module

    def load(flavour: tensorrt_library.Flavour) -> tensorrt_library.Library:
        if flavour.name not in names:
            raise BackendUnavailableError(f"{flavour.title} cannot be loaded; install it with `{flavour.install}`")
        module = fake_module(rtx=flavour.builds_ahead)
        if flavour.builds_ahead:
            module.Runtime.get_engine_validity = lambda *_: (EngineValidity.INVALID, 0)
        return tensorrt_library.Library(flavour, module)

    monkeypatch.setattr(tensorrt_library, "load_library", load)


@pytest.mark.parametrize(
    ("found", "installed", "chosen"),
    [
        (L4, ("tensorrt", "tensorrt-rtx"), "tensorrt"),
        (L4, ("tensorrt-rtx",), "tensorrt-rtx"),
        (L4, (), "onnxruntime-cuda"),
        (H200, ("tensorrt-rtx",), "onnxruntime-cuda"),
        (H200, ("tensorrt", "tensorrt-rtx"), "tensorrt"),
    ],
)
def test_auto_takes_the_first_that_works_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, found: Survey, installed: tuple[str, ...], chosen: str
) -> None:
    pytest.importorskip("warp")
    machine(monkeypatch, found)
    fake_runtime(monkeypatch)
    tensorrt(monkeypatch, *installed)
    assert select_backend().name == select_backend(allow_cpu=True).name == chosen
    usable = available_backends()
    assert all(usable[name] == ("fp16", "fp32") for name in installed if name in usable)
    assert ("tensorrt-rtx" in usable) == ("tensorrt-rtx" in installed and found is L4)


def test_a_gpu_that_no_backend_can_use_is_never_left_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, L4)
    tensorrt(monkeypatch)
    missing = "(libcudart.so.99: cannot open shared object file"
    fake_runtime(monkeypatch, cuda="99.0")
    with pytest.raises(BackendUnavailableError) as caught:
        select_backend()
    message = str(caught.value)
    line = '`pip install "nvidia-cuda-runtime~=99.0" '
    for part in ("NVIDIA L4 (8.9)", "libcublas.so.99", missing, line, "--allow-cpu", "--backend openvino"):
        assert part in message
    assert message.count(missing) == 1 and "\n" not in message
    assert capsys.readouterr().out == ""
    assert select_backend(allow_cpu=True).name == "openvino"
    assert select_backend("openvino").name == "openvino"


def test_a_provider_that_does_not_come_up_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, L4)
    fake_runtime(monkeypatch, provider="CPUExecutionProvider")
    with pytest.raises(BackendUnavailableError, match="all of its libraries load, and it does not say why"):
        select_backend("onnxruntime-cuda")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("comes_up", [True, False])
def test_a_library_that_only_some_versions_need_is_told_when_the_provider_does_not_come_up(
    monkeypatch: pytest.MonkeyPatch, comes_up: bool
) -> None:
    machine(monkeypatch, L4)
    fake_runtime(monkeypatch, provider=f"{'CUDA' if comes_up else 'CPU'}ExecutionProvider", cuda="13.0")
    optional = cuda_libraries.SharedLibrary("libcufft.so.99", "nvidia-cufft~=99.0", needed=False)
    monkeypatch.setattr(cuda_libraries, "cuda_libraries", lambda _: (optional,))
    if comes_up:
        assert select_backend("onnxruntime-cuda").name == "onnxruntime-cuda"
        return
    with pytest.raises(BackendUnavailableError, match=r'libcufft.so.99 cannot be loaded .*`pip install "nvidia-cufft~=99.0"`'):
        select_backend("onnxruntime-cuda")


def test_a_provider_that_raises_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, L4)
    fake_runtime(monkeypatch, says="raises: CUDA failure 35\nmore")
    with pytest.raises(BackendUnavailableError, match=r"cannot initialize CUDAExecutionProvider: raises: CUDA failure 35;"):
        select_backend("onnxruntime-cuda")


def test_a_driver_that_is_broken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, BROKEN)
    with pytest.raises(BackendUnavailableError, match=r"^the NVIDIA driver does not work here .* --allow-cpu"):
        select_backend()
    assert select_backend(allow_cpu=True).device == "cpu"


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_tells_in_one_line_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reason() -> str:
        with pytest.raises(BackendUnavailableError) as caught:
            select_backend(name)
        assert name not in available_backends()
        assert str(caught.value).startswith(f"backend '{name}': ") and "\n" not in str(caught.value)
        return str(caught.value)

    machine(monkeypatch, L4)
    tensorrt(monkeypatch)
    assert reason().endswith(
        f'install it with `pip install "sr-deploy[{name}]"`; or use --backend onnxruntime-cuda or openvino'
    )
    machine(monkeypatch, Survey(problem="no NVIDIA driver on this machine", remedy="install the driver"))
    assert "no NVIDIA driver on this machine; install the driver; " in reason() and reason().endswith(
        "or use --backend openvino"
    )
    tensorrt(monkeypatch, name)
    assert "pip install" not in reason()


def test_tensorrt_for_rtx_tells_which_gpus_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, H200)
    tensorrt(monkeypatch, "tensorrt-rtx")
    with pytest.raises(
        BackendUnavailableError, match=r"does not run on NVIDIA H200 \(9\.0\), it lists 7\.5, 8\.0, .*use TensorRT"
    ):
        select_backend("tensorrt-rtx")


def test_an_fp16_graph_runs_as_it_is() -> None:
    model = image_graph(float_type=TensorProto.FLOAT16)
    x = image()
    expected = open_engine(image_graph()).run({"input": x})["output"]
    for backend in BACKEND_NAMES:
        with open_engine(model, backend=backend, precision="fp16") as engine:
            assert engine.inputs[0].dtype == np.float16
            result = engine.run({"input": x.astype(np.float16)})["output"]
            np.testing.assert_allclose(result.astype(np.float32), expected, atol=4e-3)


def test_a_function_is_an_engine() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), (-1, 3))
    with FunctionEngine(lambda x: 2 * x, [spec], [TensorSpec("y", np.dtype(np.float32), (-1, 3))]) as engine:
        x = np.ones((2, 3), np.float32)
        np.testing.assert_array_equal(engine.run({"x": x})["y"], 2 * x)
        with pytest.raises(FeedError):
            engine.run({"x": np.ones((2, 4), np.float32)})
    with (
        FunctionEngine(lambda x: x[:, :2], [spec], [spec]) as engine,
        pytest.raises(EngineError, match=r"gave float32\[2, 2\], expected x float32\[\?, 3\]"),
    ):
        engine.run({"x": np.ones((2, 3), np.float32)})


def test_settling_on_a_shape_changes_no_result() -> None:
    """Twice as many shapes as are kept, each before and after, and others in between."""
    model = image_graph(scale=2, depth=2)
    with open_engine(model, backend="openvino") as settled, open_engine(model, backend="openvino") as plain:
        shapes = [(1, 3, side, side + 3) for side in range(8, 16)]
        for shape in shapes * 2:
            settled.settle(shape)
            for feed in (np.random.default_rng(1).random(shape, dtype=np.float32), np.zeros((1, 3, 9, 9), np.float32)):
                expected = plain.run({"input": feed})["output"]
                np.testing.assert_allclose(settled.run({"input": feed})["output"], expected, atol=1e-6)


def test_a_batch_of_another_size_than_the_settled_one_runs() -> None:
    with open_engine(image_graph(scale=2), backend="openvino") as engine:
        engine.settle((1, 3, 8, 8))
        assert engine.run({"input": np.zeros((5, 3, 8, 8), np.float32)})["output"].shape == (5, 3, 16, 16)


def test_memory_stays_flat_over_many_sizes() -> None:
    """Unbounded, the CPU plugin keeps half a megabyte for each size."""

    def megabytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    sizes = iter(np.random.default_rng(0).permutation(24 * 24))
    with open_engine(onnx.load(resolve("fast-x2") / "fp32.onnx"), backend="openvino") as engine:
        (spec,) = engine.inputs
        before = 0.0
        for count, size in enumerate(itertools.islice(sizes, 220)):
            if count == 120:
                before = megabytes()
            engine.run({spec.name: np.zeros((1, 3, 8 + size // 24, 8 + size % 24), spec.dtype)})
        assert megabytes() - before < 25


BOUND = """
import os, threading, time, numpy as np
from sr_deploy.engines import open_engine
from tests.graphs import image_graph
with open_engine(image_graph(), backend="openvino", threads=1) as engine:
    feeds = {"input": np.zeros((1, 3, 512, 512), np.float32)}
    work = threading.Thread(target=lambda: [engine.run(feeds) for _ in range(20)])
    work.start()
    cores = set()
    while work.is_alive():
        for thread in os.listdir("/proc/self/task"):
            try:
                cores.add(len(os.sched_getaffinity(int(thread))))
            except ProcessLookupError:
                pass
        time.sleep(0.001)
    work.join()
print(cores == {len(os.sched_getaffinity(0))})
"""


@pytest.mark.usefixtures("all_cores")
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux binds threads")
def test_counted_threads_stay_free_of_cores() -> None:
    """Those of processes beside each other would be bound to the same core."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    done = subprocess.run([sys.executable, "-c", BOUND], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
