"""What is told of nodes that run on the CPU; a session of ONNX Runtime's CPU provider has all of them there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sr_deploy.engines import onnxruntime as onnxruntime_module
from sr_deploy.engines.placement import stray_nodes, warn_of_strays
from sr_deploy.errors import warn_once
from tests.graphs import image_graph

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _forget_warnings() -> Iterator[None]:
    warn_once.cache_clear()
    yield
    warn_once.cache_clear()


def resized() -> ModelProto:
    """A resize to twice the size that is computed in the graph, as torch exports it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"], name="relu"),
        helper.make_node("Shape", ["positive"], ["size"], name="shape", start=2, end=4),
        helper.make_node("Mul", ["size", "two"], ["large_size"], name="double"),
        helper.make_node("Concat", ["batch", "large_size"], ["sizes"], name="concat", axis=0),
        helper.make_node("Resize", ["positive", "", "", "sizes"], ["y"], name="resize", mode="linear"),
    ]
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in (("two", [2]), ("batch", [1, 3]))]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, "h", "w"])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 3, "h2", "w2"])
    graph = helper.make_graph(nodes, "resized", [source], [target], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


NODES = [(node.name, node.op_type) for node in resized().graph.node]


def test_shape_arithmetic_is_no_stray_and_bytes_are_those_of_the_arrays() -> None:
    model = resized()
    for name in ("positive", "sizes"):
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    frame = np.zeros((1, 3, 540, 960), np.float16)
    y, positive, sizes = session.run(None, {"x": frame})
    strays = stray_nodes(resized().SerializeToString(), NODES)
    assert strays == [
        ("relu (Relu)", frame.nbytes + positive.nbytes),
        ("resize (Resize)", positive.nbytes + sizes.nbytes + y.nbytes),
    ]


def test_frames_in_bytes_have_their_channels_last() -> None:
    source, target = (helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", "h", "w", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], name="copy")], "g", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    assert stray_nodes(model.SerializeToString(), [("copy", "Identity")]) == [("copy (Identity)", 2 * 540 * 960 * 3)]


def test_a_node_that_the_runtime_made_is_no_stray() -> None:
    assert stray_nodes(resized().SerializeToString(), [("concat", "Concat"), ("Gather", "Gather")]) == []
    assert stray_nodes(b"never read", []) == []


def test_nodes_without_names_are_told_by_their_outputs_unless_one_alike_is_shape_arithmetic() -> None:
    model = resized()
    for node in model.graph.node:
        node.ClearField("name")
    unnamed = [("", operator) for _, operator in NODES]
    assert [name for name, _ in stray_nodes(model.SerializeToString(), unnamed)] == ["positive (Relu)", "y (Resize)"]
    model.graph.node.insert(1, helper.make_node("Relu", ["two"], ["still two"]))
    assert [name for name, _ in stray_nodes(model.SerializeToString(), unnamed)] == ["y (Resize)"]


def session_of(model: ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_what_a_real_session_runs_on_the_cpu_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    model = resized()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            warn_of_strays(model.SerializeToString(), session_of(model), "engine", "1.31.1")
    (record,) = caplog.records
    assert record.getMessage().startswith("engine: runs on the CPU: relu (Relu), resize (Resize); ")
    assert "concat" not in record.getMessage() and 'pip install -U "sr-deploy[cuda]"' in record.getMessage()


def test_many_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = image_graph(depth=9)
    warn_of_strays(model.SerializeToString(), session_of(model), "engine", "1.31.1")
    assert "conv0 (Conv), conv1 (Conv), conv2 (Conv), conv3 (Conv) and 8 more" in caplog.text


@pytest.mark.parametrize(("version", "is_old"), [("1.9.0", True), ("1.24.4", True), ("1.25.0", False), ("1.31.1+cu13", False)])
def test_a_version_that_cannot_resize_on_a_gpu_is_told(version: str, is_old: bool, caplog: pytest.LogCaptureFixture) -> None:
    session = SimpleNamespace(get_provider_graph_assignment_info=list)
    warn_of_strays(b"", session, "engine", version)
    assert (f"engine: ONNX Runtime {version} runs the Resize of opset 19 and 20 on the CPU; install" in caplog.text) == is_old


@pytest.mark.parametrize(("provider", "told"), [("CPUExecutionProvider", False), ("CUDAExecutionProvider", True)])
def test_sessions_on_a_gpu_are_looked_at(
    provider: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider is the CPU's under the other's name: no machine of the tests has a GPU."""
    session = onnxruntime.InferenceSession

    class Renamed(session):  # type: ignore[misc,valid-type]
        def __init__(self, graph: bytes, options: Any, **_: Any) -> None:
            super().__init__(graph, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [provider]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Renamed)
    graph = resized().SerializeToString()
    onnxruntime_module.open_session(graph, [(provider, {})], precision="fp16", threads=1)
    assert ("resize (Resize)" in caplog.text) == told
