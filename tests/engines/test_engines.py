from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from sr_deploy.engines import BACKENDS, TensorSpec, available_backends, open_engine, select_backend
from sr_deploy.engines.function import FunctionEngine
from sr_deploy.errors import BackendUnavailableError, EngineError, FeedError, UsageError
from tests.graphs import image_graph

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
